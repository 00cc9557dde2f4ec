"""Text wing: lossless codecs, segmenters, hierarchical models."""

from tokenizers_mm.text.subword import SubwordCodec
from tokenizers_mm.text.units import ByteCodec, WordByteCodec

__all__ = ["ByteCodec", "SubwordCodec", "WordByteCodec"]
