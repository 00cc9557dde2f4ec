"""Published audio checkpoints to folders that ``load`` reads: one module per family, one entry in ``CONVERTERS`` each."""

from tokenizers_mm.audio.convert.dac import convert_dac
from tokenizers_mm.audio.convert.encodec import convert_encodec
from tokenizers_mm.audio.convert.encodec_lm import convert_encodec_lm
from tokenizers_mm.audio.convert.mimi import convert_mimi
from tokenizers_mm.audio.convert.snac import convert_snac
from tokenizers_mm.audio.convert.vocos import convert_vocos
from tokenizers_mm.audio.convert.wavtokenizer import convert_wavtokenizer
from tokenizers_mm.published import Converter

CONVERTERS: dict[str, Converter] = {
    "dac": convert_dac,
    "encodec": convert_encodec,
    "encodec-lm": convert_encodec_lm,
    "mimi": convert_mimi,
    "snac": convert_snac,
    "vocos": convert_vocos,
    "wavtokenizer": convert_wavtokenizer,
}
