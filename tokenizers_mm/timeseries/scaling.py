"""Scales of series with missing values: per window and channel, over time.

RevIN without affine weights: Kim et al., "Reversible Instance Normalization for Accurate Time-Series Forecasting against
Distribution Shift", 2022. The mean scale is Chronos' (Ansari et al., 2024).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5  # of RevIN, added to the variance


def mean_scale(x: Tensor) -> Tensor:
    """Mean absolute value of what is observed along the last axis, 1 where that is 0 or nothing is: ``[...]``."""
    observed = ~torch.isnan(x)
    scale = torch.nansum(x.abs(), dim=-1) / observed.sum(dim=-1)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def standard_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of what is observed along the last axis; 0 where nothing is, and 1 where nothing varies: ``[...]``."""
    mean, variance = _moments(x)
    deviation = variance.sqrt()
    return mean, torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def revin_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """RevIN's mean and ``sqrt(variance + 1e-5)`` of what is observed along the last axis: ``[...]``."""
    mean, variance = _moments(x)
    return mean, (variance + EPSILON).sqrt()


def in_windows(x: Tensor, window: int | None) -> Tensor:
    """A signal ``[B, C, N]`` as windows ``[B, C, W, window]``, NaN past its end; as one window for None."""
    if window is None or window >= x.shape[-1]:
        return x[:, :, None]
    x = F.pad(x, (0, -x.shape[-1] % window), value=float("nan"))
    return rearrange(x, "b c (w n) -> b c w n", n=window)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance; deviations are taken from the mean first, for series far from zero."""
    missing = torch.isnan(x)
    count = (~missing).sum(dim=-1).clamp(min=1)
    mean = x.masked_fill(missing, 0).sum(dim=-1) / count
    deviations = (x - mean[..., None]).masked_fill(missing, 0)
    return mean, deviations.square().sum(dim=-1) / count
