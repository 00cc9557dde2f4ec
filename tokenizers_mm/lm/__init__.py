"""Language models over the tokens of any codec."""

from tokenizers_mm.lm.ngram import TokenNGram
from tokenizers_mm.lm.processors import Sampling
from tokenizers_mm.lm.stream import Stream
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.lm.vocabulary import Vocabulary

__all__ = ["Sampling", "Stream", "TokenLM", "TokenNGram", "Vocabulary"]
