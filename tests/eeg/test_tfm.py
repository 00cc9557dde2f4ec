"""TFM-Tokenizer: sizes, what a token may depend on, masks, losses, windows, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tokenizers_mm.eeg import TFMTokenizer
from tokenizers_mm.eeg.tfm import published_vq_loss, time_frequency_mask
from tokenizers_mm.eeg.tfm_layers import frames_and_spectra, robust_scale
from tokenizers_mm.evaluation.health import token_health
from tokenizers_mm.evaluation.run import evaluate

SMALL = {
    "decoder_layers": 1,
    "phase_iterations": 4,
    "quantizer": {"kind": "vq", "codebook_size": 64, "kmeans_iters": 5},
}


def waves(batch: int, channels: int, n: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    t = torch.arange(n) / 200
    pitch, phase = (torch.rand(batch, channels, 1, generator=random) for _ in range(2))
    return 40 * torch.sin(2 * torch.pi * ((1 + 20 * pitch) * t + phase)) + 10 * torch.randn(
        batch, channels, n, generator=random
    )


@pytest.fixture(scope="module")
def codec() -> TFMTokenizer:
    """A small one whose codes are features of signals, so that tokens differ."""
    torch.manual_seed(0)
    codec = TFMTokenizer(**SMALL).eval()
    with torch.no_grad():
        frames, spectra = frames_and_spectra(waves(1, 16, 1000)[0] / 40, 200, 100)
        features = codec._features(frames, spectra.abs()[..., :-1]).flatten(0, 1)
        codec.quantizer.stages[0]._codebook.embed.copy_(features[None, :64])
    return codec


def test_the_published_network_has_its_published_size() -> None:
    codec = TFMTokenizer(quantizer={"kind": "vq", "codebook_size": 8192})
    network = sum(p.numel() for p in codec.parameters())
    assert network == 641_812
    assert network + codec.quantizer.stages[0].codebook.numel() == 1_166_100
    assert codec.spec.codebook_sizes == (8192,)


@pytest.mark.parametrize(("seconds", "steps"), [(1, 1), (5, 9), (10, 19), (30, 59)])
def test_frames_and_tokens_are_two_a_second_less_one(seconds: int, steps: int, codec: TFMTokenizer) -> None:
    x = waves(2, 3, 200 * seconds)
    frames, spectra = frames_and_spectra(x[0], 200, 100)
    assert frames.shape == (3, steps, 200)
    assert spectra.shape == (3, steps, 101)
    with torch.no_grad():
        assert codec._features(frames, spectra.abs()[..., :-1]).shape == (3, steps, 64)
    tokens = codec.encode(x)
    assert tokens.shape == (3, steps)
    assert codec.spec.steps((3, x.shape[-1])) == 3 * steps
    assert codec.decode(tokens).shape == x.shape


def test_spectra_are_those_of_the_published_transform() -> None:
    x = waves(1, 4, 2000)[0]
    wanted = torch.stft(x, 200, 100, window=torch.hann_window(200), center=False, return_complex=True)
    torch.testing.assert_close(frames_and_spectra(x, 200, 100)[1].mT, wanted, atol=1e-3, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 400), seed=st.integers(0, 999))
def test_the_scale_is_the_quantile_of_absolute_values(n: int, seed: int) -> None:
    x = 50 * torch.randn(3, n, generator=torch.Generator().manual_seed(seed))
    wanted = torch.quantile(x.abs(), 0.95, dim=-1, keepdim=True) + 1e-8
    torch.testing.assert_close(robust_scale(x), wanted, atol=1e-5, rtol=1e-5)


def test_tokens_of_a_channel_do_not_depend_on_other_channels_or_items(codec: TFMTokenizer) -> None:
    x = waves(3, 4, 1500)
    ids = codec.encode(x).ids.view(3, 4, -1)
    assert len(ids.unique()) > 8
    for b in range(3):
        for c in range(4):
            assert torch.equal(codec.encode(x[b : b + 1, c : c + 1]).ids.flatten(), ids[b, c])


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(exponent=st.integers(-6, 6))
def test_scaling_a_recording_leaves_its_ids_as_they_are(exponent: int, codec: TFMTokenizer) -> None:
    x = waves(2, 2, 1000)
    scaled = codec.encode(2.0**exponent * x)
    assert torch.equal(scaled.ids, codec.encode(x).ids)
    torch.testing.assert_close(codec.decode(scaled), 2.0**exponent * codec.reconstruct(x), atol=1e-3, rtol=1e-3)


def test_queries_are_unit_vectors_and_steps_have_no_positions(codec: TFMTokenizer) -> None:
    frames, spectra = frames_and_spectra(waves(1, 4, 2000)[0] / 40, 200, 100)
    order = torch.randperm(19)
    magnitude = spectra.abs()[..., :-1]
    with torch.no_grad():
        z = codec._features(frames, magnitude)
        permuted = codec._features(frames[:, order], magnitude[:, order])
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(4, 19))
    torch.testing.assert_close(permuted, z[:, order], atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 60), seed=st.integers(0, 999))
def test_masks_hide_half_of_the_steps_and_half_of_the_patches(steps: int, seed: int) -> None:
    keep = time_frequency_mask(steps, 100, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(keep.float() + (~keep).float(), torch.ones(steps, 100))
    assert int(keep.sum()) == (steps - steps // 2) * 50
    patches = keep.view(steps, 20, 5)
    assert torch.equal(patches.any(dim=-1), patches.all(dim=-1))  # patches are hidden whole
    rows = keep[keep.any(dim=1)]
    assert bool((rows == rows[0]).all())


def test_nine_steps_keep_a_quarter() -> None:
    keep = time_frequency_mask(9, 100)
    assert (int(keep.sum()), keep.numel()) == (250, 900)
    assert int((~keep.any(dim=1)).sum()) == 4
    assert int((~keep.any(dim=0)).sum()) == 50


def test_the_published_loss_pulls_no_feature_and_a_commitment_does() -> None:
    z = F.normalize(torch.randn(2, 9, 64), dim=-1).requires_grad_()
    codes = torch.randn(2, 9, 64)
    loss = published_vq_loss(z, z + (codes - z).detach())
    torch.testing.assert_close(loss, 2 * F.mse_loss(z, codes))
    loss.backward()
    assert z.grad is not None
    assert not z.grad.any()


@pytest.mark.parametrize("reference", [True, False])
def test_the_quantizer_trains_the_encoder_unless_it_is_the_published_one(reference: bool) -> None:
    codec = TFMTokenizer(**SMALL, reference_vq_loss=reference, dropout=0.0).train()
    for _ in range(2):  # k-means takes the first batch
        codec.zero_grad()
        output = codec(waves(4, 2, 1000))
    output.quantizer_loss.backward()
    gradients = [p.grad for p in codec.encoder.parameters() if p.grad is not None]
    assert float(output.quantizer_loss.detach()) > 0
    if reference:
        assert not any(g.any() for g in gradients)
    else:
        assert gradients
        assert all(g.any() for g in gradients)


def test_training_compares_both_views_with_the_whole_spectrum(codec: TFMTokenizer) -> None:
    assert codec.own_losses == ("spectrum", "complement")
    x = waves(3, 2, 1000)
    with torch.no_grad():
        losses = codec(x).losses
        scale = robust_scale(x.flatten(0, 1))
        magnitude = frames_and_spectra(x.flatten(0, 1) / scale, 200, 100)[1].abs()[..., :-1]
        ids = codec.encode(x).ids.view(6, 9, 1)
        wanted = F.mse_loss(codec.magnitudes(ids), magnitude)
    assert set(losses) == {"spectrum", "complement"}
    torch.testing.assert_close(losses["spectrum"], wanted)
    trained = TFMTokenizer(**SMALL, dropout=0.0).train()
    assert trained(x).losses["spectrum"] != trained(x).losses["complement"]


def test_training_lowers_the_spectrum_loss() -> None:
    codec = TFMTokenizer(**SMALL).train()
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    x, found = waves(3, 1, 500), []
    for _ in range(10):
        output = codec(x)
        loss = sum(output.losses.values()) + output.quantizer_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(output.losses["spectrum"].detach()))
    assert found[-1] < 0.8 * found[0]


def test_long_recordings_are_windows_one_after_the_other(codec: TFMTokenizer) -> None:
    x = waves(1, 2, 4750)
    tokens = codec.encode(x)
    ids, at, stride = tokens.ids.view(2, -1), 0, codec.stride
    assert stride == 1900
    for start in range(0, 4750, stride):
        part = codec.encode(x[..., start : start + codec.window])
        steps = part.shape[1]
        assert torch.equal(part.ids.view(2, -1), ids[:, at : at + steps])
        at += steps
    assert at == ids.shape[1]
    assert codec.encode_long(iter(x.split(333, dim=-1))) == tokens
    pieces = torch.cat(list(codec.decode_long(tokens)), dim=-1)
    torch.testing.assert_close(pieces, codec.decode(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 300])
def test_any_number_of_channels(channels: int, codec: TFMTokenizer) -> None:
    x = waves(1, channels, 300)
    assert codec.encode(x).shape == (channels, 2)
    assert codec.reconstruct(x).shape == x.shape


def test_flat_channels_and_single_samples_are_finite(codec: TFMTokenizer) -> None:
    x = waves(1, 3, 1000)
    x[:, 1] = 0
    y = codec.reconstruct(x)
    assert torch.isfinite(y).all()
    assert float(y[:, 1].abs().max()) < 1e-3  # as quiet as it was
    assert codec.reconstruct(x[..., :1]).shape == (1, 3, 1)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.full((1, 2, 400), float("nan")), ValueError, "NaN"),
        (torch.ones(1, 2, 400, dtype=torch.int16), TypeError, "int16"),
        (torch.ones(400), ValueError, "expected"),
        (torch.ones(1, 2, 0), ValueError, "at least one sample"),
    ],
)
def test_bad_signals_are_refused(x: torch.Tensor, error: type[Exception], words: str, codec: TFMTokenizer) -> None:
    with pytest.raises(error, match=words):
        codec.encode(x)


@pytest.mark.parametrize("rate", [250, 256, 199, 40, 0, -200])
def test_rates_whose_bins_make_no_groups_are_refused(rate: int) -> None:
    with pytest.raises(ValueError, match=rf"sample_rate must be twice a multiple of 25 Hz.*, such as 200, got {rate}"):
        TFMTokenizer(sample_rate=rate)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window_seconds": 0.5}, "window_seconds must be whole half seconds, at least 1, got 0.5"),
        ({"window_seconds": 1.3}, "window_seconds must be whole half seconds"),
        ({"mask_ratio": 1.0}, r"mask_ratio must be in \[0, 1\), got 1.0"),
        ({"patch_size": 0}, "patch_size must be a positive number of bins, got 0"),
        ({"heads": 7}, "heads must divide dim=64, got 7"),
    ],
)
def test_bad_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TFMTokenizer(**options)


def test_tokens_without_their_scale_are_refused(codec: TFMTokenizer) -> None:
    tokens = codec.encode(waves(1, 2, 1000))
    del tokens.side["scale"]
    with pytest.raises(ValueError, match="side"):
        codec.decode(tokens)


def test_rows_of_a_loaded_codebook_that_no_data_uses_are_reported(codec: TFMTokenizer, tmp_path: Path) -> None:
    """Rows far from every feature are never used; the report counts exactly them and what else the data left out."""
    dead = TFMTokenizer(**SMALL).eval()
    dead.load_state_dict(codec.state_dict())
    with torch.no_grad():
        dead.quantizer.stages[0]._codebook.embed[:, 16:] = 1e3
    dead.save_pretrained(tmp_path / "dead")
    tokens = TFMTokenizer.from_pretrained(tmp_path / "dead").encode(waves(4, 8, 2000, seed=3))
    counts = torch.bincount(tokens.ids.flatten(), minlength=64)
    book = token_health(tokens).codebooks[0]
    assert int(counts[16:].sum()) == 0
    assert book.used == int((counts > 0).sum()) <= 16
    assert book.dead_fraction == pytest.approx(1 - book.used / 64)
    shares = counts[counts > 0] / counts.sum()
    assert book.perplexity == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-5)


def test_an_evaluation_reports_spectra_bands_and_a_waveform_by_phase_retrieval(codec: TFMTokenizer) -> None:
    report = evaluate([codec], suite="eeg", limit=1, baselines=[], progress=False)
    (item,) = report.codecs[0].items
    spectral = ("spectrum_mse", "lsd", *(f"band_{name}" for name in ("delta", "theta", "alpha", "beta", "gamma")))
    for name in (*spectral, "correlation", "snr"):
        assert item.metrics[name] is not None, (name, item.reasons.get(name))
    assert item.metrics["spectrum_mse"] >= 0
