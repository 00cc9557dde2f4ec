"""Published models of text to folders that load: one entry in ``CONVERTERS`` per family."""

from tokenizers_mm.published import Converter
from tokenizers_mm.text.convert.hat import convert_hat
from tokenizers_mm.text.convert.hypernetwork import convert_hypernetwork
from tokenizers_mm.text.convert.subword import convert_subword

CONVERTERS: dict[str, Converter] = {
    "hat": convert_hat,
    "hypernetwork": convert_hypernetwork,
    "subword": convert_subword,
}
