"""Seasonal anomalies: some whole cycles of a season are of another kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator

from tokenizers_mm.timeseries.synthetic.waves import (
    FAMILIES,
    Pulse,
    Season,
    Sine,
    Wave,
    Wavelets,
    atom,
    choose,
    draw_wave,
    harmonic,
)

COMMON = {"inversion": 50.0, "amplitude": 50.0, "noise": 50.0, "period": 50.0, "none": 10.0}
OF_SINE = {
    "waveform": 50.0, "phase": 50.0, "more harmonics": 30.0, "fewer harmonics": 30.0, "harmonic phase": 30.0,
    "modulation depth": 30.0, "modulation frequency": 30.0, "modulation phase": 30.0,
}  # fmt: skip
OF_PULSE = {"pulse shift": 50.0, "pulse width": 50.0}
OF_WAVELETS = {
    "wavelet family": 50.0, "wavelet scale": 50.0, "wavelet shift": 50.0, "wavelet amplitude": 50.0,
    "more wavelets": 30.0, "fewer wavelets": 30.0,
}  # fmt: skip
SHORTEST = 1 / 30
"""Least share of the series that a seasonal anomaly covers."""


@dataclass(frozen=True)
class Change:
    """What replaces some cycles.

    Args:
        kind: Its name.
        start: First step.
        difference: Changed minus unchanged values.
    """

    kind: str
    start: int
    difference: np.ndarray


def draw_change(rng: Generator, season: Season, n: int) -> Change | None:
    """A random seasonal anomaly for a series of ``n`` steps, or None where the draw is for none or nothing fits."""
    specific = {Sine: OF_SINE, Pulse: OF_PULSE, Wavelets: OF_WAVELETS}[type(season.wave)]
    kind = choose(rng, COMMON | specific)
    cycles = int(n / season.period)
    least = int(np.ceil(n * SHORTEST / season.period))
    if kind == "none" or least > cycles:
        return None
    count = min(cycles, least + int(rng.integers(0, 3 + int(0.1 * n / season.period))))
    first = int(rng.integers(cycles - count + 1))
    start, end = round(first * season.period), min(n, round((first + count) * season.period))
    place = np.arange(start, end) / season.period
    before = season.at(place)
    return Change(kind, start, _changed(rng, kind, season, place, before) - before)


def _changed(rng: Generator, kind: str, season: Season, place: np.ndarray, before: np.ndarray) -> np.ndarray:
    if kind == "inversion":
        return -before
    if kind == "amplitude":
        return before * _either(rng, (0.5, 0.8), (1.4, 2.0))
    if kind == "noise":
        return before + season.amplitude * rng.uniform(0.1, 0.2) * rng.standard_normal(len(before))
    if kind == "period":
        return season.at(place[0] + (place - place[0]) / _either(rng, (0.2, 0.6), (1.5, 3.0)))
    return replace(season, wave=_WAVES[kind](rng, season.wave)).at(place)


def _either(rng: Generator, low: tuple[float, float], high: tuple[float, float]) -> float:
    return rng.uniform(*(low if rng.random() < 0.5 else high))


def _waveform(rng: Generator, wave: Sine) -> Wave:
    return draw_wave(rng, str(rng.choice(["square", "triangle", "wavelet"])))


def _phase(rng: Generator, wave: Sine) -> Wave:
    turn = rng.uniform(0.5, 2 * np.pi - 0.5)
    return replace(wave, harmonics=tuple((n, a, p + n * turn) for n, a, p in wave.harmonics))


def _more_harmonics(rng: Generator, wave: Sine) -> Wave:
    order = len(wave.harmonics) + int(rng.integers(1, 4))
    return replace(wave, harmonics=(*wave.harmonics, (order, rng.uniform(0.3, 0.8), harmonic(rng, order)[2])))


def _fewer_harmonics(rng: Generator, wave: Sine) -> Wave:
    return replace(wave, harmonics=_without(rng, wave.harmonics, below=3))


def _harmonic_phase(rng: Generator, wave: Sine) -> Wave:
    which = int(rng.integers(min(3, len(wave.harmonics))))
    turned = [(n, a, p + (rng.uniform(0.5, 5.5) if i == which else 0)) for i, (n, a, p) in enumerate(wave.harmonics)]
    return replace(wave, harmonics=tuple(turned))


def _depth(rng: Generator, wave: Sine) -> Wave:
    return replace(wave, modulation=(rng.uniform(0.4, 0.8), *wave.modulation[1:]))


def _frequency(rng: Generator, wave: Sine) -> Wave:
    depth, frequency, phase = wave.modulation
    return replace(wave, modulation=(max(depth, 0.3), frequency * _either(rng, (0.2, 0.5), (2.0, 4.0)), phase))


def _modulation_phase(rng: Generator, wave: Sine) -> Wave:
    depth, frequency, phase = wave.modulation
    return replace(wave, modulation=(max(depth, 0.3), frequency, phase + rng.uniform(1, 5)))


def _pulse_shift(rng: Generator, wave: Pulse) -> Wave:
    return replace(wave, start=wave.start + rng.uniform(0.1, 0.3))


def _pulse_width(rng: Generator, wave: Pulse) -> Wave:
    return replace(wave, duty=min(1.0, wave.duty * _either(rng, (0.5, 0.8), (1.4, 2.0))))


def _atoms(
    change: Callable[[Generator, tuple[str, float, float, float]], tuple],
) -> Callable[[Generator, Wavelets], Wave]:
    """A change of every atom."""
    return lambda rng, wave: replace(wave, atoms=tuple(change(rng, one) for one in wave.atoms))


def _more_wavelets(rng: Generator, wave: Wavelets) -> Wave:
    return replace(wave, atoms=(*wave.atoms, atom(rng, str(rng.choice(FAMILIES)))))


def _fewer_wavelets(rng: Generator, wave: Wavelets) -> Wave:
    return replace(wave, atoms=_without(rng, wave.atoms, below=len(wave.atoms)))


def _without(rng: Generator, parts: tuple, below: int) -> tuple:
    """All but one of the first parts."""
    gone = int(rng.integers(min(below, len(parts))))
    return parts[:gone] + parts[gone + 1 :]


_WAVES: dict[str, Callable[[Generator, Any], Wave]] = {
    "waveform": _waveform,
    "phase": _phase,
    "more harmonics": _more_harmonics,
    "fewer harmonics": _fewer_harmonics,
    "harmonic phase": _harmonic_phase,
    "modulation depth": _depth,
    "modulation frequency": _frequency,
    "modulation phase": _modulation_phase,
    "pulse shift": _pulse_shift,
    "pulse width": _pulse_width,
    "wavelet family": _atoms(lambda rng, a: (str(rng.choice([f for f in FAMILIES if f != a[0]])), *a[1:])),
    "wavelet scale": _atoms(lambda rng, a: (a[0], a[1] * _either(rng, (0.4, 0.7), (1.4, 2.0)), *a[2:])),
    "wavelet shift": _atoms(lambda rng, a: (*a[:2], a[2] + rng.uniform(0.1, 0.9), a[3])),
    "wavelet amplitude": _atoms(lambda rng, a: (*a[:3], a[3] * _either(rng, (-1.0, 0.5), (1.5, 2.5)))),
    "more wavelets": _more_wavelets,
    "fewer wavelets": _fewer_wavelets,
}
"""By name of a change; each takes the kind of waveform that it is drawn for."""
