"""Reconstruction metrics of series: in units of each channel's deviation, and in RevIN space, where every window counts alike.

Missing samples of the original count nowhere. RevIN: Kim et al., 2022; TOTEM is trained and judged in its space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.evaluation.metric import Metric, Scores, Unmeasurable, measure, select
from tokenizers_mm.timeseries.scaling import in_windows, revin_scale
from tokenizers_mm.tokens import TokenSpec

__all__ = ["METRICS", "Pair", "compute"]

WINDOW = 96  # samples, of RevIN


class Pair:
    """A series and its reconstruction, float64 ``[C, N]``."""

    def __init__(self, reference: Tensor, estimate: Tensor) -> None:
        self.reference, self.estimate = reference.detach().double().cpu(), estimate.detach().double().cpu()
        self.observed = ~self.reference.isnan()

    @cached_property
    def error(self) -> Tensor:
        """Estimate minus reference of what is observed, 0 elsewhere."""
        return (self.estimate - self.reference).masked_fill(~self.observed, 0)

    @cached_property
    def deviation(self) -> Tensor:
        """Of each channel, ``[C, 1]``; 1 where a channel is constant."""
        values = [row[seen] for row, seen in zip(self.reference, self.observed, strict=True)]
        found = torch.stack([v.std(correction=0) if len(v) else v.new_zeros(()) for v in values])
        return torch.where(found > 0, found, torch.ones_like(found))[:, None]

    @cached_property
    def revin_error(self) -> Tensor:
        """Errors in units of each window's own deviation, ``[C, N]``."""
        windows = in_windows(self.reference[None], WINDOW)
        _, deviation = revin_scale(windows)
        errors = in_windows(self.error[None], WINDOW) / deviation[..., None]
        return errors.flatten(2)[0, :, : self.error.shape[1]]

    def mean(self, values: Tensor) -> float:
        """Mean over what is observed."""
        return float(values.sum() / self.observed.sum())


def _correlation(pair: Pair) -> float:
    found = []
    for a, b, seen in zip(pair.reference, pair.estimate, pair.observed, strict=True):
        x, y = a[seen] - a[seen].mean(), b[seen] - b[seen].mean()
        if x.norm() > 0:
            found.append(float((x @ y) / (x.norm() * y.norm()).clamp(min=1e-12)))
    if not found:
        raise Unmeasurable("every channel is constant")
    return sum(found) / len(found)


def _spectrum(pair: Pair) -> float:
    if not pair.observed.all():
        raise Unmeasurable("samples are missing")
    if pair.reference.shape[1] < 8:
        raise Unmeasurable("fewer than 8 samples")
    centred = [x - pair.reference.mean(dim=1, keepdim=True) for x in (pair.reference, pair.estimate)]
    one, two = (torch.fft.rfft(x / pair.deviation, norm="ortho").abs() for x in centred)
    return float((one - two).abs().mean())


METRICS: dict[str, Metric] = {
    "revin_mse": Metric(
        "RevIN MSE", "", "lower", 4, lambda p: p.mean(p.revin_error.square()),
        f"Mean squared error in units of sqrt(variance + 1e-5) of each channel's windows of {WINDOW} samples.",
    ),
    "revin_mae": Metric(
        "RevIN MAE", "", "lower", 4, lambda p: p.mean(p.revin_error.abs()), "Mean absolute error in the same units."
    ),
    "mse": Metric(
        "MSE", "", "lower", 4, lambda p: p.mean(p.error.square()),
        "Mean squared error in the units of the data as they are read (ETT: standardised by the training rows).",
    ),
    "mae": Metric("MAE", "", "lower", 4, lambda p: p.mean(p.error.abs()), "Mean absolute error in the same units."),
    "scaled_mse": Metric(
        "scaled MSE", "", "lower", 4, lambda p: p.mean((p.error / p.deviation).square()),
        "Mean squared error in units of each channel's deviation over the item.",
    ),
    "correlation": Metric(
        "correlation", "", "higher", 4, _correlation, "Pearson's, mean over the channels that are not constant."
    ),
    "spectrum": Metric(
        "spectral L1", "", "lower", 4, _spectrum,
        "Mean absolute difference of orthonormal magnitude spectra of the channels in units of their deviation.",
    ),
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
        reference: Original ``[C, N]``, NaN where missing.
        estimate: Its reconstruction, of the same shape.
        spec: The codec's.
        names: Keys of :data:`METRICS`; by default all.
        models: Not used: no metric here needs one.
        about: What is known of the series besides its values.

    Returns:
        A float per name, or None where the metric is not defined for this series; ``.reasons`` says why.

    Raises:
        ValueError: If a name is unknown or shapes do not fit.
    """
    metrics = select(METRICS, names)
    if reference.ndim != 2 or reference.shape != estimate.shape or not reference.numel():
        raise ValueError(f"expected two series [C, N], got {list(reference.shape)} and {list(estimate.shape)}")
    pair = Pair(reference, estimate)
    if not pair.observed.any():
        return Scores.failed(metrics, "every sample is missing")
    if not pair.estimate[pair.observed].isfinite().all():
        return Scores.failed(metrics, "the reconstruction holds NaN or infinity where the original does not")
    return measure(metrics, pair, models)
