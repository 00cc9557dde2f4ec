"""Imputation by a codec that was trained on windows with hidden samples: gaps get what its decoder says was there.

Talukder et al., "TOTEM", 2024: a tokenizer trained with half of its samples hidden (``mask_ratio=0.5``); gaps are 0 once
normalised.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenizers_mm.codec import Codec
from tokenizers_mm.timeseries.forecast.baselines import carried


def impute(codec: Codec, x: Tensor) -> Tensor:
    """Series with their gaps filled, what was observed left as it is.

    Args:
        codec: Of series, trained for it.
        x: ``[B, C, N]``, NaN where missing.

    Raises:
        TypeError, ValueError: As ``codec.encode``.
        ValueError: If the codec takes no series with gaps.
    """
    if not codec.allows_missing:
        raise ValueError(f"codec must be one of series with gaps, got {type(codec).__name__}")
    tokens = codec.encode(x)
    whole = replace(tokens, side={name: value for name, value in tokens.side.items() if name != "missing"})
    return torch.where(x.isnan(), codec.decode(whole).to(x), x)


def imputation_errors(codec: Codec, windows: Tensor, ratio: float, generator: torch.Generator) -> dict[str, float]:
    """Errors on samples that were hidden at random, of the codec and of carrying the last value forward.

    Args:
        codec: See :func:`impute`.
        windows: ``[B, C, N]`` without gaps.
        ratio: Share of the samples that is hidden.
        generator: Of the draw.

    Returns:
        ``mse``, ``mae``, and ``carried_mse`` and ``carried_mae``.

    Raises:
        ValueError: If the ratio is not between 0 and 1, or nothing was hidden.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must be between 0 and 1, got {ratio}")
    hidden = torch.rand(windows.shape, generator=generator) < ratio
    if not hidden.any():
        raise ValueError(f"nothing of {list(windows.shape)} samples was hidden at ratio {ratio}")
    seen = windows.masked_fill(hidden, float("nan"))
    found: dict[str, float] = {}
    for prefix, filled in (("", impute(codec, seen)), ("carried_", carried(seen))):
        error = (filled - windows)[hidden].double()
        found |= {f"{prefix}mse": float(error.square().mean()), f"{prefix}mae": float(error.abs().mean())}
    return found
