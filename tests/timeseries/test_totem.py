"""TOTEM and SAX: published sizes, an independent network with the published keys, units, any length, thousands of channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.timeseries import SAX, TOTEM
from tokenizers_mm.timeseries.convert.totem import convert_totem, from_published, to_published
from tokenizers_mm.timeseries.sax import segment_means

SIZES = {4: (296_001, 24), 8: (427_329, 12), 12: (443_713, 8), 16: (558_657, 6)}
ORDER = {  # the published forward's layers, in order
    4: (["_conv_1", "_conv_2"], "_conv_3", ["_conv_trans_1", "_conv_trans_2"]),
    8: (["_conv_1", "_conv_2", "_conv_A"], "_conv_3", ["_conv_trans_A", "_conv_trans_1", "_conv_trans_2"]),
    12: (["_conv_1", "_conv_2", "_conv_3"], "_conv_4", ["_conv_trans_2", "_conv_trans_3", "_conv_trans_4"]),
    16: (
        ["_conv_1", "_conv_2", "_conv_A", "_conv_B"], "_conv_3",
        ["_conv_trans_A", "_conv_trans_B", "_conv_trans_1", "_conv_trans_2"],
    ),
}  # fmt: skip


@pytest.fixture
def codec() -> TOTEM:
    torch.manual_seed(0)
    return TOTEM().eval()


@pytest.mark.parametrize("factor", SIZES)
def test_sizes_and_token_counts_are_published(factor: int) -> None:
    codec = TOTEM(factor=factor)
    assert sum(p.numel() for p in codec.parameters()) == SIZES[factor][0]
    assert codec.encode(torch.randn(1, 3, 96)).shape == (3, SIZES[factor][1])  # a batch of one keeps its axes


def reference(weights: dict[str, Tensor], factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and reconstruction of normalised windows ``[n, T]`` from published weights, written as plain functions."""
    down, conv, up = ORDER[factor]

    def stack(x: Tensor, half: str) -> Tensor:
        for i in range(2):
            key = f"{half}._residual_stack._layers.{i}._block"
            x = x.relu()  # in place in the published code: the skip sees it
            x = x + F.conv1d(F.conv1d(x, weights[f"{key}.1.weight"], padding=1).relu(), weights[f"{key}.3.weight"])
        return x.relu()

    def parts(key: str) -> tuple[Tensor, Tensor]:
        return weights[f"{key}.weight"], weights[f"{key}.bias"]

    z = x[:, None]
    for name in down:
        stride = 3 if factor == 12 and name == "_conv_3" else 2
        z = F.conv1d(z, *parts(f"encoder.{name}"), stride=stride, padding=1).relu()
    z = stack(F.conv1d(z, *parts(f"encoder.{conv}"), padding=1), "encoder")
    z = F.conv1d(z, *parts("encoder._pre_vq_conv")).mT
    ids = torch.cdist(z.double(), weights["vq._embedding.weight"].double()).argmin(-1)
    y = F.conv1d(weights["vq._embedding.weight"][ids].mT, *parts("decoder._conv_1"), padding=1)
    y = stack(y, "decoder")
    for i, name in enumerate(up):
        y = F.conv_transpose1d(y, *parts(f"decoder.{name}"), stride=3 if factor == 12 and i == 0 else 2, padding=1)
        y = y.relu() if i + 1 < len(up) else y
    return ids, y[:, 0]


@pytest.mark.parametrize("factor", SIZES)
def test_published_weights_give_equal_ids_and_reconstructions(factor: int, tmp_path) -> None:
    torch.manual_seed(factor)
    codec = TOTEM(factor=factor).eval()
    x = torch.randn(6, 96).cumsum(-1)
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    with torch.no_grad():  # codes where features are, so that many are used
        z = codec.features(x).flatten(0, 1)
        codes = z[torch.randint(len(z), (256,))]
        codec.quantizer.codebook.weight.copy_(codes + 0.1 * z.std(0) * torch.randn(256, 64))
    weights = to_published(codec)
    ids, y = reference(weights, factor, x)
    assert torch.equal(codec.tokenize(x)[..., 0], ids)
    assert len(ids.unique()) > 5
    with torch.no_grad():
        torch.testing.assert_close(codec.synthesise(codec.quantizer.decode(ids[..., None])), y, atol=1e-5, rtol=1e-4)
    torch.save(weights, tmp_path / "model.pth")
    convert_totem(tmp_path / "model.pth", tmp_path / "ours")
    loaded = TOTEM.from_pretrained(tmp_path / "ours")
    assert loaded.encode(x[:, None]) == codec.encode(x[:, None])
    assert all(torch.equal(to_published(loaded)[key], weights[key]) for key in weights)


def test_damaged_checkpoints_are_refused_in_words(codec: TOTEM) -> None:
    weights = to_published(codec)
    with pytest.raises(ValueError, match="1 missing keys"):
        from_published({k: v for k, v in weights.items() if k != "decoder._conv_1.bias"})
    with pytest.raises(ValueError, match="does not fit TOTEM"):
        from_published({k: v for k, v in weights.items() if not k.startswith("encoder._conv_1")})
    with pytest.raises(ValueError, match="published quantizer"):
        to_published(TOTEM(quantizer={"kind": "vq", "codebook_size": 16}))


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 1000), st.floats(-100, 100), st.integers(1, 210), st.integers(0, 1000))
def test_units_are_kept(scale: float, offset: float, n: int, seed: int) -> None:
    torch.manual_seed(0)
    codec = TOTEM(hidden=16, residual_width=8, latent_dim=8).eval()
    x = torch.randn(1, 2, n, generator=torch.Generator().manual_seed(seed)).double().cumsum(-1) * 5
    a, b = codec.reconstruct(x.float()).double(), codec.reconstruct((scale * x + offset).float()).double()
    assert a.shape == x.shape
    whole = n % 96 == 0 or n % 96 > 8  # shorter rests may be all but constant, where epsilon counts
    if whole and scale > 0.1:
        same = codec.encode(x.float()).ids == codec.encode((scale * x + offset).float()).ids
        if same.all():
            torch.testing.assert_close(b, scale * a + offset, atol=1e-2 * max(1, scale), rtol=1e-3)


def test_windows_are_coded_alone(codec: TOTEM) -> None:
    x = torch.randn(1, 2, 200).cumsum(-1)
    tokens = codec.encode(x)
    assert tokens.shape == (2, 50)
    parts = [codec.reconstruct(part) for part in x.split([96, 96, 8], dim=-1)]
    torch.testing.assert_close(codec.decode(tokens), torch.cat(parts, dim=-1), atol=1e-5, rtol=1e-4)


def test_training_wants_whole_tokens(codec: TOTEM) -> None:
    with pytest.raises(ValueError, match="multiple of 4 samples, got 95"):
        codec(torch.randn(1, 1, 95))
    with pytest.raises(ValueError, match="window must be a multiple"):
        TOTEM(window=90)
    with pytest.raises(ValueError, match="factor must be one of"):
        TOTEM(factor=5)


@pytest.mark.parametrize("make", [TOTEM, SAX])
def test_odd_series_come_back(make) -> None:
    codec = make().eval()
    constant = torch.full((1, 1, 60), 7.0)
    assert (codec.reconstruct(constant) - 7).abs().max() < 0.1
    assert codec.reconstruct(torch.full((1, 1, 9), float("nan"))).isnan().all()
    assert codec.reconstruct(torch.full((1, 1, 1), 3.0)).shape == (1, 1, 1)
    with pytest.raises(ValueError, match="only NaN marks"):
        codec.encode(torch.tensor([[[1.0, float("inf")]]]))
    x = torch.randn(1, 5000, 20)
    assert codec.reconstruct(x).shape == x.shape


def test_hidden_samples_count_as_the_mean_in_training() -> None:
    codec = TOTEM(mask_ratio=0.5, quantizer={"kind": "vq", "codebook_size": 16}).train()
    x = torch.randn(8, 1, 96).cumsum(-1)
    output = codec(x)
    assert output.reconstruction.shape == x.shape
    assert output.reconstruction.isfinite().all()


def test_sax_breakpoints_are_normal_quantiles() -> None:
    from scipy.stats import norm

    for size in (2, 4, 7, 20):
        expected = torch.tensor(norm.ppf([i / size for i in range(1, size)]), dtype=torch.float32)
        torch.testing.assert_close(SAX(size).breakpoints, expected)
    values = torch.tensor(norm.rvs(size=400_000, random_state=0), dtype=torch.float32)
    codec = SAX(5, segment=1)
    symbols = torch.bucketize(values, codec.breakpoints)
    for i in range(5):  # decoding levels are the means inside the intervals
        assert float(values[symbols == i].mean()) == pytest.approx(float(codec.levels[i]), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 9), st.integers(2, 12), st.integers(0, 10**6))
def test_mindist_is_a_lower_bound(n: int, segment: int, alphabet: int, seed: int) -> None:
    x = torch.randn(2, 1, n, generator=torch.Generator().manual_seed(seed)).cumsum(-1)
    codec = SAX(alphabet, segment)
    a, b = codec.encode(x[:1]), codec.encode(x[1:])
    z = (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True)
    assert float(codec.mindist(a, b)) <= float((z[0] - z[1]).norm()) + 1e-4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_fractional_segments_equal_those_of_repeated_samples(n: int, segments: int, seed: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    expected = x.repeat_interleave(segments).view(segments, n).mean(-1)  # every sample cut into as many pieces
    torch.testing.assert_close(segment_means(x, segments), expected, atol=1e-5, rtol=1e-4)
