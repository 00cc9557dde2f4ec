"""Reconstruction metrics of EEG, of each channel for itself and averaged over the channels; microvolts in, means taken out.

What codecs without phase can be judged by (spectra, bands, alpha power) stands beside what a waveform codec is judged by
(correlation, signal-to-noise ratio). Channels that hold one value throughout, as unplugged electrodes do, count in none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, partial

import torch
from torch import Tensor

from tokenizers_mm.eeg.spectra import BANDS, band_power, density, magnitudes
from tokenizers_mm.evaluation.metric import Metric, Scores, Unmeasurable, measure, select
from tokenizers_mm.tokens import TokenSpec

__all__ = ["METRICS", "Pair", "compute"]

SPECTRUM_SECONDS = 1.0  # TFM-Tokenizer's window, half of it from one to the next
BAND_SECONDS = 2.0  # four bins below 2 Hz would be too few
LSD_RANGE = (0.5, 45.0)  # Hz
FLOOR = 1e-3  # microvolts squared per Hz: what amplifiers resolve
QUANTILE = 0.95  # of a channel's magnitude, its unit in the spectrum's error


class Pair:
    """A recording and its reconstruction, channels that are flat left out.

    Args:
        reference: ``[C, N]`` in microvolts.
        estimate: ``[C, N]``.
        rate: Hz.
    """

    def __init__(self, reference: Tensor, estimate: Tensor, rate: float) -> None:
        reference, estimate = (x.detach().double().cpu() for x in (reference, estimate))
        self.rate = rate
        alive = reference.amax(dim=1) > reference.amin(dim=1)
        self.raw = reference[alive], estimate[alive]
        self.reference, self.estimate = (x - x.mean(dim=1, keepdim=True) for x in self.raw)

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """Reference and estimate without their means; at least one channel."""
        if not len(self.reference):
            raise Unmeasurable("every channel is flat")
        return self.reference, self.estimate

    @cached_property
    def densities(self) -> tuple[Tensor, Tensor, Tensor]:
        """Power densities ``[C, F, T]`` of both in windows of :data:`BAND_SECONDS`, and their frequencies ``[F]``."""
        if self.reference.shape[1] < round(BAND_SECONDS * self.rate):
            raise Unmeasurable(f"the signal is shorter than {BAND_SECONDS:g} s")
        (a, frequencies), (b, _) = (density(x, self.rate, BAND_SECONDS) for x in self.both)
        return a, b, frequencies

    def bands(self, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Power of both in a band, microvolts squared ``[C, T]``."""
        if high > self.rate / 2:
            raise Unmeasurable(f"a signal at {self.rate:g} Hz ends below {high:g} Hz")
        reference, estimate, frequencies = self.densities
        first, second = (band_power(x, frequencies, low, high) for x in (reference, estimate))
        return first, second


def _correlation(pair: Pair) -> float:
    reference, estimate = pair.both
    product = (reference * estimate).sum(dim=1)
    scale = reference.norm(dim=1) * estimate.norm(dim=1)
    return float((product / scale.clamp(min=1e-12)).mean())


def _snr(pair: Pair) -> float:
    reference, estimate = pair.both
    error = (reference - estimate).square().sum(dim=1)
    if bool((error == 0).any()):
        raise Unmeasurable("a channel is restored exactly: infinite")
    return float((10 * (reference.square().sum(dim=1) / error).log10()).mean())


def _mae(pair: Pair) -> float:
    _ = pair.both
    return float((pair.raw[0] - pair.raw[1]).abs().mean())


def _spectrum_mse(pair: Pair) -> float:
    """Magnitudes of the windowed transform, both in units of the reference's quantile: the target of TFM-Tokenizer."""
    _ = pair.both
    unit = pair.raw[0].abs().quantile(QUANTILE, dim=1, keepdim=True).clamp(min=1e-8)
    if pair.reference.shape[1] < round(SPECTRUM_SECONDS * pair.rate):
        raise Unmeasurable(f"the signal is shorter than {SPECTRUM_SECONDS:g} s")
    a, b = (magnitudes(x / unit, pair.rate, SPECTRUM_SECONDS) for x in pair.raw)
    return float((a - b).square().mean())


def _lsd(pair: Pair) -> float:
    reference, estimate, frequencies = pair.densities
    inside = (frequencies >= LSD_RANGE[0]) & (frequencies <= min(LSD_RANGE[1], pair.rate / 2))
    levels = [10 * x[:, inside].clamp(min=FLOOR).log10() for x in (reference, estimate)]
    return float((levels[0] - levels[1]).square().mean(dim=1).sqrt().mean())


def _band_error(pair: Pair, name: str) -> float:
    low, high = BANDS[name]
    powers = [x.clamp(min=FLOOR * (high - low)) for x in pair.bands(low, high)]
    return float((10 * (powers[1] / powers[0]).log10()).abs().mean())


def _mean_band_error(pair: Pair) -> float:
    return sum(_band_error(pair, name) for name in BANDS) / len(BANDS)


def _alpha(pair: Pair) -> float:
    """Over each channel's whole length, so that it says what a rest recording's alpha is judged by."""
    low, high = BANDS["alpha"]
    reference, estimate = (x.sum(dim=1).clamp(min=FLOOR) for x in pair.bands(low, high))
    return float((torch.minimum(reference, estimate) / torch.maximum(reference, estimate)).mean())


def _band_metric(name: str) -> Metric:
    low, high = BANDS[name]
    return Metric(
        f"{name}", "dB", "lower", 2, partial(_band_error, name=name),
        f"Absolute error in dB of the power from {low:g} to {high:g} Hz, in 2 s Hann windows every second, mean over windows and "
        "channels.",
    )  # fmt: skip


METRICS: dict[str, Metric] = {
    "correlation": Metric(
        "r", "", "higher", 3, _correlation, "Pearson's correlation of the waveforms, mean over channels; 0 without phase."
    ),
    "snr": Metric(
        "SNR", "dB", "higher", 2, _snr, "10 log10 of signal power over error power, means removed, mean over channels."
    ),
    "mae": Metric("MAE", "uV", "lower", 2, _mae, "Mean absolute error in microvolts, offsets included."),
    "lsd": Metric(
        "LSD", "dB", "lower", 2, _lsd,
        f"Log-spectral distance: root mean square over {LSD_RANGE[0]:g} to {LSD_RANGE[1]:g} Hz of the difference in dB of power "
        "densities (2 s Hann windows every second, floor 0.001 uV2/Hz), mean over windows and channels.",
    ),
    "spectrum_mse": Metric(
        "spectrum MSE", "", "lower", 4, _spectrum_mse,
        "Mean squared error over all cells of the magnitude spectrogram (1 s periodic Hann, half of it apart, no padding, no "
        "Nyquist bin), both signals divided by the 95 % quantile of the reference's magnitude.",
    ),
    "bands": Metric(
        "bands", "dB", "lower", 2, _mean_band_error, "Mean of the five bands' errors: delta, theta, alpha, beta, gamma."
    ),
    **{f"band_{name}": _band_metric(name) for name in BANDS},
    "alpha_kept": Metric(
        "alpha kept", "", "higher", 3, _alpha,
        "Alpha power (8 to 13 Hz) of reconstruction and original, the smaller over the larger, mean over channels: 1 is all.",
    ),
}  # fmt: skip


def compute(reference: Tensor, estimate: Tensor, spec: TokenSpec, names: Iterable[str] | None = None) -> Scores:
    """Metrics of one reconstruction.

    Args:
        reference: Original ``[C, N]`` in microvolts.
        estimate: Its reconstruction, of the same shape.
        spec: Gives ``sample_rate``.
        names: Keys of :data:`METRICS`; by default all.

    Returns:
        A float per name, or None where the metric is not defined for these signals; ``.reasons`` says why.

    Raises:
        ValueError: If a name is unknown, shapes do not fit, or the spec gives no rate.
    """
    metrics = select(METRICS, names)
    if reference.ndim != 2 or reference.shape != estimate.shape or not reference.numel():
        raise ValueError(
            f"expected two signals [C, N] of one shape, got {list(reference.shape)} and {list(estimate.shape)}"
        )
    if spec.sample_rate is None:
        raise ValueError("spec must give a sample rate, got None")
    for name, signal in (("reference", reference), ("reconstruction", estimate)):
        if not signal.isfinite().all():
            return Scores.failed(metrics, f"the {name} holds NaN or infinity")
    return measure(metrics, Pair(reference, estimate, spec.sample_rate))
