"""The waveform codec: streams equal the whole, channels are alike and apart, bitrates, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenizers_mm.eeg import EEGWaveformCodec
from tokenizers_mm.eeg.waveform import cosine_basis

SMALL = {
    "n_filters": 4,
    "dim": 16,
    "residual_layers": 1,
    "quantizer": {"kind": "rvq", "codebook_size": 32, "num_codebooks": 3, "kmeans_iters": 5},
}


def waves(batch: int, channels: int, n: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    t, phase = torch.arange(n) / 200, 6 * torch.rand(batch, channels, 1, generator=random)
    return 40 * torch.sin(9 * t + phase) + 10 * torch.randn(batch, channels, n, generator=random)


@pytest.fixture(scope="module")
def codec() -> EEGWaveformCodec:
    """A small one that has seen a few batches, so that no part of it is zero and its codes are in use."""
    torch.manual_seed(0)
    codec = EEGWaveformCodec(**SMALL).train()
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-3)
    for seed in range(4):
        x = waves(2, 4, 800, seed)
        output = codec(x)
        loss = (output.reconstruction - x).abs().mean() / 50 + output.quantizer_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return codec.eval()


def test_the_default_is_a_hundred_bits_a_second_and_channel() -> None:
    codec = EEGWaveformCodec()
    assert codec.spec.codebook_sizes == (256,) * 5
    assert codec.spec.hop == (1, 80)
    assert codec.spec.frame_rate == 2.5
    assert codec.spec.scalable == "columns"
    assert codec.streamable
    assert not EEGWaveformCodec(**SMALL, causal=False).streamable


@pytest.mark.parametrize("n", [1, 79, 80, 81, 400, 1234])
def test_a_step_is_a_hop_and_lengths_come_back(n: int, codec: EEGWaveformCodec) -> None:
    x = waves(2, 3, n)
    tokens = codec.encode(x)
    assert tokens.shape == (3, -(-n // 80))
    assert tokens.ids.shape[2] == 3
    assert codec.decode(tokens).shape == x.shape


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(0, 300), max_size=10), channels=st.integers(1, 4), n=st.integers(1, 900))
def test_a_stream_in_any_chunks_equals_the_whole(
    cuts: list[int], channels: int, n: int, codec: EEGWaveformCodec
) -> None:
    x = waves(1, channels, n, seed=n)
    whole = codec.encode(x)
    encoder, decoder = codec.stream(), codec.stream(decode=True)
    tokens, rest = [], x
    for cut in [*cuts, n]:
        tokens.append(encoder.push(rest[..., :cut]))
        rest = rest[..., cut:]
    tokens.append(encoder.flush())
    ids = torch.cat([t.ids.unflatten(1, t.shape) for t in tokens], dim=2)
    assert torch.equal(ids.flatten(1, 2), whole.ids)
    samples = torch.cat([*(decoder.push(t) for t in tokens), decoder.flush()], dim=-1)
    torch.testing.assert_close(samples[..., :n], codec.decode(whole), atol=1e-3, rtol=1e-4)


def test_no_token_knows_the_future(codec: EEGWaveformCodec) -> None:
    x = waves(1, 2, 800)
    changed = x.clone()
    changed[..., 400:] = waves(1, 2, 400, seed=9)
    before, after = (codec.encode(each).ids.view(2, 10, 3) for each in (x, changed))
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(5)))
def test_permuting_channels_permutes_tokens_and_signals(order: list[int], codec: EEGWaveformCodec) -> None:
    x = waves(2, 5, 480)
    tokens, permuted = codec.encode(x), codec.encode(x[:, order])
    assert torch.equal(permuted.ids.unflatten(1, (5, 6)), tokens.ids.unflatten(1, (5, 6))[:, order])
    torch.testing.assert_close(codec.decode(permuted), codec.decode(tokens)[:, order], atol=1e-3, rtol=1e-4)
    assert len(tokens.ids[..., 0].unique()) > 3


@pytest.mark.parametrize("channels", [1, 2, 64, 300])
def test_any_number_of_channels_each_on_its_own(channels: int, codec: EEGWaveformCodec) -> None:
    x = waves(1, channels, 200)
    tokens = codec.encode(x)
    assert tokens.shape == (channels, 3)
    assert torch.equal(tokens.ids.view(channels, 3, 3)[-1:], codec.encode(x[:, -1:]).ids)
    assert codec.decode(tokens).shape == x.shape


def test_each_codebook_is_a_bitrate(codec: EEGWaveformCodec) -> None:
    x = waves(1, 2, 800)
    rates = [codec.spec.prefix(q).bitrate for q in (1, 2, 3)]
    assert rates == [pytest.approx(q * 12.5) for q in (1, 2, 3)]
    for q in (1, 2, 3):
        cheaper = codec.with_bitrate(rates[q - 1] / 1000)
        assert torch.equal(cheaper.encode(x).ids, codec.encode(x).ids[..., :q])
    errors = [float((codec.decode(codec.encode(x).prefix(columns=q)) - x).square().mean()) for q in (1, 3)]
    assert errors[1] < errors[0]


def test_it_begins_as_a_cosine_transform() -> None:
    basis = cosine_basis(80)
    torch.testing.assert_close(basis @ basis.T, torch.eye(80), atol=1e-5, rtol=0)
    codec = EEGWaveformCodec(**SMALL).eval()
    x = waves(1, 2, 400)
    wanted = (x / 50).view(2, 5, 80) @ basis[:16].T
    with torch.no_grad():
        z = codec._features(x)
        torch.testing.assert_close(z, wanted, atol=1e-4, rtol=1e-4)
        low = codec._synthesise(z, 1)
    torch.testing.assert_close(low.view(2, 5, 80), 50 * wanted @ basis[:16], atol=1e-3, rtol=1e-4)


def test_flat_channels_are_finite(codec: EEGWaveformCodec) -> None:
    x = waves(1, 3, 400)
    x[:, 1] = 0
    x[:, 2] = 5000  # an electrode that fell off
    assert torch.isfinite(codec.reconstruct(x)).all()


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.full((1, 2, 400), float("nan")), ValueError, "NaN"),
        (torch.full((1, 2, 400), float("inf")), ValueError, "infinity"),
        (torch.ones(1, 2, 400, dtype=torch.int32), TypeError, "int32"),
        (torch.ones(2, 400), ValueError, "expected"),
        (torch.ones(1, 0, 400), ValueError, "at least one sample"),
    ],
)
def test_bad_signals_are_refused(x: torch.Tensor, error: type[Exception], words: str, codec: EEGWaveformCodec) -> None:
    with pytest.raises(error, match=words):
        codec.encode(x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.0}, "scale must be a positive number of microvolts, got 0.0"),
        ({"scale": float("nan")}, "scale must be a positive number of microvolts, got nan"),
        ({"patch_size": 0}, "patch_size must be a positive number of samples, got 0"),
    ],
)
def test_bad_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EEGWaveformCodec(**{**SMALL, **options})
