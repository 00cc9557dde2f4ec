"""Published audio checkpoints to folders that ``load`` reads: one module per family, one entry in ``CONVERTERS`` each."""

from tokenizers_mm.audio.convert.wavtokenizer import convert_wavtokenizer
from tokenizers_mm.published import Converter

CONVERTERS: dict[str, Converter] = {"wavtokenizer": convert_wavtokenizer}
