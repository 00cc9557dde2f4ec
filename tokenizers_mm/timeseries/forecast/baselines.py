"""Forecasts to beat: the last value, the last season, and DLinear (Zeng et al., "Are Transformers Effective for Time Series
Forecasting?", 2023). All are per channel; missing values of the past are carried forward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LastValue:
    """The last value, repeated."""

    def __call__(self, past: Tensor, horizon: int) -> Tensor:
        """``[B, C, N] -> [B, C, horizon, 1]``."""
        return carried(past)[..., -1:, None].expand(*past.shape[:2], horizon, 1)


class SeasonalNaive:
    """The last season, repeated.

    Args:
        season: Samples; a shorter past is repeated whole.
    """

    def __init__(self, season: int) -> None:
        if season < 1:
            raise ValueError(f"season must be at least 1 sample, got {season}")
        self.season = season

    def __call__(self, past: Tensor, horizon: int) -> Tensor:
        """``[B, C, N] -> [B, C, horizon, 1]``."""
        last = carried(past)[..., -self.season :]
        return last.repeat(1, 1, -(-horizon // last.shape[-1]))[..., :horizon, None]


class DLinear(nn.Module):
    """One linear map of the moving average and one of what is left, shared by the channels.

    Args:
        context: Samples N of the past.
        horizon: Samples H ahead.
        kernel: Of the moving average, odd.
    """

    def __init__(self, context: int = 96, horizon: int = 96, kernel: int = 25) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        self.context, self.horizon, self.kernel = context, horizon, kernel
        self.trend = nn.Linear(context, horizon)
        self.rest = nn.Linear(context, horizon)
        for layer in (self.trend, self.rest):
            nn.init.constant_(layer.weight, 1 / context)

    def forward(self, past: Tensor, horizon: int | None = None) -> Tensor:
        """``[B, C, N] -> [B, C, horizon, 1]`` for the horizon that it was built for.

        Raises:
            ValueError: For another horizon, or too short a past.
        """
        if horizon not in (None, self.horizon) or past.shape[-1] < self.context:
            raise ValueError(
                f"expected a past of at least {self.context} samples and horizon {self.horizon}, "
                f"got {past.shape[-1]} and {horizon}"
            )
        x = carried(past)[..., -self.context :]
        smooth = F.avg_pool1d(F.pad(x, (self.kernel // 2, self.kernel // 2), mode="replicate"), self.kernel, 1)
        return (self.trend(smooth) + self.rest(x - smooth))[..., None]


def carried(x: Tensor) -> Tensor:
    """Missing values replaced by the last observed one, or by the first where none came before; 0 where nothing is observed."""
    missing = x.isnan()
    if not missing.any():
        return x
    at = torch.arange(x.shape[-1], device=x.device).expand_as(x)
    last = at.masked_fill(missing, -1).cummax(dim=-1).values
    first = at.masked_fill(missing, x.shape[-1]).amin(dim=-1, keepdim=True).clamp(max=x.shape[-1] - 1)
    return x.gather(-1, torch.where(last < 0, first, last)).nan_to_num(nan=0.0)
