"""Anomaly metrics of events: affiliation, range-based and point-adjusted F1, each the best over 100 equally spaced thresholds.

Affiliation: "Local Evaluation of Time Series Anomaly Detection Algorithms" (Huet et al., 2022). Range-based: "Precision and
Recall for Time Series" (Tatbul et al., 2018) with a flat bias, a reciprocal cardinality and an existence weight of 0.2.
Values equal those of TSB-AD (Liu & Paparrizos, 2024). The affiliation integrals are taken exactly, as sums over parts of steps
on which what is integrated is linear.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tokenizers_mm.timeseries.anomaly.curves import segments

THRESHOLDS = 100
EXISTENCE = 0.2
"""Weight of an event's being touched at all in range-based recall; the rest is how much of it is covered."""


def best_over_thresholds(scores: np.ndarray, value: Callable[[np.ndarray], float]) -> float:
    """The best value of a function of detections ``scores > threshold``, bool ``[N]``; 0 where nothing is detected."""
    detections = (scores > threshold for threshold in np.linspace(scores.min(), scores.max(), THRESHOLDS))
    return max((value(found) for found in detections if found.any()), default=0.0)


def affiliation_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """The best F1 of affiliation precision and recall.

    Each event owns the steps that are nearer to it than to any other. Precision asks how near a detected step is to its event,
    recall how near the event's steps are to a detection, both as the chance that a random step of the zone is farther.
    """
    events = segments(labels)
    zones = _zones(events, len(labels))
    nearness, owner = _nearness(events, zones, len(labels))

    def f1(found: np.ndarray) -> float:
        halves = np.repeat(found, 2)
        hit = np.bincount(owner[halves], minlength=len(events))
        near = np.bincount(owner[halves], nearness[halves], minlength=len(events))
        precision = float(np.mean(near[hit > 0] / hit[hit > 0]))
        detected = segments(found)
        recall = float(np.mean([_recall(e, z, detected) for e, z in zip(events, zones, strict=True)]))
        return _f1(precision, recall)

    return best_over_thresholds(scores, f1)


def _zones(events: np.ndarray, n: int) -> np.ndarray:
    """Borders half-way between neighbouring events, ``[K, 2]``."""
    middle = (events[:-1, 1] + events[1:, 0]) / 2
    return np.stack([np.r_[0, middle], np.r_[middle, n]], axis=1)


def _nearness(events: np.ndarray, zones: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """For every half step: the chance that a random point of its zone is at least as far from the zone's event, and the event.

    The chance is linear on each half step, so that its value in the middle is its mean.
    """
    middles = np.arange(2 * n) / 2 + 0.25
    owner = np.searchsorted(zones[:-1, 1], middles)
    (start, end), (left, right) = events[owner].T.astype(float), zones[owner].T
    distance = np.maximum(np.maximum(start - middles, middles - end), 0)
    farther = np.maximum(start - distance - left, 0) + np.maximum(right - end - distance, 0)
    return np.where(distance > 0, farther / (right - left), 1.0), owner


def _recall(event: np.ndarray, zone: np.ndarray, detected: np.ndarray) -> float:
    """Mean over an event of the chance that a random point of its zone is farther than the nearest detection of the zone."""
    inside = detected[(detected[:, 1] > zone[0]) & (detected[:, 0] < zone[1])].astype(float)
    if not len(inside):
        return 0.0
    starts, ends = np.maximum(inside[:, 0], zone[0]), np.minimum(inside[:, 1], zone[1])
    points = np.arange(4 * event[0], 4 * event[1]) / 4 + 0.125  # linear on quarters of steps
    after = np.searchsorted(starts, points, side="right")  # the first detection that starts later
    to_next = np.where(after < len(starts), starts[np.minimum(after, len(starts) - 1)] - points, np.inf)
    to_last = np.where(after > 0, np.maximum(points - ends[np.maximum(after - 1, 0)], 0), np.inf)
    distance = np.minimum(to_next, to_last)
    nearer = np.minimum(points + distance, zone[1]) - np.maximum(points - distance, zone[0])
    return float(np.mean(1 - nearer / (zone[1] - zone[0])))


def range_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """The best F1 of range-based precision and recall."""
    events = segments(labels)

    def f1(found: np.ndarray) -> float:
        detected = segments(found)
        return _f1(_range_recall(detected, labels, events, 0.0), _range_recall(events, found, detected, EXISTENCE))

    return best_over_thresholds(scores, f1)


def _range_recall(wanted: np.ndarray, found: np.ndarray, detected: np.ndarray, existence: float) -> float:
    """Mean over intervals of whether they are touched, and of how much of them is covered by how few detections."""
    covered = np.r_[0, np.cumsum(found != 0)]
    share = (covered[wanted[:, 1]] - covered[wanted[:, 0]]) / (wanted[:, 1] - wanted[:, 0])
    pieces = np.searchsorted(detected[:, 0], wanted[:, 1]) - np.searchsorted(detected[:, 1], wanted[:, 0], side="right")
    return float(np.mean(existence * (share > 0) + (1 - existence) * share / np.maximum(pieces, 1)))


def point_adjusted_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """The best F1 of steps after every touched event counts as found whole: the legacy protocol, which flatters any score."""
    events, total = segments(labels), int(labels.sum())

    def f1(found: np.ndarray) -> float:
        counts = np.r_[0, np.cumsum(found)]
        touched = counts[events[:, 1]] > counts[events[:, 0]]
        hits = int((events[touched, 1] - events[touched, 0]).sum())
        false = int(found[labels == 0].sum())
        return 2 * hits / (2 * hits + false + total - hits)

    return best_over_thresholds(scores, f1)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
