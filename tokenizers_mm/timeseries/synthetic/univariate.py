"""Generated series of one variate: season, trend, background spikes and noise, then local and seasonal anomalies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from tokenizers_mm.timeseries.synthetic.sample import Rejected, Sample, finish
from tokenizers_mm.timeseries.synthetic.seasonal import draw_change
from tokenizers_mm.timeseries.synthetic.shapes import WEIGHTS, Shape, draw_height, draw_shape
from tokenizers_mm.timeseries.synthetic.trends import TRENDS, draw_noise, draw_trend
from tokenizers_mm.timeseries.synthetic.waves import KINDS, Season, choose, draw_season

AMPLITUDES = (0.1, 10.0)
WITHOUT_SEASON = 0.1
"""Weight of no season, beside those of the waveforms."""
BACKGROUND = 0.02
"""Share of series with regular spikes that are normal."""
SEASONAL = 0.3
"""Chance of a seasonal anomaly."""
MORE_OUTLIERS = 0.2
"""Chance of 5 to 30 more outliers where all anomalies are outliers."""


@dataclass(frozen=True)
class Plain:
    """A series without anomalies.

    Args:
        values: float64 ``[N]``.
        season: Its season, if it has one.
        base: Amplitude that anomalies are measured by.
        deviation: Of its noise.
        attributes: What was drawn.
    """

    values: np.ndarray
    season: Season | None
    base: float
    deviation: float
    attributes: dict[str, Any] = field(default_factory=dict)


def draw_plain(rng: Generator, n: int) -> Plain:
    """A random series of ``n`` steps without anomalies."""
    seasonal, trended, overall = rng.uniform(*AMPLITUDES, 3)
    trend = choose(rng, TRENDS)
    has_season = trend != "arima" and rng.random() < 1 - WITHOUT_SEASON / (WITHOUT_SEASON + sum(KINDS.values()))
    season = draw_season(rng, n, seasonal) if has_season else None
    base = seasonal if season else trended if trend != "steady" else overall
    levels = ["almost none", "low", "moderate", "high"][: 1 if trend == "arima" else 2 if season else 4]
    level = str(rng.choice(levels))
    noise, deviation = draw_noise(rng, level, n, base, season.period if season else None)
    values = rng.uniform(-5, 5) + draw_trend(rng, trend, n, trended) + noise
    if season is not None:
        values += season.render(n)
    background = bool(rng.random() < BACKGROUND)
    if background:
        values += _background(rng, n, overall)
    attributes = {
        "season": None if season is None else getattr(season.wave, "kind", type(season.wave).__name__.lower()),
        "period": None if season is None else round(season.period, 3),
        "trend": trend,
        "noise": level,
        "background spikes": background,
    }
    return Plain(values, season, base, deviation, attributes)


def _background(rng: Generator, n: int, amplitude: float) -> np.ndarray:
    """Narrow spikes at a fixed period, which are normal here."""
    period = int(rng.integers(max(16, n // 500), max(17, n // 50) + 1))
    width = int(np.clip(period * rng.uniform(0.1, 0.2), 2, 20))
    height = amplitude * rng.uniform(5, 10)
    return height * ((np.arange(n) - int(rng.integers(period))) % period < width)


def draw_univariate(rng: Generator, n: int) -> Sample:
    """A random series of ``n`` steps with at least one anomaly.

    Raises:
        Rejected: If anomalies overlap, run over the end, are too many, or there is none.
    """
    plain = draw_plain(rng, n)
    kinds = [choose(rng, WEIGHTS) for _ in range(rng.integers(4))]
    if kinds and all(kind == "outlier" for kind in kinds) and rng.random() < MORE_OUTLIERS:
        kinds += ["outlier"] * min(int(rng.integers(5, 31)), n // 200)
    shapes = [draw_shape(rng, kind, n, draw_height(rng, kind, plain.base, plain.deviation)) for kind in kinds]
    anomalous, labels, found = plain.values.copy(), np.zeros(n, bool), []
    for kind, shape, start in zip(kinds, shapes, _places(rng, shapes, n), strict=True):
        add(shape, start, anomalous, labels)
        found.append([kind, start, start + len(shape)])
    change = draw_change(rng, plain.season, n) if plain.season and rng.random() < SEASONAL else None
    if change is not None:
        steps = slice(change.start, change.start + len(change.difference))
        if labels[steps].any():
            raise Rejected("anomalies overlap")
        anomalous[steps] += change.difference
        labels[steps] = True
        found.append([change.kind, steps.start, steps.stop])
    if not found:
        raise Rejected("no anomaly")
    return finish(anomalous[None], plain.values[None], labels, {**plain.attributes, "anomalies": found})


def _places(rng: Generator, shapes: list[Shape], n: int) -> np.ndarray:
    """First steps of the anomalies, a distance apart that depends on their number."""
    if not shapes:
        return np.zeros(0, int)
    count, longest = len(shapes), max(map(len, shapes))
    gap = n // 10 if count <= 5 else int(max(1.2 * longest, n / 100))
    room = n - (count - 1) * gap
    if room < 1:
        raise Rejected("too many anomalies")
    return np.sort(rng.integers(0, room, count)) + gap * np.arange(count)


def add(shape: Shape, start: int, values: np.ndarray, labels: np.ndarray) -> None:
    """Put an anomaly into a series, and label its steps.

    Raises:
        Rejected: If it runs over the end or overlaps with another.
    """
    end = start + len(shape)
    if end > len(values) or labels[start:end].any():
        raise Rejected("an anomaly does not fit")
    values[start:end] += shape.values
    values[end:] += shape.level
    labels[start:end] = True
