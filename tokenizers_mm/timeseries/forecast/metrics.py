"""Measures of forecasts: MSE, MAE, MASE (Hyndman and Koehler, 2006), and the weighted quantile loss, which approximates CRPS."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def quantiles_of(paths: Tensor, levels: tuple[float, ...] = LEVELS) -> Tensor:
    """Quantiles ``[..., len(levels)]`` of sample paths ``[..., K]``, linearly interpolated."""
    return torch.quantile(paths.float(), torch.tensor(levels, device=paths.device), dim=-1).movedim(0, -1)


def weighted_quantile_loss(target: Tensor, quantiles: Tensor, levels: tuple[float, ...] = LEVELS) -> float:
    """Twice the pinball losses summed, over the sum of absolute targets, mean over levels; missing targets left out.

    Args:
        target: ``[...]``.
        quantiles: ``[..., len(levels)]``.
        levels: Of the quantiles.
    """
    observed = ~target.isnan()
    error = (target[..., None] - quantiles)[observed].double()
    tau = torch.tensor(levels, dtype=torch.float64, device=target.device)
    pinball = torch.maximum(tau * error, (tau - 1) * error)
    return float((2 * pinball).sum(dim=0).mean() / target[observed].abs().double().sum().clamp(min=1e-12))


def mase(past: Tensor, target: Tensor, forecast: Tensor, season: int = 1) -> float:
    """Mean absolute error over that of the seasonal naive forecast within the past, mean over series that vary.

    Args:
        past: ``[..., N]`` with N > season.
        target: ``[..., H]``.
        forecast: ``[..., H]``.
        season: Samples.

    Raises:
        ValueError: If the past is not longer than a season.
    """
    if past.shape[-1] <= season:
        raise ValueError(f"past must be longer than a season of {season} samples, got {past.shape[-1]}")
    scale = (past[..., season:] - past[..., :-season]).abs().double().nanmean(dim=-1)
    error = (forecast - target).abs().double().nanmean(dim=-1)
    return float((error / scale)[scale > 0].nanmean())


def scores(past: Tensor, target: Tensor, forecast: Tensor, season: int = 1) -> dict[str, float]:
    """MSE, MAE and MASE of the median path, and WQL where there are several paths; what is not defined is left out.

    Args:
        past: ``[B, C, N]``.
        target: ``[B, C, H]``.
        forecast: Paths ``[B, C, H, K]``.
        season: Of MASE.
    """
    median = forecast.median(dim=-1).values if forecast.shape[-1] % 2 else forecast.quantile(0.5, dim=-1)
    error = (median - target).double()
    found = {"mse": float(error.square().nanmean()), "mae": float(error.abs().nanmean())}
    found["mase"] = mase(past, target, median, season)
    if forecast.shape[-1] > 1:
        found["wql"] = weighted_quantile_loss(target, quantiles_of(forecast))
    return {key: value for key, value in found.items() if math.isfinite(value)}
