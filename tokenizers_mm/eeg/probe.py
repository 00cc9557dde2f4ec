"""Labelled EEG for probes, and what a classifier sees without any codec: the power of the rhythms in each channel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.eeg.data import FixedWindows
from tokenizers_mm.eeg.electrodes import MONTAGES
from tokenizers_mm.eeg.finetune import tfm_encoder
from tokenizers_mm.eeg.preprocessing import Preprocessing
from tokenizers_mm.eeg.sources import EEGSource
from tokenizers_mm.eeg.spectra import BANDS, band_power, density
from tokenizers_mm.eeg.windows import Windows
from tokenizers_mm.evaluation.probe import Labelled
from tokenizers_mm.tokens import TokenSpec


def load(path: Path, options: Mapping[str, Any], spec: TokenSpec) -> dict[str, Labelled]:
    """Windows of the splits ``train``, ``valid`` and ``test``, at a codec's rate.

    Args:
        path: Manifest or root of a corpus.
        options: ``window_seconds``; ``reading``, options of preprocessing; the rest are arguments of :class:`EEGSource`.
        spec: Gives the rate; a codec of 16 or 19 channels gets that montage, whatever is named.

    Raises:
        ValueError, FileNotFoundError: As :class:`tokenizers_mm.eeg.windows.Windows`.
    """
    options = dict(options)
    seconds, reading = float(options.pop("window_seconds", 4.0)), dict(options.pop("reading", {}))
    for name, channels in MONTAGES.items():
        if len(channels) == spec.channels:
            reading["montage"] = name
    found = {}
    for split in ("train", "valid", "test"):
        source = EEGSource(str(path), split, **options)
        windows = Windows([source], seconds, float(spec.sample_rate or 1), Preprocessing.parse(reading), cache=True)
        examples = FixedWindows(windows)
        pairs = [examples[index] for index in range(len(examples))]
        labels = torch.tensor([-1 if label is None else label for _, label in pairs])
        found[split] = Labelled(torch.stack([signal for signal, _ in pairs]), labels)
    return found


def log_band_power(signals: Tensor, spec: TokenSpec) -> Tensor:
    """Mean power of five bands in each channel in 1 s windows, in dB: ``[B, C * 5]``."""
    rows = []
    for signal in signals:
        power, frequencies = density(signal.double(), float(spec.sample_rate or 1), 1.0)
        levels = [
            band_power(power, frequencies, *band).mean(dim=1).clamp(min=1e-6).log10() * 10 for band in BANDS.values()
        ]
        rows.append(torch.cat(levels).float())
    return torch.stack(rows)


CLASSIFIERS = {"TFM-Encoder": tfm_encoder}
FEATURES = {"band power (no codec)": log_band_power}
