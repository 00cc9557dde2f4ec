"""Detectors without training: z-score, PCA and isolation forest of subsequences, matrix profile.

Subsequences are one period of the series long (as TSB-AD, Liu & Paparrizos, 2024, runs them), at most a quarter of it; the
score of one stands at its middle.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from tokenizers_mm.timeseries.anomaly.curves import window_of
from tokenizers_mm.timeseries.anomaly.prepare import prepared
from tokenizers_mm.timeseries.windows import standardise

SMALLEST_SHARE = 1e-12  # of the variance; a component with none has no direction
WIDEST = 1024
"""Most values of a subsequence of all variates together; more variates are averaged first, in groups."""


class ZScore:
    """Distance from the mean in deviations, mean over variates."""

    module: nn.Module | None = None
    definition = "Absolute distance from the series's mean in its deviations, mean over variates"

    def score(self, signal: Tensor) -> Tensor:
        """Scores ``[N]`` of ``[C, N]``."""
        return standardise(prepared(signal)).abs().mean(dim=0)


class SubPCA:
    """Principal components of subsequences; the score is the distance to each, divided by the variance it explains.

    "A Novel Anomaly Detection Scheme Based on Principal Component Classifier" (Shyu et al., 2003), as PyOD and TSB-AD have it.
    """

    module: nn.Module | None = None
    definition = (
        "Sum over principal components of subsequences of the distance to each, divided by its share of the variance"
    )

    def score(self, signal: Tensor) -> Tensor:
        """Scores ``[N]`` of ``[C, N]``."""
        x, window = _subject(signal)
        parts = _subsequences(x, window)
        parts = parts - parts.mean(axis=0)
        deviation = parts.std(axis=0)
        parts = parts / np.where(deviation > 0, deviation, 1)
        variance, components = np.linalg.eigh(parts.T @ parts / len(parts))
        total = float(variance.sum())
        if total <= 0:
            return torch.zeros(x.shape[1])
        kept = variance / total > SMALLEST_SHARE
        share, vectors = variance[kept] / total, components[:, kept]
        squares = np.square(parts).sum(axis=1, keepdims=True) + 1 - 2 * parts @ vectors
        return _at_middles(np.sqrt(np.maximum(squares, 0)) @ (1 / share), window)


class IsolationForest:
    """How few random splits isolate a subsequence ("Isolation Forest", Liu et al., 2008; scikit-learn).

    Args:
        trees: How many.
        seed: Of the splits.
    """

    module: nn.Module | None = None

    def __init__(self, trees: int = 100, seed: int = 0) -> None:
        self.trees, self.seed = trees, seed
        self.definition = f"Isolation forest of {trees} trees over subsequences (scikit-learn)"

    def score(self, signal: Tensor) -> Tensor:
        """Scores ``[N]`` of ``[C, N]``."""
        from sklearn.ensemble import IsolationForest as Forest

        x, window = _subject(signal)
        parts = _subsequences(x, window).astype(np.float32)
        return _at_middles(
            -Forest(n_estimators=self.trees, random_state=self.seed).fit(parts).score_samples(parts), window
        )


class MatrixProfile:
    """Distance of each subsequence to the most similar other one ("Matrix Profile I", Yeh et al., 2016; stumpy), mean over
    variates."""

    module: nn.Module | None = None
    definition = (
        "Matrix profile of subsequences: z-normalised distance to the nearest other one (stumpy), mean over variates"
    )

    def score(self, signal: Tensor) -> Tensor:
        """Scores ``[N]`` of ``[C, N]``; zeros where the series is too short for two subsequences."""
        import stumpy

        x, window = _subject(signal)
        if window < 3:
            return torch.zeros(x.shape[1])
        with warnings.catch_warnings():  # stumpy takes series that repeat exactly for a mistake
            warnings.simplefilter("ignore", UserWarning)
            profiles = [np.asarray(stumpy.stump(row, window)[:, 0], float) for row in x]
        return _at_middles(np.nan_to_num(np.mean(profiles, axis=0), posinf=0.0), window)


def _subject(signal: Tensor) -> tuple[np.ndarray, int]:
    """The standardised series ``[C, N]``, and its subsequences' length."""
    x = standardise(prepared(signal)).double().numpy()
    window = max(1, min(window_of(x[0]), x.shape[1] // 4))
    groups = max(1, WIDEST // window)
    if len(x) > groups:
        x = np.stack([part.mean(axis=0) for part in np.array_split(x, groups)])
    return x, window


def _subsequences(x: np.ndarray, window: int) -> np.ndarray:
    """All of them, variates one after another: ``[N - window + 1, C * window]``."""
    views = sliding_window_view(x, window, axis=1)
    return views.transpose(1, 0, 2).reshape(views.shape[1], -1)


def _at_middles(scores: np.ndarray, window: int) -> Tensor:
    """Scores of subsequences at their middle samples, the first and the last repeated at the ends."""
    return torch.from_numpy(np.pad(scores, ((window) // 2, (window - 1) // 2), mode="edge")).float()
