"""Audio metrics: oracle values, the packages behind them, invariances, and None where nothing can be measured."""

import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.audio as TF
from torch import Tensor

from tokenizers_mm.audio.metrics import METRICS, PESQ_SECONDS, Pair, compute
from tokenizers_mm.evaluation.metric import OF_SET
from tokenizers_mm.tokens import TokenSpec

RATE = 16000
SPEC = TokenSpec("audio", (64,), hop=(320,), sample_rate=RATE)
FREE = [key for key, metric in METRICS.items() if not metric.model]
PERCEPTUAL = ["pesq_wb", "pesq_nb", "stoi", "estoi"]


def speechlike(seconds: float = 3.0, f0: float = 120.0, seed: int = 0) -> Tensor:
    """Gliding harmonics under two formants, in syllables with short pauses between, ``[1, N]``."""
    t = torch.arange(int(seconds * RATE)) / RATE
    pitch = f0 * 2 ** (0.3 * torch.sin(2 * math.pi * 0.5 * t))
    phase = 2 * math.pi * torch.cumsum(pitch, 0) / RATE
    centre = 700 + 300 * torch.sin(2 * math.pi * 1.7 * t)
    x = torch.zeros_like(t)
    for k in range(1, 30):
        hertz = k * pitch
        gain = torch.exp(-(((hertz - centre) / 250) ** 2)) + 0.3 * torch.exp(-(((hertz - 2400) / 400) ** 2)) + 0.05
        x += gain * torch.sin(k * phase)
    syllables = torch.sin(2 * math.pi * 3 * t).clamp(min=0).sqrt()
    x = x * syllables
    return (0.3 * x / x.abs().max())[None]


def noise_like(x: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def at_snr(x: Tensor, db: float) -> Tensor:
    noise = noise_like(x)
    return x + noise * (x.square().mean() / noise.square().mean() * 10 ** (-db / 10)).sqrt()


def test_identical_signals_score_the_known_best():
    scores = compute(speechlike(), speechlike(), SPEC)
    assert list(scores) == FREE
    assert scores.reasons == {"mel_fd": OF_SET}
    assert scores["pesq_wb"] == pytest.approx(4.644, abs=1e-3)
    assert scores["pesq_nb"] == pytest.approx(4.549, abs=1e-3)
    for key in ("stoi", "estoi", "vuv_f1", "f0_corr"):
        assert scores[key] == pytest.approx(1)
    for key in ("si_sdr", "sdr", "snr"):
        assert scores[key] > 60
    for key in ("l1", "ms_mel", "mel", "mr_stft", "f0_rmse", "periodicity_rmse", "loudness", "centroid"):
        assert scores[key] == 0


def test_noise_lowers_quality_step_by_step():
    x = speechlike()
    rows = [compute(x, at_snr(x, db), SPEC, ["si_sdr", "sdr", "snr", "mel", *PERCEPTUAL]) for db in (30, 20, 10, 0)]
    for key in rows[0]:
        values = [row[key] for row in rows]
        assert values == sorted(values, reverse=METRICS[key].better == "higher"), key
    assert rows[0]["snr"] == pytest.approx(30, abs=1e-3)


def test_perceptual_scores_are_those_of_the_packages():
    x = speechlike()
    y = at_snr(x, 10)
    scores = compute(x, y, SPEC, ["pesq_wb", "stoi", "estoi"])
    assert scores["pesq_wb"] == pytest.approx(
        float(TF.perceptual_evaluation_speech_quality(y[0], x[0], RATE, "wb")), abs=1e-4
    )
    at_10k = TokenSpec("audio", (64,), hop=(320,), sample_rate=10000)  # no resampling on either side
    for key, extended in (("stoi", False), ("estoi", True)):
        expected = float(TF.short_time_objective_intelligibility(y[0], x[0], 10000, extended=extended))
        assert compute(x, y, at_10k, [key])[key] == pytest.approx(expected, abs=1e-4)
        assert scores[key] is not None


def test_si_sdr_ignores_gain_and_polarity_and_offset_but_mel_does_not_ignore_gain():
    x = speechlike()
    y = at_snr(x, 15)
    plain = compute(x, y, SPEC, ["si_sdr", "mel"])
    for other in (0.25 * y, -y, y + 0.1):
        assert compute(x, other, SPEC, ["si_sdr"])["si_sdr"] == pytest.approx(plain["si_sdr"], abs=1e-3)
    assert compute(x, 0.25 * x, SPEC, ["mel"])["mel"] > 0.5


def test_sdr_forgives_a_short_filter_that_si_sdr_does_not():
    x = noise_like(torch.zeros(1, RATE)) * 0.1
    y = torch.nn.functional.conv1d(x[None], torch.tensor([[[0.5, -0.3, 1.0, 0.2]]]), padding=3)[0, :, : x.shape[1]]
    scores = compute(x, y, SPEC, ["sdr", "si_sdr"])
    assert scores["sdr"] > 25
    assert scores["si_sdr"] < 5


def test_only_the_length_is_aligned():
    x = speechlike(2)
    longer = torch.cat([x, noise_like(x)[:, :500]], dim=1)
    assert compute(x, longer, SPEC, ["si_sdr", "mel"]) == compute(x, x, SPEC, ["si_sdr", "mel"])
    assert compute(x, x.roll(8), SPEC, ["si_sdr"])["si_sdr"] < 20


@pytest.mark.parametrize("gain", [0.25, 0.5, 2.0, 3.0])
def test_loudness_difference_is_the_gain_in_decibels(gain: float):
    x = speechlike() / 0.31  # close to full scale, where careless filters clip
    assert compute(x, gain * x, SPEC, ["loudness"])["loudness"] == pytest.approx(abs(20 * math.log10(gain)), abs=0.05)


def test_centroid_error_of_two_tones_is_their_distance():
    t = torch.arange(RATE) / RATE
    low, high = (0.1 * torch.sin(2 * math.pi * f * t)[None] for f in (1000, 2000))
    assert compute(low, high, SPEC, ["centroid"])["centroid"] == pytest.approx(1000, abs=10)


def test_transposition_is_measured_in_cents():
    scores = compute(speechlike(f0=120), speechlike(f0=120 * 2 ** (100 / 1200)), SPEC, ["f0_rmse", "vuv_f1"])
    assert scores["f0_rmse"] == pytest.approx(100, abs=5)
    assert scores["vuv_f1"] > 0.95


def test_voicing_f1_counts_missed_and_false_frames():
    x = speechlike(4)
    half = x.clone()
    half[:, 2 * RATE :] = 0.05 * noise_like(half)[:, 2 * RATE :]
    f1 = compute(x, half, SPEC, ["vuv_f1"])["vuv_f1"]
    assert f1 == pytest.approx(2 / 3, abs=0.05)  # precision 1, recall 1/2
    assert compute(half, x, SPEC, ["vuv_f1"])["vuv_f1"] == pytest.approx(f1)


@pytest.mark.parametrize(
    ("reference", "estimate", "undefined"),
    [
        (speechlike(1), torch.zeros(1, RATE), {"si_sdr", "sdr", *PERCEPTUAL, "f0_rmse", "loudness"}),
        (
            torch.zeros(1, RATE),
            speechlike(1),
            {"si_sdr", "sdr", "snr", *PERCEPTUAL, "f0_rmse", "vuv_f1", "loudness", "centroid"},
        ),
        (speechlike(1)[:, :1000], speechlike(1)[:, 50:1050], {"sdr", *PERCEPTUAL, "loudness"}),
        (torch.ones(1, 1) * 0.1, torch.ones(1, 1) * 0.1, {"si_sdr", "sdr", "snr", *PERCEPTUAL, "loudness"}),
        (speechlike(1), speechlike(1) * float("nan"), set(FREE)),
        (speechlike(1), torch.zeros(1, 0), set(FREE)),
    ],
    ids=["silent-estimate", "silent-reference", "short", "one-sample", "nan", "empty"],
)
def test_what_cannot_be_measured_is_none_with_a_reason(reference: Tensor, estimate: Tensor, undefined: set[str]):
    scores = compute(reference, estimate, SPEC)
    none = {key for key, value in scores.items() if value is None}
    assert none >= undefined
    assert set(scores.reasons) == none
    assert all(scores.reasons[key] for key in none)
    assert all(math.isfinite(value) for value in scores.values() if value is not None)


def test_reasons_name_the_signal_and_the_fault():
    x = speechlike(1)
    assert compute(x, x * 0, SPEC).reasons["pesq_wb"] == "the reconstruction is silent"
    assert compute(x * 0, x, SPEC).reasons["stoi"] == "the reference is silent"
    assert compute(x, x / 0, SPEC).reasons["l1"] == "the reconstruction holds NaN or infinity"
    assert "0.25 s" in compute(x[:, :1000], x[:, :1000], SPEC).reasons["pesq_wb"]


def test_pesq_of_a_long_clip_is_the_mean_over_parts_that_its_tables_can_hold():
    burst = 0.1 * noise_like(torch.zeros(1, 3 * RATE // 10))
    x = torch.cat([burst, torch.zeros(1, 3 * RATE // 10)], dim=1).repeat(
        1, 70
    )  # 42 s, 70 utterances: over the limit of 50
    pair = Pair(x, at_snr(x, 20), RATE)
    parts = list(pair.parts(RATE, PESQ_SECONDS))
    assert sum(len(ref) for ref, _ in parts) == x.shape[1]
    assert max(len(ref) for ref, _ in parts) <= PESQ_SECONDS * RATE
    assert 1 < METRICS["pesq_wb"].function(pair) < 4.5


def test_estoi_repeats_and_leaves_the_global_generator_alone():
    x = speechlike()
    np.random.seed(5)
    expected = np.random.get_state()[1].copy()
    first = compute(x, at_snr(x, 5), SPEC, ["estoi"])
    np.testing.assert_array_equal(np.random.get_state()[1], expected)
    np.random.seed(6)
    assert compute(x, at_snr(x, 5), SPEC, ["estoi"]) == first


def test_stereo_is_averaged_and_silent_channels_do_not_count():
    x = speechlike(1)
    noisy = at_snr(x, 10)
    one = compute(x, noisy, SPEC, ["si_sdr", "mel"])
    both = compute(torch.cat([x, x]), torch.cat([noisy, x]), SPEC, ["si_sdr", "mel"])
    assert both["mel"] == pytest.approx(one["mel"] / 2, rel=1e-4)
    left_only = compute(torch.cat([x, x * 0]), torch.cat([noisy, x * 0]), SPEC, ["si_sdr"])
    assert left_only["si_sdr"] == pytest.approx(one["si_sdr"], abs=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100, 48000])
def test_every_usual_rate_is_measured(rate: int):
    x = speechlike(2)
    spec = TokenSpec("audio", (64,), hop=(320,), sample_rate=rate)
    assert compute(x, at_snr(x, 20), spec).reasons == {"mel_fd": OF_SET}


def test_wrong_input_is_refused_by_name():
    x = speechlike(0.1)
    with pytest.raises(ValueError, match=r"unknown metrics \['pesk'\]: did you mean 'pesq_"):
        compute(x, x, SPEC, ["pesk"])
    with pytest.raises(ValueError, match=r"expected two signals \[C, N\], got \[1600\]"):
        compute(x[0], x, SPEC)
    with pytest.raises(ValueError, match=r"got \[1, 1600\] and \[2, 1600\]"):
        compute(x, x.repeat(2, 1), SPEC)
    with pytest.raises(ValueError, match="sample_rate"):
        compute(x, x, TokenSpec("audio", (64,)))
