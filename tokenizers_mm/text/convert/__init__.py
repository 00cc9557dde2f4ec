"""Published models of text to folders that load: one entry in ``CONVERTERS`` per family."""

from tokenizers_mm.published import Converter
from tokenizers_mm.text.convert.hat import convert_hat
from tokenizers_mm.text.convert.subword import convert_subword

CONVERTERS: dict[str, Converter] = {"hat": convert_hat, "subword": convert_subword}
