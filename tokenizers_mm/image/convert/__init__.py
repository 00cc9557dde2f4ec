"""Published image checkpoints to folders that ``load`` reads: one entry in ``CONVERTERS`` per family."""

from tokenizers_mm.image.convert.vqgan import convert_ibq, convert_janus, convert_llamagen, convert_taming, convert_var
from tokenizers_mm.published import Converter

CONVERTERS: dict[str, Converter] = {
    "ibq": convert_ibq,
    "janus": convert_janus,
    "llamagen": convert_llamagen,
    "taming": convert_taming,
    "var": convert_var,
}
