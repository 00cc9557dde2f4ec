"""Reconstruction metrics of audio: those that are free of weights, and the table of all (``model_metrics.py`` has the others).

Protocol: the longer signal is cut to the shorter, and that is the only alignment; every change of rate goes through
torchaudio's sinc interpolation with default settings; levels are left as they are. Signal and spectral metrics average
over channels, perceptual ones hear the mono mix. A metric that is not defined for a clip is None with a reason, never a
default score.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import torchaudio.functional as AF
import torchmetrics.functional.audio as TF
from torch import Tensor, nn

from tokenizers_mm.audio.losses import MelLoss, MultiResolutionSTFTLoss, MultiScaleMelLoss, magnitude
from tokenizers_mm.audio.model_metrics import MODEL_METRICS, MODELS
from tokenizers_mm.audio.pitch import PitchTrack, track_pitch
from tokenizers_mm.audio.set_metrics import SET_METRICS
from tokenizers_mm.evaluation.metric import Metric, Scores, Unmeasurable, measure, select
from tokenizers_mm.tokens import TokenSpec

__all__ = ["METRICS", "MODELS", "Pair", "compute"]

SILENCE = 1e-6  # RMS below which a signal counts as digital silence (-120 dB full scale)
MOST_DB = 100.0  # ratios of power above this count as this: identical signals would give infinity
SDR_TAPS = 512
PESQ_SECONDS = 15.0  # the reference implementation overflows on more than 50 utterances, which 20 seconds can hold
STOI_SECONDS = 60.0  # bounds the memory of pystoi
PITCH_RATE = 16000


class Pair:
    """A reference and its reconstruction, cut to one length, with what several metrics share computed once.

    Args:
        reference: ``[C, N]``.
        estimate: ``[C, M]``.
        sample_rate: Hz.
        about: What the data's manifest says of the clip, by column.
    """

    def __init__(
        self, reference: Tensor, estimate: Tensor, sample_rate: int, about: Mapping[str, str] | None = None
    ) -> None:
        length = min(reference.shape[-1], estimate.shape[-1])
        self.reference = reference[:, :length].detach().float().cpu()
        self.estimate = estimate[:, :length].detach().float().cpu()
        self.sample_rate, self.about = sample_rate, about or {}
        self._mono: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def signals(self) -> tuple[Tensor, Tensor]:
        return self.reference, self.estimate

    def mono(self, rate: int) -> tuple[Tensor, Tensor]:
        """Both as a mono mix at ``rate`` Hz, ``[N]``."""
        if rate not in self._mono:
            reference, estimate = (AF.resample(x.mean(dim=0), self.sample_rate, rate) for x in self.signals)
            self._mono[rate] = reference, estimate
        return self._mono[rate]

    def parts(self, rate: int, seconds: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Both mono mixes in equal pieces of at most ``seconds``."""
        reference, estimate = self.mono(rate)
        count = max(1, math.ceil(len(reference) / (seconds * rate)))
        for ref, est in zip(reference.tensor_split(count), estimate.tensor_split(count), strict=True):
            yield ref.numpy(), est.numpy()

    @cached_property
    def pitch(self) -> tuple[PitchTrack, PitchTrack]:
        reference, estimate = self.mono(PITCH_RATE)
        return track_pitch(reference, PITCH_RATE), track_pitch(estimate, PITCH_RATE)


# -- power ratios ----------------------------------------------------------------------------------


def _decibels(ratio: Callable[[Tensor, Tensor], Tensor], pair: Pair, *, needs_estimate: bool = True) -> float:
    """Mean over the channels whose reference is not silent of a ratio in dB, computed in float64."""
    reference, estimate = (x.double() for x in pair.signals)
    audible = [c for c in range(len(reference)) if not _silent(reference[c])]
    if not audible:
        raise Unmeasurable("the reference is silent")
    if needs_estimate and any(_silent(estimate[c]) for c in audible):
        raise Unmeasurable("the reconstruction is silent")
    return float(ratio(estimate[audible], reference[audible]).clamp(max=MOST_DB).mean())


def _silent(x: Tensor) -> bool:
    return x.numel() == 0 or float((x - x.mean()).square().mean().sqrt()) < SILENCE


def _si_sdr(pair: Pair) -> float:
    return _decibels(lambda est, ref: TF.scale_invariant_signal_distortion_ratio(est, ref, zero_mean=True), pair)


def _sdr(pair: Pair) -> float:
    if pair.reference.shape[1] < 4 * SDR_TAPS:
        raise Unmeasurable(f"shorter than {4 * SDR_TAPS} samples: the {SDR_TAPS}-tap filter would fit anything")
    # the diagonal keeps band-limited signals solvable and is why 100 dB is the most it can tell
    return _decibels(
        lambda est, ref: TF.signal_distortion_ratio(est, ref, filter_length=SDR_TAPS, load_diag=1e-10), pair
    )


def _snr(pair: Pair) -> float:
    return _decibels(lambda est, ref: TF.signal_noise_ratio(est, ref), pair, needs_estimate=False)


# -- distances -------------------------------------------------------------------------------------


def _l1(pair: Pair) -> float:
    return float((pair.reference - pair.estimate).abs().mean())


@lru_cache(maxsize=16)
def _loss(kind: Callable[..., nn.Module], sample_rate: int | None) -> nn.Module:
    with warnings.catch_warnings():  # at high rates DAC's shortest windows leave mel filters empty, by definition
        warnings.filterwarnings("ignore", message="At least one mel filterbank")
        return kind() if sample_rate is None else kind(sample_rate)


def _distance(kind: Callable[..., nn.Module], needs_rate: bool = True) -> Callable[[Pair], float]:
    """A training loss as a metric, channels as items of its batch."""

    def distance(pair: Pair) -> float:
        reference, estimate = (x[:, None] for x in pair.signals)
        with torch.no_grad():
            return float(_loss(kind, pair.sample_rate if needs_rate else None)(estimate, reference))

    return distance


def _centroid(pair: Pair) -> float:
    window = torch.hann_window(1024)
    reference, estimate = (magnitude(x[:, None], window, 256) for x in pair.signals)  # C, F, T
    hertz = torch.linspace(0, pair.sample_rate / 2, reference.shape[1])[:, None]
    loud = reference.square().sum(dim=1) > 1e-6 * window.square().sum() * len(window) / 2  # about -60 dB full scale
    if not loud.any():
        raise Unmeasurable("no frame of the reference is above -60 dB")
    of_reference, of_estimate = ((hertz * m).sum(dim=1) / m.sum(dim=1).clamp(min=1e-9) for m in (reference, estimate))
    return float((of_reference - of_estimate).abs()[loud].mean())


def _loudness(pair: Pair) -> float:
    if pair.reference.shape[0] > 5:
        raise Unmeasurable("loudness is defined for up to 5 channels")
    if pair.reference.shape[1] < 0.4 * pair.sample_rate:
        raise Unmeasurable("shorter than the 0.4 s that a loudness block takes")
    # torchaudio's filters clip at full scale: leave them room, the same for both
    room = 0.25 / max(0.25, *(float(x.abs().max()) for x in pair.signals))
    reference, estimate = (float(AF.loudness(x * room, pair.sample_rate)) for x in pair.signals)
    for name, value in (("reference", reference), ("reconstruction", estimate)):
        if not math.isfinite(value):
            raise Unmeasurable(f"no block of the {name} is above -70 LUFS")
    return abs(estimate - reference)


# -- perceptual ------------------------------------------------------------------------------------


def _pesq(rate: int, mode: str) -> Callable[[Pair], float]:
    def score(pair: Pair) -> float:
        from pesq import BufferTooShortError, NoUtterancesError, pesq

        _check_audible(pair)
        scores, reason = [], ""
        for reference, estimate in pair.parts(rate, PESQ_SECONDS):
            try:
                scores.append(pesq(rate, reference, estimate, mode))
            except NoUtterancesError:
                reason = "PESQ finds no utterance"
            except BufferTooShortError:
                reason = "shorter than the 0.25 s that PESQ needs"
            except ValueError as error:  # a part of the reconstruction without any energy
                raise Unmeasurable(f"PESQ fails on a part of the reconstruction: {error}") from None
        if not scores:
            raise Unmeasurable(reason)
        return float(np.mean(scores))

    return score


def _stoi(extended: bool) -> Callable[[Pair], float]:
    def score(pair: Pair) -> float:
        _check_audible(pair)
        scores = [_stoi_of(ref, est, extended) for ref, est in pair.parts(10000, STOI_SECONDS) if ref.any()]
        measured = [value for value in scores if value is not None]
        if not measured:
            raise Unmeasurable("less than the 0.4 s of sound that STOI needs")
        return float(np.mean(measured))

    return score


def _stoi_of(reference: np.ndarray, estimate: np.ndarray, extended: bool) -> float | None:
    """STOI at 10 kHz; None where pystoi has too few frames to compare."""
    from pystoi import stoi

    if len(reference) < 512:
        return None
    state = np.random.get_state()  # pystoi dithers ESTOI with numpy's global generator
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            return float(stoi(reference, estimate, 10000, extended=extended))
    except RuntimeWarning:
        return None
    finally:
        np.random.set_state(state)


def _check_audible(pair: Pair) -> None:
    for name, signal in (("reference", pair.reference), ("reconstruction", pair.estimate)):
        if _silent(signal.mean(dim=0)):
            raise Unmeasurable(f"the {name} is silent")


# -- pitch -----------------------------------------------------------------------------------------


def _voicing_f1(pair: Pair) -> float:
    reference, estimate = (track.voiced for track in pair.pitch)
    if not reference.any():
        raise Unmeasurable("no frame of the reference is voiced")
    both = (reference & estimate).sum()
    return float(2 * both / (reference.sum() + estimate.sum()))


def _pitch_cents(pair: Pair) -> float:
    reference, estimate = pair.pitch
    both = reference.voiced & estimate.voiced
    if not both.any():
        raise Unmeasurable("no frame is voiced in both signals")
    return float((1200 * torch.log2(estimate.f0[both] / reference.f0[both])).square().mean().sqrt())


def _pitch_correlation(pair: Pair) -> float:
    reference, estimate = pair.pitch
    both = reference.voiced & estimate.voiced
    if both.sum() < 10:
        raise Unmeasurable("fewer than 10 frames are voiced in both signals")
    value = float(torch.corrcoef(torch.stack([reference.f0[both], estimate.f0[both]]).double().log2())[0, 1])
    if not math.isfinite(value):
        raise Unmeasurable("the pitch does not change")
    return value


def _periodicity(pair: Pair) -> float:
    reference, estimate = (track.periodicity for track in pair.pitch)
    return float((reference - estimate).square().mean().sqrt())


_PITCH = "10 ms frames, 50 to 550 Hz, own correlation tracker at 16 kHz (voiced from 0.6), mono mix"
_PARTS = f"clips over {PESQ_SECONDS:g} s in equal parts, averaged"

METRICS: dict[str, Metric] = {
    "si_sdr": Metric(
        "SI-SDR", "dB", "higher", 2, _si_sdr,
        "Zero-mean, scale- and polarity-invariant power ratio of reference to error, at most 100 dB.",
    ),
    "sdr": Metric(
        "SDR", "dB", "higher", 2, _sdr,
        "Power ratio after the best 512-tap filter of the reference (BSS eval; for one source also called CI-SDR), "
        "at most 100 dB.",
    ),
    "snr": Metric("SNR", "dB", "higher", 2, _snr, "Power ratio of reference to difference, at most 100 dB."),
    "l1": Metric("L1", "", "lower", 4, _l1, "Mean absolute difference of the samples."),
    "ms_mel": Metric(
        "MS-mel", "", "lower", 3, _distance(MultiScaleMelLoss),
        "DAC: L1 of log10 mel magnitudes, windows 32 to 2048, 5 to 320 mels, floor 1e-5, summed over windows.",
    ),
    "mel": Metric(
        "mel", "", "lower", 3, _distance(MelLoss),
        "Vocos: L1 of natural-log mel magnitudes, window 1024, hop 256, 100 mels, floor 1e-7.",
    ),
    "mr_stft": Metric(
        "MR-STFT", "", "lower", 3, _distance(MultiResolutionSTFTLoss, needs_rate=False),
        "DAC: L1 of log10 power and of magnitudes, windows 2048 and 512, floor 1e-5, summed over windows.",
    ),
    "pesq_wb": Metric("PESQ wb", "", "higher", 2, _pesq(16000, "wb"), f"P.862.2 at 16 kHz, mono; {_PARTS}.", ("pesq",)),
    "pesq_nb": Metric("PESQ nb", "", "higher", 2, _pesq(8000, "nb"), f"P.862.1 at 8 kHz, mono; {_PARTS}.", ("pesq",)),
    "stoi": Metric("STOI", "", "higher", 3, _stoi(False), "Taal et al. 2011, at 10 kHz, mono mix.", ("pystoi",)),
    "estoi": Metric("ESTOI", "", "higher", 3, _stoi(True), "Jensen and Taal 2016, at 10 kHz, mono mix.", ("pystoi",)),
    "vuv_f1": Metric("V/UV F1", "", "higher", 3, _voicing_f1, f"F1 of the voiced frames; {_PITCH}."),
    "f0_rmse": Metric("F0 RMSE", "cents", "lower", 1, _pitch_cents, f"Frames voiced in both; {_PITCH}."),
    "f0_corr": Metric(
        "F0 corr.", "", "higher", 3, _pitch_correlation, f"Pearson, of log2 F0 in frames voiced in both; {_PITCH}."
    ),
    "periodicity_rmse": Metric("period. RMSE", "", "lower", 3, _periodicity, f"All frames; {_PITCH}."),
    "loudness": Metric(
        "loudness diff.", "LU", "lower", 2, _loudness, "Absolute difference of integrated loudness (ITU-R BS.1770-4)."
    ),
    "centroid": Metric(
        "centroid err.", "Hz", "lower", 0, _centroid,
        "Mean absolute difference of the spectral centroid, window 1024, hop 256, reference frames above -60 dB.",
    ),
    **SET_METRICS,
    **MODEL_METRICS,
}  # fmt: skip


def compute(
    reference: Tensor,
    estimate: Tensor,
    spec: TokenSpec,
    names: Iterable[str] | None = None,
    *,
    models: Mapping[str, Callable[..., Any]] | None = None,
    about: Mapping[str, str] | None = None,
) -> Scores:
    """Metrics of one reconstruction.

    Args:
        reference: Original signal ``[C, N]`` in [-1, 1] at the rate of ``spec``.
        estimate: Its reconstruction ``[C, M]``.
        spec: Gives the sample rate.
        names: Keys of :data:`METRICS`; by default all that need no model.
        models: Callables by role (see :data:`MODELS`), for the metrics that need one.
        about: What is known of the clip besides its sound: ``text`` is its transcript.

    Returns:
        A float per name, or None where the metric is not defined for these signals; ``.reasons`` says why.

    Raises:
        ValueError: If a name is unknown, shapes do not fit or ``spec`` has no whole sample rate.
    """
    metrics = select(METRICS, [key for key, metric in METRICS.items() if not metric.model] if names is None else names)
    if reference.ndim != 2 or estimate.ndim != 2 or len(reference) != len(estimate) or len(reference) == 0:
        raise ValueError(f"expected two signals [C, N], got {list(reference.shape)} and {list(estimate.shape)}")
    if spec.sample_rate is None or spec.sample_rate != int(spec.sample_rate):
        raise ValueError(f"spec must have a whole sample_rate in Hz, got {spec.sample_rate}")
    pair = Pair(reference, estimate, int(spec.sample_rate), about)
    faults = [
        f"the {name} {fault}"
        for name, signal in (("reference", pair.reference), ("reconstruction", pair.estimate))
        for fault, present in (
            ("is empty", signal.numel() == 0),
            ("holds NaN or infinity", not signal.isfinite().all()),
        )
        if present
    ]
    if faults:
        return Scores.failed(metrics, faults[-1])
    return measure(metrics, pair, models)
