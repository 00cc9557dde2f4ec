"""Forecasts of files: every column on its own clock, the median as a table, quantiles beside it, and a picture with bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tokenizers_mm.timeseries import files
from tokenizers_mm.timeseries.forecast.metrics import LEVELS, quantiles_of
from tokenizers_mm.timeseries.forecast.protocol import build
from tokenizers_mm.timeseries.series import Series, ticks

_SHOWN = 3  # times the horizon: how much of the past a picture shows
_PICTURES = (".webp", ".png", ".svg")


@dataclass(frozen=True, eq=False)
class FileForecast:
    """What a model says of a file's future.

    Args:
        past: The file, on a regular clock.
        paths: ``[C, H, K]``, one path where the model gives points.
    """

    past: Series
    paths: Tensor

    def series(self, levels: Sequence[float] = ()) -> Series:
        """The medians, called as in the file, and a column ``NAME-LEVEL`` for each quantile, times going on from the file's.

        Raises:
            ValueError: If quantiles are asked of a model that gives points.
        """
        if levels and self.paths.shape[-1] == 1:
            raise ValueError("--quantiles needs a model that draws paths, this one gives points: leave them out")
        wanted = (0.5, *levels)
        found = quantiles_of(self.paths, wanted)  # C x H x levels
        names = [name if i == 0 else f"{name}-{level:g}" for name in self.past.names for i, level in enumerate(wanted)]
        values = found.transpose(1, 2).flatten(0, 1).numpy()
        return Series(values, tuple(names), self._times(values.shape[1]))

    def _times(self, horizon: int) -> np.ndarray | None:
        clock, months = self.past.clock, self.past.months
        if months is not None and self.past.times is not None:
            last = pd.Timestamp(self.past.times[-1])
            return np.array([last + (i + 1) * months for i in range(horizon)], "datetime64[ns]")
        if clock is None or not clock[1]:
            return None
        start, step = clock
        return ticks(start + step * len(self.past), step, horizon)

    def save(self, path: str | Path, levels: Sequence[float] = ()) -> None:
        """Write the table that :meth:`series` gives; errors as :func:`tokenizers_mm.timeseries.files.save`."""
        files.save(path, self.series(levels))

    def show(self, path: Path) -> None:
        """Draw the end of the past, the median and bands between quantiles.

        Raises:
            ValueError: If the extension is none of a picture.
        """
        from tokenizers_mm.timeseries.show import forecast_panels

        if path.suffix.lower() not in _PICTURES:
            raise ValueError(f"cannot draw {path}: the extension must be one of {', '.join(_PICTURES)}")
        levels = LEVELS if self.paths.shape[-1] > 1 else (0.5,)
        shown = self.past.signal()[:, -_SHOWN * self.paths.shape[1] :]
        kind = path.suffix.lower().lstrip(".")
        path.write_bytes(
            forecast_panels(shown, None, quantiles_of(self.paths, levels), levels, names=self.past.names, kind=kind)
        )


def forecast_file(source: str | Path, model: str, horizon: int, *, context: int = 96, season: int = 24) -> FileForecast:
    """Forecast every column of a file.

    Args:
        source: See :func:`tokenizers_mm.timeseries.files.load`.
        model: See :func:`~tokenizers_mm.timeseries.forecast.protocol.build`; classical ones are fitted to the file.
        horizon: Samples ahead.
        context: Samples of the past that a classical model sees.
        season: Samples of a season.

    Raises:
        FileNotFoundError, ValueError: If the file is not there or not what it should be, or the model is unknown or needs more.
    """
    series = files.load(source).regular()
    signal = series.signal()
    forecaster = build(model, signal, context=context, horizon=horizon, season=season)
    with torch.no_grad():
        return FileForecast(series, forecaster(signal[None], horizon)[0])


def parse_levels(text: str | None) -> tuple[float, ...]:
    """Levels of quantiles from ``0.1,0.9``.

    Raises:
        ValueError: If one is no number between 0 and 1.
    """
    try:
        levels = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        levels = (-1.0,)
    if not all(0 < level < 1 for level in levels):
        raise ValueError(f"--quantiles must be levels between 0 and 1 such as 0.1,0.9, got {text!r}")
    return levels
