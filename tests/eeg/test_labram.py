"""LaBraM's tokenizer: published size, electrodes, tokens by electrode and second, spectra and signals, bad input."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tokenizers_mm.eeg import LaBraMTokenizer
from tokenizers_mm.eeg.labram import ELECTRODES, ROWS, electrode_rows, standardised

SMALL = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "quantizer": {"kind": "vq", "codebook_size": 64, "cosine": True, "kmeans_iters": 5},
}
NAMES = ["Fp1", "Fp2", "Cz", "O1"]


@pytest.fixture(scope="module")
def codec() -> LaBraMTokenizer:
    """A small one whose codes are features of signals, so that tokens differ."""
    torch.manual_seed(0)
    codec = LaBraMTokenizer(NAMES, **SMALL).eval()
    with torch.no_grad():
        x = 50 * torch.randn(8, 4, 400)
        features = codec._features(codec._patches(x), codec._rows(x)).flatten(0, 1)
        codec.quantizer.stages[0]._codebook.embed.copy_(features[None])
    return codec


def test_the_published_network_has_its_published_size() -> None:
    codec = LaBraMTokenizer()
    encoder = sum(p.numel() for part in (codec.encoder,) for p in part.parameters())
    decoder = sum(p.numel() for p in codec.decoder.parameters())
    assert (encoder, decoder) == (5_818_976, 1_489_800)
    trained = sum(p.numel() for p in codec.parameters())
    assert trained == 7_522_640
    # published: codes, their averages and two counts are parameters without gradients
    size, width = codec.quantizer.stages[0].codebook.shape
    assert (size, width) == (8192, 64)
    assert trained + 2 * size * width + size == 8_579_408


@pytest.mark.parametrize(("samples", "seconds"), [(200, 1), (799, 4), (800, 4), (1, 1), (1000, 5)])
def test_tokens_are_one_per_electrode_and_second_electrodes_slowest(samples: int, seconds: int, codec) -> None:
    x = 50 * torch.randn(2, 4, samples)
    tokens = codec.encode(x)
    assert tokens.shape == (4, seconds)
    assert tokens.ids.shape == (2, 4 * seconds, 1)
    assert codec.decode(tokens).shape == x.shape


def test_the_grid_is_by_electrode_first(codec: LaBraMTokenizer) -> None:
    x = 50 * torch.randn(1, 4, 600)
    patches = codec._patches(x)
    assert torch.equal(patches[0, 1 * 3 + 2], x[0, 1, 400:] / 100)
    z = codec._features(patches, codec._rows(x))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(1, 12))
    codes = codec.quantizer.stages[0].codebook
    assert torch.equal(codec.encode(x).ids[0, :, 0], (z[0] @ codes.T).argmax(dim=-1))


def test_tokens_do_not_depend_on_other_items_and_do_on_other_electrodes(codec: LaBraMTokenizer) -> None:
    x = 50 * torch.randn(3, 4, 800)
    together = codec.encode(x)
    for i in range(3):
        assert torch.equal(codec.encode(x[i : i + 1]).ids, together.ids[i : i + 1])
    changed = x.clone()
    changed[:, 3] *= -3
    moved = codec._features(codec._patches(changed), codec._rows(x)) - codec._features(
        codec._patches(x), codec._rows(x)
    )
    assert moved.view(3, 4, 4, -1)[:, 0].abs().max() > 1e-4


def test_every_electrode_has_an_embedding_of_its_own(codec: LaBraMTokenizer) -> None:
    x = 50 * torch.randn(1, 4, 400)
    patches = codec._patches(x)
    other = codec.with_electrodes(["T3", "T4", "Pz", "O2"])
    assert other.encoder is codec.encoder
    assert not torch.allclose(
        codec._features(patches, codec._rows(x)), other._features(patches, other._rows(x)), atol=1e-4
    )
    tokens = other.encode(x)
    assert tokens.side["electrodes"][0].tolist() == list(electrode_rows(["T3", "T4", "Pz", "O2"]))
    torch.testing.assert_close(codec.decode(tokens), other.decode(tokens))  # tokens carry their electrodes


def test_rows_are_places_in_the_published_table() -> None:
    assert len(set(ELECTRODES)) == len(ELECTRODES)
    assert electrode_rows(["FP1", "fp1", "EEG Fp1-REF", "Fp1."]) == (1, 1, 1, 1)
    assert electrode_rows(["FPZ", "FP2", "O1"]) == (2, 3, ELECTRODES.index("O1") + 1)
    assert electrode_rows(["T3"]) != electrode_rows(["T7"])  # the table has both, trained apart


@pytest.mark.parametrize(
    ("names", "words"), [(["Fp1", "Q7"], r"got \['Q7'\]"), ([], "got none"), (["P4-O2"], f"among the {ROWS - 1}")]
)
def test_unknown_electrodes_are_named(names: list[str], words: str, codec: LaBraMTokenizer) -> None:
    with pytest.raises(ValueError, match=words):
        LaBraMTokenizer(names, **SMALL)
    with pytest.raises(ValueError, match=words):
        codec.with_electrodes(names)


def test_other_numbers_of_channels_are_refused(codec: LaBraMTokenizer) -> None:
    for channels in (3, 300):
        with pytest.raises(ValueError, match=rf"the 4 channels that electrodes name, got {channels}"):
            codec.encode(torch.randn(1, channels, 400))


def test_more_than_sixteen_seconds_are_refused_as_a_window_and_cut_as_a_recording(codec: LaBraMTokenizer) -> None:
    with pytest.raises(ValueError, match=r"1 to 16 patches \(16 s\), got 17"):
        LaBraMTokenizer(NAMES, window_seconds=17, **SMALL)
    x = 50 * torch.randn(1, 4, 3400)
    with pytest.raises(ValueError, match="at most 3200 samples in one piece, got 3400"):
        codec(x)
    tokens = codec.encode(x)
    ids = tokens.ids.view(4, 17)
    for start in range(0, 17, 4):
        part = codec.encode(x[..., 200 * start : 200 * (start + 4)])
        assert torch.equal(part.ids.view(4, -1), ids[:, start : start + 4])
    assert codec.encode_long(iter(x.split(333, dim=-1))) == tokens


def test_targets_are_standardised_over_an_item() -> None:
    (amplitude, phase), statistics = standardised(3 + torch.rand(2, 8, 200), torch.randn(2, 8, 200))
    assert statistics.shape == (2, 4)
    for each in (amplitude, phase):
        torch.testing.assert_close(each.flatten(1).mean(dim=1), torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(each.flatten(1).std(dim=1), torch.ones(2), atol=1e-4, rtol=0)


def test_right_spectra_give_the_signal_back(codec: LaBraMTokenizer) -> None:
    x = 50 * torch.randn(2, 4, 600)
    spectrum = torch.fft.fft(codec._patches(x))
    targets, statistics = standardised(spectrum.abs(), spectrum.angle())
    torch.testing.assert_close(codec._wave(tuple(targets), statistics, 4), x, atol=1e-2, rtol=1e-3)


def test_its_losses_are_of_amplitudes_and_phases(codec: LaBraMTokenizer) -> None:
    x = 50 * torch.randn(2, 4, 400)
    output = codec(x)
    assert set(output.losses) == {"amplitude", "phase"}
    spectrum = torch.fft.fft(codec._patches(x))
    targets, _ = standardised(spectrum.abs(), spectrum.angle())
    codes = codec.quantizer.decode(codec.encode(x).ids)
    predicted = codec._heads(codes, codec._rows(x))
    for name, p, t in zip(("amplitude", "phase"), predicted, targets, strict=True):
        torch.testing.assert_close(output.losses[name], F.mse_loss(p, t))


def test_training_starts_from_the_mean_spectra_of_its_first_batch() -> None:
    torch.manual_seed(0)
    x = 50 * torch.randn(2, 4, 400)
    ours, published = LaBraMTokenizer(NAMES, **SMALL), LaBraMTokenizer(NAMES, **SMALL, mean_start=False)
    ours.eval()(x)
    assert not ours.amplitude[-1].bias.any()  # not by evaluation
    ours.train()(x)
    published.train()(x)
    spectrum = torch.fft.fft(ours._patches(x))
    targets, _ = standardised(spectrum.abs(), spectrum.angle())
    for head, target in zip((ours.amplitude, ours.phase), targets, strict=True):
        torch.testing.assert_close(head[-1].bias.detach(), target.mean(dim=(0, 1)))
    assert not published.amplitude[-1].bias.any()
    before = ours.amplitude[-1].bias.detach().clone()
    ours(2 * x.flip(0).cumsum(-1))
    assert torch.equal(ours.amplitude[-1].bias, before)  # once


def test_features_do_not_collapse_where_they_do_from_the_published_start() -> None:
    """Coloured noise, whose patches share a spectrum that is far from flat, as those of EEG do."""
    spread = {}
    for mean_start in (True, False):
        torch.manual_seed(0)
        codec = LaBraMTokenizer(NAMES, **SMALL, mean_start=mean_start).train()
        optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-3)
        for _ in range(25):
            noise = torch.fft.rfft(torch.randn(4, 4, 400))
            x = 5 * torch.fft.irfft(noise * 30 / (1 + torch.arange(201.0)))
            output = codec(x)
            optimizer.zero_grad()
            (sum(output.losses.values()) + output.quantizer_loss).backward()
            optimizer.step()
        features = codec._features(codec._patches(x), codec._rows(x)).detach().flatten(0, 1)
        spread[mean_start] = 1 - float(features.mean(dim=0).norm())
    assert spread[True] > 10 * spread[False], spread


def test_flat_channels_are_finite(codec: LaBraMTokenizer) -> None:
    x = 50 * torch.randn(1, 4, 400)
    x[:, 2] = 0
    assert torch.isfinite(codec.reconstruct(x)).all()
    assert torch.isfinite(codec.reconstruct(torch.zeros(1, 4, 400))).all()


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.full((1, 4, 400), float("nan")), ValueError, "NaN"),
        (torch.ones(1, 4, 400, dtype=torch.int16), TypeError, "int16"),
    ],
)
def test_bad_signals_are_refused(x: torch.Tensor, error: type[Exception], words: str, codec: LaBraMTokenizer) -> None:
    with pytest.raises(error, match=words):
        codec.encode(x)


def test_tokens_with_electrodes_outside_the_table_are_refused(codec: LaBraMTokenizer) -> None:
    tokens = codec.encode(50 * torch.randn(1, 4, 400))
    tokens.side["electrodes"] = torch.full((1, 4), 500)
    with pytest.raises(ValueError, match="rows 1 to 128"):
        codec.decode(tokens)
