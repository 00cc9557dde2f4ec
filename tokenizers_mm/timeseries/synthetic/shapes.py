"""Local anomalies: what is added to a series, step by step, and the level that stays after it.

Only the steps of ``values`` are anomalous. After a sudden change the new level is normal, though the twin without the anomaly
does not have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

WEIGHTS = {
    "outlier": 40, "upward spike": 12, "downward spike": 10, "shake": 4,
    "continuous upward spikes": 4, "continuous downward spikes": 2, "upward convex": 2, "downward convex": 2,
    "sudden increase": 2, "sudden decrease": 2,
    "rapid rise, slow decline": 2, "slow rise, rapid decline": 2,
    "rapid decline, slow rise": 2, "slow decline, rapid rise": 2,
    "increase after upward spike": 3, "decrease after upward spike": 3,
    "increase after downward spike": 3, "decrease after downward spike": 3,
    "wide upward spike": 3, "wide downward spike": 3,
}  # fmt: skip
SHAKE = 0.2
"""Height of a shake as a share of the other anomalies'."""


@dataclass(frozen=True)
class Shape:
    """One anomaly.

    Args:
        values: Added from its first step on, each step of which is labelled.
        level: Added to everything after.
    """

    values: np.ndarray
    level: float = 0.0

    def __len__(self) -> int:
        return len(self.values)


def draw_height(rng: Generator, kind: str, base: float, deviation: float, factor: float = 1.0) -> float:
    """How high an anomaly of a kind is.

    Args:
        rng: Random numbers.
        kind: A key of :data:`WEIGHTS`.
        base: Amplitude of the series.
        deviation: Of its noise, above which the anomaly must stand out.
        factor: 2 in series of several variates.
    """
    pointed = "spike" in kind and "wide" not in kind
    if kind == "outlier":
        multiple = (rng.uniform(10, 20) if rng.random() < 0.05 else 1 + rng.exponential(2)) / 2
    else:
        multiple = 0.5 + rng.exponential(1) if pointed else 0.3 + rng.exponential(0.3)
    multiple *= abs(rng.normal(1, 0.2)) * (SHAKE if kind == "shake" else 1)
    return factor * max(multiple * base, (6 if pointed or kind == "outlier" else 3) * deviation)


def draw_shape(rng: Generator, kind: str, n: int, height: float) -> Shape:
    """A random anomaly of a kind for a series of ``n`` steps, ``height`` high (downward kinds: deep)."""
    if kind == "outlier":
        return Shape(np.array([rng.choice([-1.0, 1.0]) * height]))
    if kind == "shake":
        return Shape(height * rng.uniform(-1, 1, _length(rng, n, 0.06, 0.15)))
    if "after" in kind:
        return _after_spike(rng, kind, n, height)
    downward = "downward" in kind or kind == "sudden decrease" or kind.split()[1] == "decline,"
    make = next(make for word, make in _MAKERS.items() if word in kind)
    shape = make(rng, kind, n, height)
    return Shape(-shape.values, -shape.level) if downward else shape


def _length(rng: Generator, n: int, least: float, most: float) -> int:
    return max(2, round(n * rng.uniform(least, most)))


def _spike(rng: Generator, height: float) -> np.ndarray:
    """Up in 1 to 3 steps, at most 2 steps of peak, down in 1 to 3."""
    rise, fall = rng.choice([1, 2, 3], 2, p=[0.8, 0.15, 0.05])
    return _hill(height, int(rise), int(rng.integers(3)), int(fall))


def _hill(height: float, rise: int, peak: int, fall: int) -> np.ndarray:
    """From 0 to ``height`` and back; neither zero is part of it."""
    up, down = np.linspace(0, height, rise + 1)[1:], np.linspace(height, 0, fall + 1)[1:-1]
    return np.concatenate([up, np.full(peak, height), down])


def _one_spike(rng: Generator, kind: str, n: int, height: float) -> Shape:
    return Shape(_spike(rng, height))


def _spikes(rng: Generator, kind: str, n: int, height: float) -> Shape:
    parts: list[np.ndarray] = []
    for _ in range(rng.integers(2, 6)):
        parts += [_spike(rng, height * rng.uniform(0.6, 1.5)), np.zeros(rng.integers(6))]
    return Shape(np.concatenate(parts[:-1]))


def _convex(rng: Generator, kind: str, n: int, height: float) -> Shape:
    edges = rng.integers(1, 6, 2)
    return Shape(_hill(height, int(edges[0]), _length(rng, n, 0.03, 0.2), int(edges[1])))


def _uneven(rng: Generator, kind: str, n: int, height: float) -> Shape:
    """Rapid on one side, slow on the other."""
    rapid, slow = int(rng.integers(1, 4)), _length(rng, n, 0.05, 0.15)
    return Shape(_hill(height, *((rapid, 0, slow) if kind.startswith("rapid") else (slow, 0, rapid))))


def _wide(rng: Generator, kind: str, n: int, height: float) -> Shape:
    sides = [min(500, _length(rng, n, 0.02, 0.08)) for _ in range(2)]
    return Shape(_hill(height, sides[0], 0, sides[1]))


def _sudden(rng: Generator, kind: str, n: int, height: float) -> Shape:
    """A ramp of 1 to 10 steps to a level that stays; half of them give back up to a third of it at once."""
    ramp = np.linspace(0, height, int(rng.integers(1, 11)) + 1)[1:]
    if rng.random() < 0.5:
        return Shape(ramp, height)
    level = height * (1 - rng.uniform(0, 1 / 3))
    return Shape(np.concatenate([ramp, np.linspace(height, level, int(rng.integers(1, 11)) + 1)[1:]]), level)


def _after_spike(rng: Generator, kind: str, n: int, height: float) -> Shape:
    """A spike, then a slow shift of a part of its height, which stays."""
    spike = _spike(rng, height) * (-1 if "downward" in kind else 1)
    level = height * rng.uniform(0.1, 0.7) * (-1 if kind.startswith("decrease") else 1)
    return Shape(np.concatenate([spike, np.linspace(0, level, _length(rng, n, 0.02, 0.05))]), level)


_MAKERS: dict[str, Callable[[Generator, str, int, float], Shape]] = {
    "continuous": _spikes,
    "wide": _wide,
    "spike": _one_spike,
    "convex": _convex,
    "sudden": _sudden,
    "slow": _uneven,
}
