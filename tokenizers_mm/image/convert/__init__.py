"""Published image checkpoints to folders that ``load`` reads: one entry in ``CONVERTERS`` per family."""

from tokenizers_mm.image.convert.attention_free import convert_maskgit, convert_open_magvit2
from tokenizers_mm.image.convert.cosmos import convert_cosmos
from tokenizers_mm.image.convert.llamagen_lm import convert_llamagen_lm
from tokenizers_mm.image.convert.titok import convert_titok
from tokenizers_mm.image.convert.vqgan import convert_ibq, convert_janus, convert_llamagen, convert_taming, convert_var
from tokenizers_mm.published import Converter

CONVERTERS: dict[str, Converter] = {
    "cosmos": convert_cosmos,
    "ibq": convert_ibq,
    "janus": convert_janus,
    "llamagen": convert_llamagen,
    "llamagen-lm": convert_llamagen_lm,
    "maskgit": convert_maskgit,
    "open-magvit2": convert_open_magvit2,
    "taming": convert_taming,
    "titok": convert_titok,
    "var": convert_var,
}
