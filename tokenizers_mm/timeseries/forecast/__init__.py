"""Forecasting: over tokens (TOTEM's forecaster, language models of bins) and classical, behind one call.

A forecaster takes the past ``[B, C, N]`` and a horizon H and returns sample paths or quantiles ``[B, C, H, K]`` (one for points).
"""

from tokenizers_mm.timeseries.forecast.baselines import DLinear, LastValue, SeasonalNaive
from tokenizers_mm.timeseries.forecast.bins_lm import BinForecaster
from tokenizers_mm.timeseries.forecast.bolt import ChronosBolt
from tokenizers_mm.timeseries.forecast.chronos import ChronosT5
from tokenizers_mm.timeseries.forecast.metrics import LEVELS, mase, quantiles_of, scores, weighted_quantile_loss
from tokenizers_mm.timeseries.forecast.regression import BoostedForecaster, RidgeForecaster
from tokenizers_mm.timeseries.forecast.totem import TokenizedForecaster, TOTEMForecaster, totem_loss

__all__ = [
    "LEVELS",
    "BinForecaster",
    "BoostedForecaster",
    "ChronosBolt",
    "ChronosT5",
    "DLinear",
    "LastValue",
    "RidgeForecaster",
    "SeasonalNaive",
    "TOTEMForecaster",
    "TokenizedForecaster",
    "mase",
    "quantiles_of",
    "scores",
    "totem_loss",
    "weighted_quantile_loss",
]
