"""Anomaly metrics: TSB-AD's values to six digits, a slow implementation from the definitions, perfect and useless scores."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.timeseries.anomaly.curves import segments, soften, volume_under_surface, window_of
from tokenizers_mm.timeseries.anomaly.events import affiliation_f1, point_adjusted_f1, range_f1
from tokenizers_mm.timeseries.anomaly.metrics import METRICS, anomaly_metrics, compute
from tokenizers_mm.tokens import TokenSpec

NAMES = ("auc_pr", "auc_roc", "vus_pr", "vus_roc", "f1", "pa_f1", "range_f1", "affiliation_f1")
# Made by TSB-AD's get_metrics on the vectors of vector(seed), with a window of 10 + 20 * seed.
TSB_AD = {
    0: (0.6909772304, 0.9006382979, 0.704631433, 0.9234124678, 0.7233996379, 1.0, 0.5294117647, 0.9955259006),
    1: (0.5848772579, 0.8602314815, 0.6119797312, 0.882368638, 0.6046469443, 1.0, 0.4358706986, 0.9965726081),
    2: (0.6492995236, 0.8430965392, 0.7152226552, 0.8982223708, 0.6567120072, 1.0, 0.3959488514, 0.9980427182),
}
SPEC_001_NAB = (0.137741, 0.507422, 0.135775, 0.512937, 0.157930, 1.0, 0.643616, 0.968482)
DATA = os.environ.get("TOKENIZERS_MM_DATA")


def vector(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = 500 + 100 * seed
    labels = np.zeros(n, int)
    for start in rng.integers(0, n - 50, 3):
        labels[start : start + 10 + 10 * seed] = 1
    scores = rng.random(n) + 0.5 * labels
    return labels, np.round(scores, 1) if seed == 1 else scores  # with many ties


@pytest.mark.parametrize("seed", TSB_AD)
def test_values_are_those_of_tsb_ad(seed: int) -> None:
    labels, scores = vector(seed)
    found = anomaly_metrics(labels, scores, 10 + 20 * seed)
    assert [found[name] for name in NAMES] == pytest.approx(TSB_AD[seed], abs=1e-9)


@pytest.mark.skipif(not DATA, reason="TOKENIZERS_MM_DATA names no folder of real data")
def test_values_on_001_nab_are_those_of_tsb_ad() -> None:
    with gzip.open(Path(str(DATA)) / "timeseries" / "nab.csv.gz", "rt") as file:
        rows = [
            row for row in csv.DictReader(file) if row["series"] == "realKnownCause/ec2_request_latency_system_failure"
        ]
    values = np.array([float(row["value"]) for row in rows[1:]])
    labels = np.array([int(row["in_window"]) for row in rows[1:]])
    labels[[2013, 3327, 3955]] = 0  # TSB-AD's windows begin a step later
    scores = np.abs(values - values.mean()) / values.std()
    assert window_of(values) == 6
    found = anomaly_metrics(labels, scores, 6)
    assert [round(float(found[name] or 0), 6) for name in NAMES] == pytest.approx(SPEC_001_NAB, abs=5e-7)


def test_perfect_scores_are_perfect() -> None:
    for n, pieces in ((2000, [(100, 160)]), (5000, [(0, 40), (700, 800), (4950, 5000)])):
        labels = np.zeros(n, int)
        for start, end in pieces:
            labels[start:end] = 1
        found = anomaly_metrics(labels, labels + 0.0, 0)
        assert found["auc_pr"] == 1
        assert found["vus_pr"] > 0.999
        assert found["auc_roc"] == found["affiliation_f1"] == found["range_f1"] == found["pa_f1"] == 1
        # with borders, a score that falls off as they do
        soft = soften(labels, segments(labels), 50)
        assert anomaly_metrics(labels, soft, 50)["vus_pr"] > 0.9


def test_a_constant_score_is_worth_the_share_of_anomalies() -> None:
    labels, _ = vector(0)
    found = anomaly_metrics(labels, np.full(len(labels), 3.0), 20)
    assert found["auc_pr"] == pytest.approx(labels.mean())
    assert found["auc_roc"] == pytest.approx(0.5)
    assert found["affiliation_f1"] == found["range_f1"] == found["pa_f1"] == 0


def test_point_adjustment_flatters_random_scores() -> None:
    labels = np.zeros(4000, int)
    labels[1000:1400] = 1
    scores = np.random.default_rng(0).random(4000)
    assert point_adjusted_f1(labels, scores) > 0.9
    assert anomaly_metrics(labels, scores, 50)["vus_pr"] < 0.2
    assert "legacy" in METRICS["pa_f1"].name


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_values_lie_in_the_unit_interval_and_depend_on_ranks(data: st.DataObject) -> None:
    n = data.draw(st.integers(30, 200))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    labels = (np.convolve(rng.random(n), np.ones(5) / 5, "same") > 0.55).astype(int)
    if not 0 < labels.sum() < n:
        return
    scores = rng.random(n)
    window = data.draw(st.integers(0, 40))
    found = anomaly_metrics(labels, scores, window)
    assert all(0 <= value <= 1 + 1e-12 for value in found.values())
    ranked = anomaly_metrics(labels, np.exp(5 * scores), window)
    for name in ("auc_pr", "auc_roc", "vus_pr", "vus_roc", "f1"):
        assert ranked[name] == pytest.approx(found[name])


def slow_volume(labels: np.ndarray, scores: np.ndarray, window: int) -> float:
    """VUS-PR with a loop over everything, for far-apart events inside the series."""
    areas = []
    for width in range(window + 1):
        soft = labels.astype(float)
        for start, end in segments(labels):
            for distance in range(1, width // 2 + 1):
                value = np.sqrt(1 - distance / width)
                soft[end - 1 + distance] = max(soft[end - 1 + distance], value)
                soft[start - distance] = max(soft[start - distance], value)
        ranked = np.sort(scores)[::-1]
        last, area = 0.0, 0.0
        for place in np.linspace(0, len(scores) - 1, 250).astype(int):
            found = scores >= ranked[place]
            hits = (soft * found).sum()
            mass = (labels.sum() + labels.sum() + (soft * found * (labels == 0)).sum()) / 2
            touched = [found[max(s - width // 2, 0) : e + width // 2].any() for s, e in segments(labels)]
            recall = min(hits / mass, 1) * np.mean(touched)
            area += (recall - last) * hits / found.sum()
            last = recall
        areas.append(area)
    return float(np.mean(areas))


def test_the_volume_is_what_a_loop_makes_of_its_definition() -> None:
    rng = np.random.default_rng(1)
    labels = np.zeros(700, int)
    labels[100:130] = labels[400:405] = 1
    scores = rng.random(700) + 0.4 * labels
    assert volume_under_surface(labels, scores, 24).pr == pytest.approx(slow_volume(labels, scores, 24))


def test_affiliation_by_random_points() -> None:
    """Precision and recall of one event by drawing points of its zone, as the measure is defined."""
    labels, scores = np.zeros(300, int), np.zeros(300)
    labels[120:160] = 1
    scores[170:180] = scores[100:105] = 1.0
    rng = np.random.default_rng(0)
    zone = rng.uniform(0, 300, 4000)
    to_event = np.maximum(np.maximum(120 - zone, zone - 160), 0)
    found = np.concatenate([rng.uniform(170, 180, 2000), rng.uniform(100, 105, 1000)])
    near = np.maximum(np.maximum(120 - found, found - 160), 0)
    precision = np.mean(to_event[None] >= near[:, None])
    event = rng.uniform(120, 160, 2000)
    nearest = np.minimum(np.maximum(170 - event, 0), np.maximum(event - 105, 0))
    recall = np.mean(np.abs(event[:, None] - zone[None]) >= nearest[:, None])
    assert affiliation_f1(labels, scores) == pytest.approx(2 * precision * recall / (precision + recall), abs=0.01)


def test_range_f1_by_hand() -> None:
    labels, scores = np.zeros(20, int), np.zeros(20)
    labels[2:6] = labels[10:12] = 1
    scores[[2, 4, 15]] = 1.0
    # first event: half covered in two pieces; precision: two of three detections inside the event
    recall = (0.2 + 0.8 * 0.5 / 2) / 2
    precision = 2 / 3
    assert range_f1(labels, scores) == pytest.approx(2 * recall * precision / (recall + precision))


@pytest.mark.parametrize(("labels", "says"), [(np.zeros(50, int), "no anomaly"), (np.ones(50, int), "every step")])
def test_what_cannot_be_measured_says_why(labels: np.ndarray, says: str) -> None:
    found = anomaly_metrics(labels, np.random.default_rng(0).random(50), 5)
    assert set(found.values()) == {None}
    assert all(says in reason for reason in found.reasons.values())


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        (np.zeros(5), np.zeros(4)),
        (np.array([0, 2, 1]), np.zeros(3)),
        (np.zeros((2, 2)), np.zeros((2, 2))),
        (np.array([0, 1]), np.array([0.0, np.nan])),
    ],
)
def test_bad_input_is_one_error(labels: np.ndarray, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        anomaly_metrics(labels, scores, 3)


def test_the_window_is_the_period() -> None:
    steps = np.arange(3000)
    noise = 0.05 * np.random.default_rng(0).standard_normal(3000)
    assert window_of(np.sin(2 * np.pi * steps / 48) + noise) in range(45, 52)
    assert window_of(np.full(500, 2.0)) == 125
    assert window_of(np.arange(10.0)) == 125
    assert window_of(np.zeros(1)) == 125


def test_compute_takes_labels_and_period_from_the_labelled_signal() -> None:
    labels, scores = vector(0)
    series = np.sin(np.arange(len(labels)) / 3)
    reference = torch.from_numpy(np.stack([series, labels.astype(float)]))
    found = compute(
        reference, torch.from_numpy(scores)[None], TokenSpec("timeseries.anomaly", (2,), channels=0), ["vus_pr"]
    )
    assert found["vus_pr"] == pytest.approx(volume_under_surface(labels, scores, window_of(series)).pr)
