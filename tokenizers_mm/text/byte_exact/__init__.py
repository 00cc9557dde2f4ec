"""Exact probabilities of bytes from language models over tokens."""

from tokenizers_mm.text.byte_exact.canonical import Canonical, Characters, Encoded
from tokenizers_mm.text.byte_exact.model import ByteExactLM
from tokenizers_mm.text.byte_exact.state import END, State
from tokenizers_mm.text.byte_exact.tokenizer import byte_tokenizer, canonical, longest_match

__all__ = [
    "END",
    "ByteExactLM",
    "Canonical",
    "Characters",
    "Encoded",
    "State",
    "byte_tokenizer",
    "canonical",
    "longest_match",
]
