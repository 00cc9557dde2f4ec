"""Time-series wing: codecs, files, data, metrics, forecasting."""

from tokenizers_mm.timeseries.binning import ChronosBins
from tokenizers_mm.timeseries.patches import PatchTokenizer
from tokenizers_mm.timeseries.sax import SAX
from tokenizers_mm.timeseries.timercd import TimeRCD
from tokenizers_mm.timeseries.totem import TOTEM

__all__ = ["SAX", "TOTEM", "ChronosBins", "PatchTokenizer", "TimeRCD"]
