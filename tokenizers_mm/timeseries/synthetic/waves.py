"""Waveforms of seasonal series: harmonics, square and triangle pulses, sums of wavelets. Each is a function of cycles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.random import Generator

FAMILIES = ("db2", "db4", "sym2", "sym5", "coif1", "coif3", "haar", "bior1.3", "dmey")
KINDS = {"sine": 0.3, "square": 0.05, "triangle": 0.05, "wavelet": 0.3}
TABLE = 512  # points of a wavelet's table


@dataclass(frozen=True)
class Sine:
    """Harmonics ``(order, amplitude, phase)`` under a slow change of amplitude ``(depth, cycles per cycle, phase)``."""

    harmonics: tuple[tuple[int, float, float], ...]
    modulation: tuple[float, float, float]

    def __call__(self, cycles: np.ndarray) -> np.ndarray:
        depth, frequency, phase = self.modulation
        total = sum(a * np.sin(2 * np.pi * n * cycles + p) for n, a, p in self.harmonics)
        return (1 + depth * np.sin(2 * np.pi * frequency * cycles + phase)) * total


@dataclass(frozen=True)
class Pulse:
    """A square or triangle that starts at a share of each cycle and lasts for another share."""

    kind: str
    start: float
    duty: float

    def __call__(self, cycles: np.ndarray) -> np.ndarray:
        place = (cycles - self.start) % 1.0 / self.duty
        inside = place < 1
        return inside.astype(float) if self.kind == "square" else np.where(inside, 1 - np.abs(2 * place - 1), 0.0)


@dataclass(frozen=True)
class Wavelets:
    """Atoms ``(family, width in cycles, shift in cycles, amplitude)`` that repeat every cycle."""

    atoms: tuple[tuple[str, float, float, float], ...]

    def __call__(self, cycles: np.ndarray) -> np.ndarray:
        total = np.zeros_like(cycles)
        for family, width, shift, amplitude in self.atoms:
            place = (cycles - shift) % 1.0 / width
            total += amplitude * np.interp(place, np.linspace(0, 1, TABLE), table(family), right=0.0)
        return total


Wave = Sine | Pulse | Wavelets


@cache
def table(family: str) -> np.ndarray:
    """A mother wavelet on :data:`TABLE` points, its largest value 1."""
    import pywt

    psi = np.asarray(pywt.Wavelet(family).wavefun(level=7)[1])
    return np.interp(np.linspace(0, len(psi) - 1, TABLE), np.arange(len(psi)), psi) / np.abs(psi).max()


def draw_wave(rng: Generator, kind: str | None = None) -> Wave:
    """A random waveform; of any kind where none is given."""
    kind = kind or choose(rng, KINDS)
    if kind == "sine":
        return Sine(tuple(harmonic(rng, n) for n in range(1, rng.integers(2, 11) + 1)), modulation(rng, 0.0, 0.2))
    if kind == "wavelet":
        families = rng.choice(FAMILIES, rng.integers(2, 4), replace=False)
        return Wavelets(tuple(atom(rng, str(family)) for family in families for _ in range(rng.integers(2, 4))))
    return Pulse(kind, rng.uniform(0, 0.3), rng.uniform(0.1, 0.3 if kind == "square" else 0.6))


def harmonic(rng: Generator, order: int) -> tuple[int, float, float]:
    return order, 1 / order, rng.uniform(0, 2 * np.pi)


def modulation(rng: Generator, least: float, most: float) -> tuple[float, float, float]:
    return rng.uniform(least, most), rng.uniform(0.05, 0.5), rng.uniform(0, 2 * np.pi)


def atom(rng: Generator, family: str) -> tuple[str, float, float, float]:
    return family, rng.uniform(0.2, 1.0), rng.uniform(0, 1), rng.choice([-1, 1]) * rng.uniform(0.3, 1.0)


def choose(rng: Generator, weights: Mapping[str, float]) -> str:
    """A key, with probability in proportion to its weight."""
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))


@dataclass(frozen=True)
class Season:
    """A waveform with a period and a range.

    Args:
        wave: The waveform.
        period: Steps per cycle.
        amplitude: Largest minus smallest value.
        gain: What the waveform is multiplied with.
        shift: What is added then, so that the mean is 0.
    """

    wave: Wave
    period: float
    amplitude: float
    gain: float = 1.0
    shift: float = 0.0

    def at(self, cycles: np.ndarray) -> np.ndarray:
        """Values at a number of cycles since the start."""
        return self.gain * self.wave(cycles) + self.shift

    def render(self, n: int) -> np.ndarray:
        """The first ``n`` steps."""
        return self.at(np.arange(n) / self.period)


def draw_season(rng: Generator, n: int, amplitude: float) -> Season:
    """A season for a series of ``n`` steps; a waveform that would be flat at this period is drawn again."""
    pace = choose(rng, {"high": 0.3, "moderate": 0.3, "low": 0.4})
    if pace == "low":
        period = float(np.clip(n / rng.uniform(4, 20), 100, 1500))
    else:
        period = rng.uniform(10, 30) if pace == "high" else rng.uniform(30, 100)
    while True:
        season = Season(draw_wave(rng), period, amplitude)
        values = season.render(n)
        if np.ptp(values) > 1e-6:
            gain = amplitude / np.ptp(values)
            return replace(season, gain=gain, shift=-gain * float(values.mean()))
