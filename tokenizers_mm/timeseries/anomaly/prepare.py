"""What every scorer does to a series first: check it, and fill gaps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def prepared(series: Tensor) -> Tensor:
    """A series as float64 ``[C, N]`` without gaps: missing values lie on a line between their neighbours.

    Args:
        series: ``[N]`` or ``[C, N]``, whole numbers or floats, NaN where missing.

    Raises:
        TypeError: If it is not a tensor of real numbers.
        ValueError: If it is empty or of another shape, holds infinity, or a variate has no value at all.
    """
    if not isinstance(series, Tensor) or series.is_complex() or series.dtype == torch.bool:
        kind = series.dtype if isinstance(series, Tensor) else type(series).__name__
        raise TypeError(f"series must be a tensor of real numbers, got {kind}")
    if series.ndim not in (1, 2) or series.numel() == 0:
        raise ValueError(f"series must be [N] or [C, N] with at least one step, got {list(series.shape)}")
    x = series.detach().cpu().double().reshape(-1, series.shape[-1])
    if bool(x.isinf().any()):
        raise ValueError(f"series must not hold infinity, variate {int(x.isinf().any(dim=1).nonzero()[0])} does")
    missing = x.isnan()
    if not bool(missing.any()):
        return x
    if bool((empty := missing.all(dim=1)).any()):
        raise ValueError(f"series must have values, variate {int(empty.nonzero()[0])} is missing throughout")
    filled, steps = x.numpy().copy(), np.arange(x.shape[1])
    for row, gaps in zip(filled, missing.numpy(), strict=True):
        if gaps.any():
            row[gaps] = np.interp(steps[gaps], steps[~gaps], row[~gaps])
    return torch.from_numpy(filled)
