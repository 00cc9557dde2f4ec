"""Audio wing: codecs, files, data, losses, metrics."""

from tokenizers_mm.audio.adapt import Adapted, adapt
from tokenizers_mm.audio.pretrained.dac import DAC
from tokenizers_mm.audio.pretrained.encodec import Encodec
from tokenizers_mm.audio.pretrained.higgs import HiggsAudio
from tokenizers_mm.audio.pretrained.mimi import Mimi
from tokenizers_mm.audio.pretrained.xcodec import NeuCodec, XCodec, XCodec2
from tokenizers_mm.audio.snac import SNAC
from tokenizers_mm.audio.vocos import Vocos
from tokenizers_mm.audio.wavtokenizer import WavTokenizer

__all__ = [
    "DAC",
    "SNAC",
    "Adapted",
    "Encodec",
    "HiggsAudio",
    "Mimi",
    "NeuCodec",
    "Vocos",
    "WavTokenizer",
    "XCodec",
    "XCodec2",
    "adapt",
]
