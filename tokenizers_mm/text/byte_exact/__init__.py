"""Exact probabilities of bytes from language models over tokens."""

from tokenizers_mm.text.byte_exact.canonical import Canonical, Characters, Encoded
from tokenizers_mm.text.byte_exact.model import ByteExactLM
from tokenizers_mm.text.byte_exact.models import Backbone, Bytes, Causal, byte_exact, byte_exact_transformers
from tokenizers_mm.text.byte_exact.sampling import ByteEnsemble, Continuation, FillTokens, fill, fill_state, generate
from tokenizers_mm.text.byte_exact.state import END, State
from tokenizers_mm.text.byte_exact.tokenizer import byte_tokenizer, canonical, longest_match

__all__ = [
    "END",
    "Backbone",
    "ByteEnsemble",
    "ByteExactLM",
    "Bytes",
    "Canonical",
    "Causal",
    "Characters",
    "Continuation",
    "Encoded",
    "FillTokens",
    "State",
    "byte_exact",
    "byte_exact_transformers",
    "byte_tokenizer",
    "canonical",
    "fill",
    "fill_state",
    "generate",
    "longest_match",
]
