"""Anomaly metrics of labelled series, VUS-PR first; a series without anomalies, or with nothing else, is not measured.

Thresholds are chosen with the labels known (the best of each), as TSB-AD's leaderboard does: values say how well scores rank
steps, not how well a detector would alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
from torch import Tensor

from tokenizers_mm.evaluation.metric import Metric, Scores, Unmeasurable, measure, select
from tokenizers_mm.timeseries.anomaly.curves import (
    Volume,
    average_precision,
    best_f1,
    roc_auc,
    volume_under_surface,
    window_of,
)
from tokenizers_mm.timeseries.anomaly.events import affiliation_f1, point_adjusted_f1, range_f1
from tokenizers_mm.tokens import TokenSpec

__all__ = ["METRICS", "Subject", "anomaly_metrics", "compute"]


class Subject:
    """Labels and scores of one series.

    Args:
        labels: 0 or 1, ``[N]``.
        scores: ``[N]``, finite.
        window: Of VUS, in steps.

    Raises:
        ValueError: If shapes or values are wrong.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray, window: int) -> None:
        labels, scores = np.asarray(labels), np.asarray(scores, float)
        if labels.ndim != 1 or labels.shape != scores.shape or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"labels must be 0 and 1, one for each score, got {labels.shape} and {scores.shape}")
        if not np.isfinite(scores).all() or window < 0:
            raise ValueError(f"scores must be finite and window at least 0, got a window of {window}")
        self.labels, self.scores, self.window = labels.astype(int), scores, window

    @cached_property
    def volume(self) -> Volume:
        return volume_under_surface(self.labels, self.scores, self.window)


def _of(function: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Subject], float]:
    return _guarded(lambda subject: function(subject.labels, subject.scores))


def _guarded(function: Callable[[Subject], float]) -> Callable[[Subject], float]:
    def value(subject: Subject) -> float:
        if not subject.labels.any():
            raise Unmeasurable("the series has no anomaly")
        if subject.labels.all():
            raise Unmeasurable("every step is anomalous")
        return function(subject)

    return value


METRICS: dict[str, Metric] = {
    "vus_pr": Metric(
        "VUS-PR", "", "higher", 3, _guarded(lambda subject: subject.volume.pr),
        "Area under precision-recall curves, mean over softened label borders of 0 to one period (TSB-AD).",
    ),
    "auc_pr": Metric("AUC-PR", "", "higher", 3, _of(average_precision), "Average precision of single steps."),
    "affiliation_f1": Metric(
        "affiliation F1", "", "higher", 3, _of(affiliation_f1),
        "Huet et al. 2022, best of 100 equally spaced thresholds; random scores get about 0.7.",
    ),
    "range_f1": Metric(
        "R-F1", "", "higher", 3, _of(range_f1),
        "Tatbul et al. 2018: flat bias, existence weight 0.2 in recall; best of 100 equally spaced thresholds.",
    ),
    "f1": Metric("F1", "", "higher", 3, _of(best_f1), "Of single steps, best threshold."),
    "vus_roc": Metric(
        "VUS-ROC", "", "higher", 3, _guarded(lambda subject: subject.volume.roc),
        "Area under receiver operating curves, mean over softened label borders of 0 to one period (TSB-AD).",
    ),
    "auc_roc": Metric("AUC-ROC", "", "higher", 3, _of(roc_auc), "Area under the receiver operating curve of single steps."),
    "pa_f1": Metric(
        "PA-F1 (legacy)", "", "higher", 3, _of(point_adjusted_f1),
        "Point-adjusted F1: an event counts as found whole once touched. Random scores reach 0.9: never compare by it.",
    ),
}  # fmt: skip


def anomaly_metrics(labels: np.ndarray, scores: np.ndarray, window: int, names: Iterable[str] | None = None) -> Scores:
    """Anomaly metrics of one series.

    Args:
        labels: 0 or 1, ``[N]``.
        scores: Higher where more anomalous, ``[N]``.
        window: Of VUS, in steps: :func:`tokenizers_mm.timeseries.anomaly.curves.window_of` the series.
        names: Which metrics; by default all.

    Returns:
        Values by name, None with a reason where a metric is not defined.

    Raises:
        ValueError: If shapes, values or names are wrong.
    """
    return measure(select(METRICS, names), Subject(labels, scores, window))


def compute(reference: Tensor, estimate: Tensor, spec: TokenSpec, names: Iterable[str] | None = None) -> Scores:
    """Metrics of scores ``[1, N]`` of a series with labels ``[C + 1, N]``; the window is the first variate's period."""
    window = window_of(np.nan_to_num(reference[0].double().numpy()))
    return anomaly_metrics(reference[-1].numpy(), estimate[0].double().numpy(), window, names)
