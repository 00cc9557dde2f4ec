"""Trends and noise of generated series."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy.interpolate import PchipInterpolator
from scipy.signal import lfilter

TRENDS = {"decrease": 0.2, "increase": 0.2, "steady": 0.2, "multiple": 0.3, "arima": 0.2}
NOISE = {"almost none": 0.003, "low": 0.01, "moderate": 0.02, "high": 0.03}
REFERENCE = 5.0  # noise levels are shares of so many amplitudes
BURSTS = {"moderate": (2, 3.0), "high": (3, 5.0)}
"""By noise level: most stretches of stronger noise, and by how much at most."""
CYCLIC_NOISE = 0.1
"""Share of periodic series whose noise is stronger in the same part of every cycle."""


def draw_trend(rng: Generator, kind: str, n: int, amplitude: float) -> np.ndarray:
    """``n`` steps of a trend that starts at 0 and covers about ``amplitude``."""
    if kind == "steady":
        return np.zeros(n)
    if kind == "multiple":
        return amplitude * _turning(rng, n)
    if kind == "arima":
        return _arima(rng, n, amplitude)
    x = np.linspace(0, 1, n)
    curve = (x**2, np.sin(np.pi * x / 2), x, 1 - (1 - x) ** 2)[rng.integers(4)]
    return (amplitude if kind == "increase" else -amplitude) * curve


def _turning(rng: Generator, n: int) -> np.ndarray:
    """A line through 1 to 5 turning points, at least an eighth of the series apart, mostly smooth, heights in [-1, 1]."""
    gap = n // 8
    count = int(rng.integers(1, 6))
    inner = np.sort(rng.integers(0, n - 1 - (count + 1) * gap, count)) + gap * np.arange(1, count + 1)
    places = np.concatenate([[0], inner, [n - 1]])
    heights = rng.uniform(-1, 1, len(places))
    if rng.random() < 0.5:
        heights = np.sign(heights) * np.sqrt(np.abs(heights))
    steps = np.arange(n)
    smooth = rng.random() < 0.99
    curve = PchipInterpolator(places, heights)(steps) if smooth else np.interp(steps, places, heights)
    return curve - curve[0]


def _arima(rng: Generator, n: int, amplitude: float) -> np.ndarray:
    """ARMA(2, 2) noise, summed up 0 to 2 times."""
    order = int(rng.integers(3))
    x = lfilter(_stable(rng), _stable(rng), rng.standard_normal(n))
    for _ in range(order):
        x = np.cumsum(x)
    x = x - x[0]
    return x * amplitude / (2.0, 1.5, 1.0)[order] / max(np.ptp(x), 1e-12)


def _stable(rng: Generator) -> np.ndarray:
    """A polynomial ``1, a, b`` with both roots inside the unit circle."""
    while True:
        a, b = rng.uniform(-2, 2, 2)
        if abs(b) < 0.98 and abs(a) < 0.98 * (1 + b):
            return np.array([1.0, a, b])


def draw_noise(rng: Generator, level: str, n: int, amplitude: float, period: float | None) -> tuple[np.ndarray, float]:
    """``n`` steps of noise, and its deviation where nothing makes it stronger."""
    deviation = NOISE[level] * REFERENCE * amplitude
    strength = np.ones(n)
    most, factor = BURSTS.get(level, (0, 1.0))
    for _ in range(int(rng.integers(1, most + 1)) if most else 0):
        start, end = np.sort(rng.integers(0, n + 1, 2))
        strength[start:end] *= rng.uniform(1, factor)
    if period is not None and rng.random() < CYCLIC_NOISE:
        share, start = rng.uniform(0.2, 0.8), rng.uniform(0, 1)
        part = (np.arange(n) / period - start) % 1.0 < share
        strength[part] *= float(np.clip(rng.normal(5, 2), 0, 10))
    return deviation * strength * rng.standard_normal(n), deviation
