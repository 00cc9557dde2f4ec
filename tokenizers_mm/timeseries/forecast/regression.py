"""Forecasts by regression on the last samples: ridge (what DLinear can at best be) and gradient-boosted trees of scikit-learn.

Windows of all channels are pooled and standardised by their own last value and deviation, so that one model serves every scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.timeseries.forecast.baselines import carried


class RidgeForecaster:
    """One linear map of the last samples to the future, by least squares in closed form.

    Args:
        context: Samples of the past.
        penalty: Of the squared weights, times the number of windows.
    """

    def __init__(self, context: int = 96, penalty: float = 1e-3) -> None:
        self.context, self.penalty = context, penalty
        self.weight: Tensor | None = None

    def fit(self, signal: Tensor, horizon: int) -> RidgeForecaster:
        """Learn from every window of ``signal [C, N]``.

        Raises:
            ValueError: If the signal is shorter than a window.
        """
        x, y = pairs(signal, self.context, horizon)
        x, y, _, _ = relative(x.double(), y.double())
        gram = x.mT @ x + self.penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        self.weight = torch.linalg.solve(gram, x.mT @ y)
        return self

    def __call__(self, past: Tensor, horizon: int) -> Tensor:
        """``[B, C, N] -> [B, C, horizon, 1]``, at most the horizon that was fitted."""
        if self.weight is None or horizon > self.weight.shape[1]:
            raise ValueError(f"fit the forecaster for a horizon of at least {horizon} first")
        x, _, last, scale = relative(carried(past)[..., -self.context :].double())
        return ((x @ self.weight)[..., :horizon] * scale + last).to(past.dtype)[..., None]


class BoostedForecaster:
    """Gradient-boosted trees that predict the next value, applied to their own predictions for longer horizons.

    Args:
        context: Samples of the past.
        windows: Drawn for training at most.
        seed: Of that draw and of the trees.
    """

    def __init__(self, context: int = 96, windows: int = 20_000, seed: int = 0) -> None:
        self.context, self.windows, self.seed = context, windows, seed
        self.trees: Any = None

    def fit(self, signal: Tensor, horizon: int) -> BoostedForecaster:
        """Learn from windows of ``signal [C, N]``; any horizon can be asked for.

        Raises:
            ImportError: If scikit-learn is not installed.
        """
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ImportError:
            raise ImportError("boosting needs scikit-learn: pip install 'tokenizers_mm[timeseries]'") from None
        x, y = pairs(signal, self.context, 1)
        chosen = np.random.default_rng(self.seed).permutation(len(x))[: self.windows]
        x, y, _, _ = relative(x[chosen], y[chosen])
        trees = HistGradientBoostingRegressor(max_iter=100, random_state=self.seed)
        self.trees = trees.fit(x.numpy(), y[:, 0].numpy())
        return self

    def __call__(self, past: Tensor, horizon: int) -> Tensor:
        """``[B, C, N] -> [B, C, horizon, 1]``."""
        if self.trees is None:
            raise ValueError("fit the forecaster first")
        rows = carried(past)[..., -self.context :].flatten(0, 1).float()
        for _ in range(horizon):
            x, _, last, scale = relative(rows[:, -self.context :])
            following = torch.from_numpy(self.trees.predict(x.numpy())).float()[:, None] * scale + last
            rows = torch.cat([rows, following], dim=1)
        return rows[:, -horizon:].view(*past.shape[:2], horizon, 1)


def pairs(signal: Tensor, context: int, horizon: int) -> tuple[Tensor, Tensor]:
    """All windows of a signal ``[C, N]``: pasts ``[n, context]`` and futures ``[n, horizon]``.

    Raises:
        ValueError: If it is shorter than one.
    """
    if signal.shape[-1] < context + horizon:
        raise ValueError(f"a window needs {context + horizon} samples, the signal has {signal.shape[-1]}")
    windows = carried(signal).unfold(-1, context + horizon, 1).flatten(0, 1)
    return windows[:, :context], windows[:, context:]


def relative(x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pasts and futures less the last past value, over the past's deviation; and these two, ``[..., 1]``."""
    last, scale = x[..., -1:], x.std(dim=-1, correction=0, keepdim=True).clamp(min=1e-6)
    future = x[..., :0] if y is None else (y - last) / scale
    return (x - last) / scale, future, last, scale
