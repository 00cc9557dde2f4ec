"""Trained forecasters by name: what ships, folders of one's own, and downloaded Chronos checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.timeseries.forecast.bins_lm import BinForecaster
from tokenizers_mm.timeseries.forecast.bolt import ChronosBolt
from tokenizers_mm.timeseries.forecast.chronos import ChronosT5
from tokenizers_mm.timeseries.forecast.totem import TokenizedForecaster
from tokenizers_mm.weights import CONFIG, read_config


class Predictor(Protocol):
    """A trained forecaster: paths ``[B, C, horizon, K]`` of series ``[B, C, N]``, drawn with the generator."""

    def predict(self, past: Tensor, horizon: int, *, generator: torch.Generator | None = None) -> Tensor: ...


def find(source: str) -> Path | None:
    """The folder of a trained forecaster: a path, or the name of one that ships."""
    folders = (Path(source), registry.data_path("checkpoints") / source)
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def load(folder: str | Path) -> Predictor:
    """A trained forecaster from its folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it holds something else.
    """
    config = read_config(Path(folder) / CONFIG)
    settings = config.get("chronos_config")
    if isinstance(settings, dict):
        chronos: type[ChronosBolt] | type[ChronosT5] = ChronosBolt if "input_patch_size" in settings else ChronosT5
        return chronos.from_pretrained(folder)
    if config.get("class") == "BinForecaster":
        return BinForecaster.from_pretrained(folder)
    if config.get("class") == "TokenizedForecaster":
        return TokenizedForecaster.from_pretrained(folder)
    raise ValueError(f"{folder} holds no forecaster: its {CONFIG} is for class {config.get('class')!r}")
