"""Areas under curves of an anomaly score over all thresholds, with sharp and with softened borders of the labels.

VUS: "Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series Anomaly Detection" (Paparrizos et al., 2022),
as the TSB-AD benchmark (Liu & Paparrizos, 2024) computes it: the area under the precision-recall curve is a sum of steps, and
thresholds are taken at equally spaced ranks. Values equal TSB-AD's; the work is one sort and, per window, one running sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.signal import argrelextrema

THRESHOLDS = 250
PERIOD_STEPS = 20_000
"""Steps that a series's period is estimated from."""
DEFAULT_WINDOW = 125
"""Where a series has no period of a usable length."""


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve as a sum of steps; equal scores are one threshold."""
    hits, found = _cumulative(labels, scores)
    precision, recall = hits / found, hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the receiver operating curve."""
    hits, found = _cumulative(labels, scores)
    false = found - hits
    return float(np.trapezoid(np.r_[0, hits / hits[-1]], np.r_[0, false / false[-1]]))


def best_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """The best F1 of single steps over all thresholds (with TSB-AD's 1e-5 in the denominator)."""
    hits, found = _cumulative(labels, scores)
    precision, recall = hits / found, hits / hits[-1]
    return float(np.max(2 * precision * recall / (precision + recall + 1e-5)))


def _cumulative(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits and detections at each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    return np.cumsum(labels[order])[last].astype(float), last + 1.0


@dataclass(frozen=True)
class Volume:
    """Mean area over all border widths from 0 to the window.

    Args:
        pr: VUS-PR.
        roc: VUS-ROC.
    """

    pr: float
    roc: float


def volume_under_surface(labels: np.ndarray, scores: np.ndarray, window: int) -> Volume:
    """VUS-PR and VUS-ROC.

    Args:
        labels: 0 or 1, ``[N]``, both of them there.
        scores: Higher is more anomalous, ``[N]``.
        window: Widest softened border, in steps: about a period of the series.
    """
    n = len(scores)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    thresholds = ranked[np.linspace(0, n - 1, THRESHOLDS).astype(int)]
    found = np.searchsorted(-ranked, -thresholds, side="right").astype(float)  # ties are found together
    events = segments(labels)
    areas = [_areas(labels, scores, order, thresholds, found, events, width) for width in range(window + 1)]
    pr, roc = np.mean(areas, axis=0)
    return Volume(float(pr), float(roc))


def _areas(
    labels: np.ndarray,
    scores: np.ndarray,
    order: np.ndarray,
    thresholds: np.ndarray,
    found: np.ndarray,
    events: np.ndarray,
    width: int,
) -> tuple[float, float]:
    """Areas under the precision-recall and the receiver operating curve for one width of the borders."""
    soft, total = soften(labels, events, width), float(labels.sum())
    hits = np.cumsum(soft[order])[found.astype(int) - 1]
    in_events = np.cumsum(labels[order])[found.astype(int) - 1]
    mass = (total + total + hits - in_events) / 2  # of sharp labels, and of sharp ones and the borders found
    reached = np.array([scores[start:end].max() for start, end in _merged(events, width, len(labels))])
    share = (reached[:, None] >= thresholds).mean(axis=0)
    recall = np.minimum(hits / mass, 1) * share
    precision, false = hits / found, (found - hits) / (len(labels) - mass)
    pr = np.sum(np.diff(recall, prepend=0.0) * precision)
    return float(pr), float(np.trapezoid(np.r_[0, recall, 1], np.r_[0, false, 1]))


def soften(labels: np.ndarray, events: np.ndarray, width: int) -> np.ndarray:
    """Labels whose borders fall off as ``sqrt(1 - distance / width)`` over half a width on each side."""
    soft, n = labels.astype(float), len(labels)
    for start, end in events:
        after = np.arange(end, min(end + width // 2, n - 1))  # TSB-AD leaves a series's last step out
        soft[after] += np.sqrt(1 - (after - end + 1) / max(width, 1))
        before = np.arange(max(start - width // 2, 0), start)
        soft[before] += np.sqrt(1 - (start - before) / max(width, 1))
    return np.minimum(soft, 1)


def _merged(events: np.ndarray, width: int, n: int) -> list[tuple[int, int]]:
    """Events with their borders; those whose borders meet are one."""
    half = width // 2
    merged = [[max(int(events[0][0]) - half, 0), 0]]
    for (_, end), (start, _) in pairwise(events):
        if end - 1 + half < start - half:
            merged[-1][1] = int(end) + half
            merged.append([int(start) - half, 0])
    merged[-1][1] = min(int(events[-1][1]) + half, n)
    return [(start, end) for start, end in merged]


def segments(labels: np.ndarray) -> np.ndarray:
    """Runs of labelled steps as half-open intervals, int ``[K, 2]``."""
    edges = np.flatnonzero(np.diff(np.r_[0, labels != 0, 0].astype(int)))
    return edges.reshape(-1, 2)


def window_of(series: np.ndarray) -> int:
    """The period of a series by its autocorrelation, as TSB-AD takes the window of VUS from it.

    Args:
        series: ``[N]``, without its anomalies being known.

    Returns:
        The best local maximum among the lags from 6 to 303; 125 where there is none.
    """
    x = series[:PERIOD_STEPS] - np.mean(series[:PERIOD_STEPS])
    n, power = len(x), float(np.sum(np.square(x)))
    if power <= 0 or not np.isfinite(power):
        return DEFAULT_WINDOW
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    correlation = np.fft.irfft(np.abs(np.fft.rfft(x, size)) ** 2, size)[3 : min(401, n)] / power
    maxima = argrelextrema(correlation, np.greater)[0]
    if not len(maxima):
        return DEFAULT_WINDOW
    best = int(maxima[np.argmax(correlation[maxima])])
    return best + 3 if 3 <= best <= 300 else DEFAULT_WINDOW
