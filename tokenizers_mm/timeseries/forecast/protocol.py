"""The ETT protocol of long horizons: every test window, all channels, values standardised by the training rows, none dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tokenizers_mm.timeseries.data import SeriesSource, scaled_splits
from tokenizers_mm.timeseries.forecast import models
from tokenizers_mm.timeseries.forecast.baselines import LastValue, SeasonalNaive
from tokenizers_mm.timeseries.forecast.metrics import scores
from tokenizers_mm.timeseries.forecast.regression import BoostedForecaster, RidgeForecaster
from tokenizers_mm.timeseries.scaling import standard_scale

Forecaster = Callable[[Tensor, int], Tensor]
_ROWS = 64  # series that paths are drawn for at once: bounds memory
CLASSICAL = ("last", "seasonal", "linear", "boosting")


def build(name: str, train: Tensor, *, context: int, horizon: int, season: int) -> Forecaster:
    """A classical forecaster, fitted to ``train [C, N]``, or a trained one by name or folder, on values standardised by it.

    Raises:
        ValueError: If the name is none of :data:`CLASSICAL`, none that ships, and no folder of a forecaster.
    """
    if (folder := models.find(name)) is not None:
        return _standardised(models.load(folder), train)
    makers: dict[str, Callable[[], Forecaster]] = {
        "last": LastValue,
        "seasonal": lambda: SeasonalNaive(season),
        "linear": lambda: RidgeForecaster(context).fit(train, horizon),
        "boosting": lambda: BoostedForecaster(context).fit(train, horizon),
    }
    if name not in makers:
        raise ValueError(
            f"model must be one of {', '.join(CLASSICAL)}, or a trained one's name or folder, got {name!r}"
        )
    return makers[name]()


def _standardised(model: models.Predictor, train: Tensor) -> Forecaster:
    """Its sample paths, always the same, in the units of ``train [C, N]``."""
    mean, deviation = (x[:, None] for x in standard_scale(train))

    def forecast(past: Tensor, horizon: int) -> Tensor:
        generator = torch.Generator(past.device).manual_seed(0)
        few = ((past - mean) / deviation).split(max(1, _ROWS // past.shape[1]))
        paths = torch.cat([model.predict(part, horizon, generator=generator) for part in few])
        return paths * deviation[..., None] + mean[..., None]

    return forecast


def evaluate(
    source: SeriesSource,
    names: tuple[str, ...] = CLASSICAL,
    *,
    context: int = 96,
    horizon: int = 96,
    season: int = 24,
    stride: int = 1,
    others: Mapping[str, Forecaster] | None = None,
    batch: int = 256,
) -> dict[str, dict[str, float]]:
    """Scores of forecasters on the test rows of one series, one forecaster after the other.

    Args:
        source: The series and its split.
        names: Classical forecasters, fitted to the training rows, and folders of trained ones.
        context: Samples of the past that each sees.
        horizon: Samples ahead.
        season: Samples of a season.
        stride: From one test window to the next; 1 is the protocol.
        others: More forecasters by name.
        batch: Windows at once.

    Returns:
        By name, what :func:`~tokenizers_mm.timeseries.forecast.metrics.scores` gives.

    Raises:
        ValueError: If a name is unknown, or the test rows are too few.
    """
    train, test = scaled_splits(source, "train")[0], scaled_splits(source, "test", context)[0]
    if test.shape[1] < context + horizon:
        raise ValueError(f"a window needs {context + horizon} samples, the test rows are {test.shape[1]}")
    windows = test.unfold(-1, context + horizon, stride).transpose(0, 1)  # n x C x samples
    past, future = windows[..., :context], windows[..., context:]
    models = {name: build(name, train, context=context, horizon=horizon, season=season) for name in names}
    table = {}
    for name, model in {**models, **(others or {})}.items():
        with torch.no_grad():
            forecast = torch.cat([model(part, horizon) for part in past.split(batch)])
        table[name] = scores(past, future, forecast, season)
    return table
