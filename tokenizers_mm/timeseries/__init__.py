"""Time-series wing: codecs, files, data, metrics, forecasting."""

from tokenizers_mm.timeseries.binning import ChronosBins
from tokenizers_mm.timeseries.timercd import TimeRCD

__all__ = ["ChronosBins", "TimeRCD"]
