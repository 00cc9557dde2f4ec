"""Scores of a series of any length from a network that sees a window: overlapping windows, logits averaged.

A step near the border of a window lacks half of its surroundings, so that windows overlap and a step counts the more the
nearer it is to a window's middle. Series are standardised whole, each variate by its own mean and deviation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers_mm.timeseries.timercd import TimeRCD

SMALLEST_DEVIATION = 1e-8
MOST_VARIATES = 64
"""In one window: about as many as the published weights were trained on."""


def predict(
    model: TimeRCD, x: Tensor, *, window: int, overlap: float, batch_size: int, max_patches: int
) -> tuple[Tensor, Tensor]:
    """Score every step of one series.

    Args:
        model: In evaluation mode.
        x: ``[N]`` or ``[C, N]``, any scale, whole numbers or floats, all finite.
        window: Steps that the network sees at once; shorter series are one window.
        overlap: Share of a window that the next one repeats, in [0, 1).
        batch_size: Windows at once.
        max_patches: Most patches of all variates in one window; more variates, or more than :data:`MOST_VARIATES`, are scored
            in groups, logits averaged.

    Returns:
        Probabilities of an anomaly ``[N]`` and logits (anomalous minus normal) ``[N]``.

    Raises:
        TypeError: If ``x`` is not a real tensor.
        ValueError: If its shape, its values or a setting is wrong.
    """
    series = standardise(x)
    if window < 1 or not 0 <= overlap < 1 or batch_size < 1 or max_patches < 1:
        raise ValueError(
            f"window, batch_size and max_patches must be at least 1 and overlap in [0, 1), "
            f"got {window}, {batch_size}, {max_patches} and {overlap}"
        )
    was_training = model.training
    model.eval()
    try:
        logits = torch.zeros(series.shape[-1], dtype=torch.float64)
        patches = -(-min(window, series.shape[-1]) // model.patch_size)
        for group in _groups(series, max(2, min(MOST_VARIATES, max_patches // patches))):
            logits += _windowed(model, group, window, overlap, batch_size) * (len(group) / len(series))
    finally:
        model.train(was_training)
    return logits.sigmoid().float(), logits.float()


def standardise(x: Tensor) -> Tensor:
    """``x`` as float32 ``[C, N]``, each variate with mean 0 and population deviation 1 (a constant one becomes zeros)."""
    if not isinstance(x, Tensor) or x.is_complex() or x.dtype == torch.bool:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a tensor of real numbers, got {kind}")
    if x.ndim not in (1, 2) or x.numel() == 0:
        raise ValueError(f"x must be one series [N] or [C, N] with at least one step, got {list(x.shape)}")
    x = x.detach().cpu().double().reshape(-1, x.shape[-1])  # a large offset would eat float32's digits
    if not x.isfinite().all():
        variate = int((~x.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"x must be finite, variate {variate} holds NaN or infinity: fill or drop them first")
    x = x - x.mean(dim=1, keepdim=True)
    largest = x.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST_DEVIATION)
    x = x / largest  # squares of huge values would overflow
    deviation = x.std(dim=1, correction=0, keepdim=True).clamp(min=SMALLEST_DEVIATION)
    return (x / deviation).float()


def starts(n: int, window: int, overlap: float) -> list[int]:
    """First steps of the windows over a series; the last one ends with it."""
    if n <= window:
        return [0]
    hop = max(1, round(window * (1 - overlap)))
    return [*range(0, n - window, hop), n - window]


def _groups(series: Tensor, most: int) -> list[Tensor]:
    """Variates in groups of about equal size; none is alone unless the series is of one variate."""
    count = max(1, min(-(-len(series) // most), len(series) // 2))
    return list(torch.tensor_split(series, count))


def _windowed(model: TimeRCD, series: Tensor, window: int, overlap: float, batch_size: int) -> Tensor:
    """Weighted mean of the logits of all windows over each step, float64 ``[N]``."""
    n = series.shape[-1]
    window = min(window, n)
    ramp = torch.arange(1, window + 1, dtype=torch.float64)
    weight = torch.minimum(ramp, ramp.flip(0))
    total, weights = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    places = starts(n, window, overlap)
    for first in range(0, len(places), batch_size):
        some = places[first : first + batch_size]
        batch = torch.stack([series[:, start : start + window] for start in some]).to(model.device)
        logits = model(batch).logits
        for start, found in zip(some, (logits[..., 1] - logits[..., 0]).double().cpu(), strict=True):
            total[start : start + window] += weight * found
            weights[start : start + window] += weight
    return total / weights
