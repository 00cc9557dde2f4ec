"""Image wing: codecs, files, data, losses, metrics."""

from tokenizers_mm.image.var import VARTokenizer
from tokenizers_mm.image.vqgan import VQGAN

__all__ = ["VQGAN", "VARTokenizer"]
