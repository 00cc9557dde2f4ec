"""Published time-series checkpoints to folders that load: one entry in ``CONVERTERS`` per family."""

from tokenizers_mm.published import Converter
from tokenizers_mm.timeseries.convert.timercd import convert_timercd
from tokenizers_mm.timeseries.convert.totem import convert_totem

CONVERTERS: dict[str, Converter] = {
    "timercd": convert_timercd,
    "totem": convert_totem,
}
