"""Make the sample series of this folder and their manifest.csv: `python eval/samples/timeseries/make_series.py`.

Every series is computed from a fixed seed; none is measured.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).resolve().parent
N = 960


def autoregressive(random: np.random.Generator, n: int, coefficient: float, scale: float) -> np.ndarray:
    noise, values = random.normal(0, scale, n), np.zeros(n)
    for t in range(1, n):
        values[t] = coefficient * values[t - 1] + noise[t]
    return values


def substation(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Hourly loads of a transformer and the temperature of its oil: days, weeks, a slow season."""
    t = np.arange(N)
    day, week = np.sin(2 * np.pi * (t - 7) / 24), np.sin(2 * np.pi * t / 168)
    high = 12 + 5 * day + 2 * np.sin(4 * np.pi * t / 24 + 1) + 1.5 * week + autoregressive(random, N, 0.8, 0.6)
    low = 3 + 0.3 * high + autoregressive(random, N, 0.9, 0.3)
    oil = 20 + 8 * np.sin(2 * np.pi * t / N) + 0.5 * np.convolve(high, np.ones(12) / 12, mode="same")
    return {"high_load": high, "low_load": low, "oil_temperature": oil + autoregressive(random, N, 0.95, 0.2)}


def bicycles(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Hourly counts with two rush hours on weekdays and a bump at noon on weekends."""
    t = np.arange(N)
    hour, weekend = t % 24, (t // 24) % 7 >= 5
    rush = 120 * np.exp(-((hour - 8) ** 2) / 3) + 140 * np.exp(-((hour - 17) ** 2) / 4)
    rate = np.where(weekend, 80 * np.exp(-((hour - 14) ** 2) / 18), rush) + 4
    return {"bicycles": random.poisson(rate * np.exp(autoregressive(random, N, 0.95, 0.08))).astype(float)}


def heartbeat(random: np.random.Generator) -> dict[str, np.ndarray]:
    """A pulse of three waves at a slightly irregular rate."""
    phase = np.cumsum(1 / (40 + autoregressive(random, N, 0.99, 0.4))) % 1
    waves = ((0.2, 0.03, 0.15), (0.35, 0.008, 1.0), (0.38, 0.008, -0.25), (0.62, 0.05, 0.3))
    pulse = sum(height * np.exp(-((phase - centre) ** 2) / (2 * width**2)) for centre, width, height in waves)
    return {"pulse": pulse + random.normal(0, 0.015, N)}


def walk(random: np.random.Generator) -> dict[str, np.ndarray]:
    """A random walk far from zero."""
    return {"price": 1000 + np.cumsum(random.standard_t(4, N)) * 0.5}


def spares(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Intermittent demand: mostly zero, rarely large."""
    return {"demand": np.where(random.random(N) < 0.06, random.geometric(0.15, N) * 5, 0).astype(float)}


def chirp(random: np.random.Generator) -> dict[str, np.ndarray]:
    """An oscillation that gets faster, with noise."""
    t = np.arange(N) / N
    return {"chirp": np.sin(2 * np.pi * (4 * t + 36 * t**2)) + random.normal(0, 0.05, N)}


def steps(random: np.random.Generator) -> dict[str, np.ndarray]:
    """A level that jumps, and one that is either of two."""
    level = np.repeat(random.normal(0, 2, N // 60), 60)
    switch = (np.cumsum(random.random(N) < 0.03) % 2).astype(float)
    return {"level": level + random.normal(0, 0.1, N), "switch": switch}


def sensor(random: np.random.Generator) -> dict[str, np.ndarray]:
    """A daily course with gaps."""
    values = 15 + 6 * np.sin(2 * np.pi * np.arange(N) / 96) + autoregressive(random, N, 0.9, 0.5)
    values[300:330] = np.nan
    values[random.random(N) < 0.04] = np.nan
    return {"temperature": values}


MAKERS: dict[str, tuple[Callable[[np.random.Generator], dict[str, np.ndarray]], str]] = {
    "substation": (substation, "h"),
    "bicycles": (bicycles, "h"),
    "heartbeat": (heartbeat, "20ms"),
    "walk": (walk, "D"),
    "spares": (spares, "D"),
    "chirp": (chirp, "s"),
    "steps": (steps, "min"),
    "sensor": (sensor, "15min"),
}


def tables() -> dict[str, pd.DataFrame]:
    """Every series by the name of its file."""
    made = {}
    for seed, (name, (maker, step)) in enumerate(MAKERS.items()):
        index = pd.date_range("2024-01-01", periods=N, freq=step, name="time")
        made[name] = pd.DataFrame(maker(np.random.default_rng(seed)), index=index).round(4)
    return made


def main() -> None:
    made = tables()
    for name, table in made.items():
        table.to_csv(FOLDER / f"{name}.csv")
    with (FOLDER / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "channels", "samples", "step", "label"])
        for name, table in made.items():
            label = (MAKERS[name][0].__doc__ or "").rstrip(".")
            writer.writerow([f"{name}.csv", "test", table.shape[1], len(table), MAKERS[name][1], label])


if __name__ == "__main__":
    main()
