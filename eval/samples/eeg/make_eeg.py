"""Make the sample recordings of this folder and their manifest.csv: `python eval/samples/eeg/make_eeg.py`.

Simulated EEG: a background whose power falls with frequency and that neighbouring electrodes share, alpha bursts at the back of
the head while the eyes are closed, sleep spindles, blinks at the front while they are open, mains hum, amplifier noise. Nothing
was recorded from anybody. Needs the extra `eeg`.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tokenizers_mm.eeg import files
from tokenizers_mm.eeg.electrodes import TCP16, TEN_TWENTY, derivation
from tokenizers_mm.tokens import TokenSpec

FOLDER = Path(__file__).resolve().parent
PLACES = {  # seen from above, nose up, the head's radius is 1
    "Fp1": (-0.3, 0.9), "Fp2": (0.3, 0.9),
    "F7": (-0.8, 0.6), "F3": (-0.4, 0.5), "Fz": (0, 0.5), "F4": (0.4, 0.5), "F8": (0.8, 0.6),
    "T7": (-1, 0), "C3": (-0.5, 0), "Cz": (0, 0), "C4": (0.5, 0), "T8": (1, 0),
    "P7": (-0.8, -0.6), "P3": (-0.4, -0.5), "Pz": (0, -0.5), "P4": (0.4, -0.5), "P8": (0.8, -0.6),
    "O1": (-0.3, -0.9), "O2": (0.3, -0.9),
}  # fmt: skip
EIGHT = ("Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2")
FOUR = ("Fz", "C3", "C4", "O1")


@dataclass(frozen=True)
class Sample:
    """One recording: its name, what happens in it, and how it was recorded."""

    name: str
    label: str  # eyes_open, eyes_closed, both or sleep
    split: str
    channels: tuple[str, ...]
    rate: int
    seconds: float
    mains: float
    mains_level: float = 2.0
    prefix: str = ""

    @property
    def path(self) -> str:
        return f"{self.name}.edf"


SAMPLES = (
    Sample("closed-10-20", "eyes_closed", "test", TEN_TWENTY, 128, 10, 50),
    Sample("open-8", "eyes_open", "test", EIGHT, 250, 10, 60, prefix="EEG {}-REF"),
    Sample("both-tcp16", "both", "test", TCP16, 200, 8, 60),
    Sample("sleep-4", "sleep", "test", FOUR, 256, 12, 50),
    Sample("closed-8", "eyes_closed", "valid", EIGHT, 160, 10, 50, 6.0),
    Sample("open-10-20", "eyes_open", "valid", TEN_TWENTY, 128, 6, 60),
    Sample("both-10-20", "both", "train", TEN_TWENTY, 100, 10, 50),
    Sample("closed-8-slow", "eyes_closed", "train", EIGHT, 128, 12, 60, prefix="EEG {}-LE"),
    Sample("open-8-fast", "eyes_open", "train", EIGHT, 200, 10, 50),
    Sample("sleep-4-fast", "sleep", "train", FOUR, 250, 12, 60),
)


def coloured(random: np.random.Generator, rows: int, samples: int, rate: float, slope: float) -> np.ndarray:
    """Noise whose amplitude falls as frequency to the power ``slope`` above 1 Hz, of unit deviation."""
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    shape = np.maximum(frequencies, 1.0) ** -slope * (frequencies > 0.3)
    noise = np.fft.irfft(np.fft.rfft(random.standard_normal((rows, samples))) * shape, n=samples)
    return noise / noise.std(axis=1, keepdims=True)


def field(names: tuple[str, ...], centre: tuple[float, float], width: float) -> np.ndarray:
    """How strongly each electrode sees a source."""
    places = np.array([PLACES[name] for name in names])
    return np.exp(-((places - centre) ** 2).sum(axis=1) / (2 * width**2))


def bursts(
    random: np.random.Generator, samples: int, rate: float, hertz: float, seconds: float, share: float
) -> np.ndarray:
    """A rhythm that comes and goes: spindles of about ``seconds``, for ``share`` of the time; amplitude about 1."""
    time, wave = np.arange(samples) / rate, np.zeros(samples)
    for start in np.arange(-seconds, samples / rate, seconds / max(share, 0.05)):
        middle = start + random.uniform(0.2, 0.8) * seconds / share
        envelope = np.exp(-(((time - middle) / (0.4 * seconds)) ** 2))
        wave += envelope * np.sin(2 * np.pi * (hertz + random.uniform(-0.4, 0.4)) * time + random.uniform(0, 2 * np.pi))
    return wave


def blinks(
    random: np.random.Generator, samples: int, rate: float, start: float, stop: float
) -> tuple[np.ndarray, list[float]]:
    """Blinks every two to four seconds, and when they are."""
    time, wave, places = np.arange(samples) / rate, np.zeros(samples), []
    at = start + random.uniform(0.5, 1.5)
    while at < stop - 0.5:
        wave += random.uniform(90, 150) * np.exp(-(((time - at) / 0.09) ** 2))
        places.append(round(float(at), 3))
        at += random.uniform(2, 4)
    return wave, places


def simulate(sample: Sample) -> tuple[np.ndarray, tuple[files.Event, ...]]:
    """Microvolts ``[C, N]`` and events of a recording; the same every time."""
    random = np.random.default_rng(sum(map(ord, sample.name)))
    names = TEN_TWENTY if "-" in sample.channels[0] else sample.channels
    n, rate = round(sample.seconds * sample.rate), float(sample.rate)
    x = 3 * coloured(random, len(names), n, rate, 0.8)
    for source in coloured(random, 12, n, rate, 1.0):
        x += 9 * field(names, tuple(random.uniform(-1, 1, 2)), 0.6)[:, None] * source
    half = sample.seconds / 2
    closed = {"eyes_closed": (0.0, sample.seconds), "both": (half, sample.seconds)}.get(sample.label)
    open_ = {"eyes_open": (0.0, sample.seconds), "both": (0.0, half)}.get(sample.label)
    events = []
    if closed:
        alpha = bursts(random, n, rate, 10, 1.2, 0.8) * (np.arange(n) / rate >= closed[0])
        x += 28 * field(names, (0.0, -0.9), 0.55)[:, None] * alpha
        events.append(files.Event(closed[0], closed[1] - closed[0], "eyes closed"))
    if open_:
        wave, places = blinks(random, n, rate, *open_)
        x += field(names, (0.0, 1.0), 0.4)[:, None] * wave
        events += [
            files.Event(open_[0], open_[1] - open_[0], "eyes open"),
            *(files.Event(at, 0.0, "blink") for at in places),
        ]
    if sample.label == "sleep":
        x *= 1.3
        x += 22 * field(names, (0.0, 0.1), 0.7)[:, None] * bursts(random, n, rate, 13.5, 0.7, 0.25)
        x += 40 * field(names, (0.0, 0.4), 0.9)[:, None] * bursts(random, n, rate, 0.9, 2.0, 0.6)
    hum = np.sin(2 * np.pi * sample.mains * np.arange(n) / rate + random.uniform(0, 6, (len(names), 1)))
    x += sample.mains_level * random.uniform(0.3, 1, (len(names), 1)) * hum + 0.4 * random.standard_normal(x.shape)
    if names != sample.channels:
        x = derivation(names, sample.channels, sample.name) @ x
    return x, tuple(sorted(events, key=lambda event: event.onset))


def write(folder: Path) -> None:
    """All recordings and the manifest."""
    rows = []
    for sample in SAMPLES:
        signal, events = simulate(sample)
        spec = TokenSpec("eeg", (1,), sample_rate=sample.rate, channels=0)
        names = tuple(sample.prefix.format(name.upper()) if sample.prefix else name for name in sample.channels)
        files.write(folder / sample.path, torch.from_numpy(signal), spec, names=names, events=events)
        row = (sample.path, sample.label, sample.split, len(names), sample.rate, sample.seconds, f"{sample.mains:g}")
        rows.append(row)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "split", "channels", "sfreq", "seconds", "mains"))
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    write(parser.parse_args().folder)
