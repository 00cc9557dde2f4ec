"""Time-series wing: codecs, files, data, metrics, forecasting.

Names are imported on first use: processes that only generate series need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers_mm.timeseries.binning import ChronosBins
    from tokenizers_mm.timeseries.patches import PatchTokenizer
    from tokenizers_mm.timeseries.sax import SAX
    from tokenizers_mm.timeseries.timercd import TimeRCD
    from tokenizers_mm.timeseries.totem import TOTEM

__all__ = ["SAX", "TOTEM", "ChronosBins", "PatchTokenizer", "TimeRCD"]

_HOMES = {"SAX": "sax", "TOTEM": "totem", "ChronosBins": "binning", "PatchTokenizer": "patches", "TimeRCD": "timercd"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
