"""TimeRCD: published size, equality with a plain dense implementation, padding, any length, bad input, conversion both ways."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.timeseries import TimeRCD
from tokenizers_mm.timeseries.convert.timercd import convert_timercd, from_published, to_published
from tokenizers_mm.timeseries.timercd_encoder import VariateAttention, rotary
from tokenizers_mm.timeseries.windows import standardise, starts

TINY = {"dim": 32, "step_dim": 8, "layers": 2, "heads": 4, "window": 64}


@pytest.fixture
def model() -> TimeRCD:
    return TimeRCD(**TINY).eval()


@pytest.fixture
def multi() -> TimeRCD:
    return TimeRCD(**TINY, multivariate=True).eval()


def test_the_default_has_the_published_size() -> None:
    with torch.device("meta"):
        one, several = TimeRCD(), TimeRCD(multivariate=True)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in one.named_children()}
    assert sizes == {
        "encoder": 35_709_440 - 2_101_248,
        "project": 2_101_248,
        "anomaly_head": 33_154,
        "reconstruction_head": 1_313_793,
    }
    assert sum(sizes.values()) == 37_056_387
    assert sum(p.numel() for p in several.parameters()) == 37_056_387 + 128


def dense(layer: VariateAttention, h: Tensor, places: Tensor, usable: Tensor, variates: Tensor) -> Tensor:
    """Attention written out: complex rotation, a whole matrix of biases."""
    size, length, dim = h.shape
    turn = torch.polar(torch.ones(length, dim // 2), places[:, None] / 10_000 ** (torch.arange(0, dim, 2) / dim))

    def rotated(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.reshape(size, length, -1, 2)) * turn).flatten(-2)

    def heads(x: Tensor) -> Tensor:
        return x.reshape(size, length, layer.heads, -1).transpose(1, 2)

    q, k, v = heads(rotated(layer.query(h))), heads(rotated(layer.key(h))), heads(layer.value(h))
    scores = q @ k.transpose(-1, -2) / math.sqrt(dim // layer.heads)
    if layer.variate_bias is not None:
        same = (variates[:, None] == variates).long()
        scores = scores + layer.variate_bias.T[:, same]
    scores = scores.masked_fill(~usable[:, None, None], -math.inf)
    return layer.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("count", [1, 3])
def test_attention_equals_a_dense_one(count: int) -> None:
    layer = VariateAttention(32, 4, multivariate=count > 1)
    h, usable = torch.randn(2, 5 * count, 32), torch.rand(2, 5 * count) > 0.3
    places, variates = torch.arange(5.0 * count), torch.arange(count).repeat_interleave(5)
    found = layer(h, rotary(places.expand(2, -1), 32), usable, variates)
    torch.testing.assert_close(found, dense(layer, h, places, usable, variates), atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 300), overlap=st.sampled_from([0.0, 0.3, 0.5, 0.9]), count=st.integers(1, 4))
def test_scores_are_probabilities_one_for_each_step(n: int, overlap: float, count: int) -> None:
    model = TimeRCD(**TINY, multivariate=count > 1).eval()
    scores, logits = model.predict(torch.randn(count, n), overlap=overlap, return_logits=True)
    assert scores.shape == logits.shape == (n,)
    assert bool(((scores >= 0) & (scores <= 1)).all())
    torch.testing.assert_close(scores, logits.sigmoid())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("length", [1, 15, 16, 40])
def test_padding_never_changes_a_valid_step(count: int, length: int) -> None:
    model = TimeRCD(**TINY, multivariate=count > 1).eval()
    x = torch.randn(2, count, 70)
    whole = model(x, torch.tensor([70, length]))
    alone = model(x[1:, :, :length])
    x[1, :, length:] = 1e3
    torch.testing.assert_close(whole.logits[1, :length], alone.logits[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        model(x, torch.tensor([70, length])).logits[1, :length], alone.logits[0], atol=1e-5, rtol=1e-4
    )


def test_hidden_steps_are_not_seen(model: TimeRCD) -> None:
    x, hidden = torch.randn(1, 1, 64), torch.zeros(1, 64, dtype=torch.bool)
    hidden[:, 16:32] = True
    other = torch.where(hidden[:, None], 9.0, x)
    torch.testing.assert_close(model(x, hidden=hidden).logits, model(other, hidden=hidden).logits)
    assert not torch.allclose(model(x).logits, model(other).logits)


def test_the_order_of_variates_matters_through_positions_alone(multi: TimeRCD, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 3, 48)
    swapped = x[:, [2, 0, 1]]
    assert not torch.allclose(multi(x).logits, multi(swapped).logits, atol=1e-6)
    monkeypatch.setattr(
        "tokenizers_mm.timeseries.timercd_encoder.rotary",
        lambda places, dim: (torch.ones(*places.shape, dim // 2), torch.zeros(*places.shape, dim // 2)),
    )
    torch.testing.assert_close(multi(x).logits, multi(swapped).logits)


def test_a_series_of_one_window_scores_as_the_network_does(model: TimeRCD) -> None:
    x = torch.randn(50)
    logits = model(standardise(x)[None]).logits[0]
    torch.testing.assert_close(model.predict(x), logits.softmax(-1)[:, 1])


def test_windows_cover_every_step_and_end_with_the_series() -> None:
    for n in (1, 63, 64, 65, 200, 1000):
        for overlap in (0.0, 0.5, 0.8):
            places = starts(n, 64, overlap)
            covered = {step for start in places for step in range(start, min(start + 64, n))}
            assert covered == set(range(n))
            assert max(places) + 64 <= max(n, 64)


def test_scale_and_offset_of_a_series_do_not_matter(model: TimeRCD) -> None:
    x = torch.randn(100, dtype=torch.float64)
    torch.testing.assert_close(model.predict(1e-3 * x + 1e9), model.predict(x), atol=1e-3, rtol=1e-3)
    whole = (100 * x).round()
    torch.testing.assert_close(model.predict(whole.long()), model.predict(whole))
    assert model.predict(torch.full((100,), 7.0)).isfinite().all()
    assert model.predict(1e300 * x).isfinite().all()


def test_thousands_of_variates_are_scored_in_groups(multi: TimeRCD) -> None:
    x = torch.randn(5000, 40)
    assert multi.predict(x).shape == (40,)
    few = multi.predict(x[:7], max_patches=9, return_logits=True)[1]  # 3 patches per window: groups of 3, 2 and 2
    parts = [multi.predict(part, return_logits=True)[1] * len(part) / 7 for part in x[:7].tensor_split(3)]
    torch.testing.assert_close(few, sum(parts[1:], parts[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "kind", "says"),
    [
        (torch.tensor([1.0, math.nan, 2.0]), ValueError, "NaN or infinity"),
        (torch.full((20,), math.nan), ValueError, "NaN or infinity"),
        (torch.tensor([1.0, math.inf]), ValueError, "NaN or infinity"),
        (torch.zeros(0), ValueError, "at least one step"),
        (torch.zeros(2, 3, 4), ValueError, "one series"),
        ([1.0, 2.0], TypeError, "real numbers, got list"),
        (torch.randn(3, 20), ValueError, "is for one variate, got 3"),
    ],
)
def test_bad_series_are_one_clear_error(model: TimeRCD, x: Tensor, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        model.predict(x)


def test_a_network_for_several_variates_refuses_one(multi: TimeRCD) -> None:
    with pytest.raises(ValueError, match="several variates, got 1"):
        multi.predict(torch.randn(20))


def test_save_and_load(model: TimeRCD, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = TimeRCD.from_pretrained(tmp_path)
    assert loaded.config == model.config
    x = torch.randn(90)
    assert torch.equal(loaded.predict(x), model.predict(x))
    (tmp_path / "config.json").write_text('{"class": "VQGAN"}')
    with pytest.raises(ValueError, match="is for class 'VQGAN'"):
        TimeRCD.from_pretrained(tmp_path)


@pytest.mark.parametrize("several", [False, True])
def test_conversion_both_ways(several: bool, tmp_path: Path) -> None:
    model = TimeRCD(dim=64, step_dim=16, layers=2, heads=8, multivariate=several).eval()
    published = to_published(model.state_dict())
    assert "ts_encoder.transformer_encoder.layers.0.self_attn.q_proj.weight" in published
    assert published["ts_encoder.rope_embedder.inv_freq"].shape == (32,)
    assert all(torch.equal(model.state_dict()[key], t) for key, t in from_published(published).items())
    checkpoint = {"epoch": 3, "model_state_dict": {f"module.{key}": t for key, t in published.items()}, "loss": 0.1}
    torch.save(checkpoint, tmp_path / "published.pth")
    assert registry.wing("timeseries", "convert").CONVERTERS["timercd"] is convert_timercd
    folder = convert_timercd(tmp_path / "published.pth", tmp_path / "ours")
    x = torch.randn(3 if several else 1, 100)
    assert torch.equal(TimeRCD.from_pretrained(folder).predict(x), model.predict(x))


def test_conversion_names_what_does_not_fit(tmp_path: Path) -> None:
    published = to_published(TimeRCD(**TINY).state_dict())
    published["surprise.weight"] = published.pop("reconstruction_head.0.bias")
    torch.save(published, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"missing keys: reconstruction_head\.0\.bias.*unknown keys: surprise\.weight"):
        convert_timercd(tmp_path / "odd.pth", tmp_path / "out")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not fit TimeRCD"):
        convert_timercd(tmp_path / "other.pth", tmp_path / "out")
