"""Audio wing: codecs, files, data, losses, metrics."""

from tokenizers_mm.audio.wavtokenizer import WavTokenizer

__all__ = ["WavTokenizer"]
