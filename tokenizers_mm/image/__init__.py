"""Image wing: codecs, files, data, losses, metrics."""

from tokenizers_mm.image.maskgit_vq import MaskGITVQ
from tokenizers_mm.image.open_magvit2 import OpenMAGVIT2
from tokenizers_mm.image.pretrained.chameleon import ChameleonVQVAE
from tokenizers_mm.image.pretrained.emu3 import Emu3VQVAE
from tokenizers_mm.image.pretrained.janus import JanusVQVAE
from tokenizers_mm.image.titok import TiTok
from tokenizers_mm.image.var import VARTokenizer
from tokenizers_mm.image.vqgan import VQGAN

__all__ = [
    "VQGAN",
    "ChameleonVQVAE",
    "Emu3VQVAE",
    "JanusVQVAE",
    "MaskGITVQ",
    "OpenMAGVIT2",
    "TiTok",
    "VARTokenizer",
]
