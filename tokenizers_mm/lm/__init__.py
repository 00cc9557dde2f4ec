"""Language models over the tokens of any codec."""

from tokenizers_mm.lm.huggingface import HuggingFaceLM
from tokenizers_mm.lm.lexinvariant import LexinvariantLM
from tokenizers_mm.lm.llamagen import LlamaGen
from tokenizers_mm.lm.masked import MaskedTokenLM
from tokenizers_mm.lm.ngram import TokenNGram
from tokenizers_mm.lm.processors import Sampling
from tokenizers_mm.lm.regularized import RegularizedLM
from tokenizers_mm.lm.stream import Stream
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.lm.vocabulary import Vocabulary

__all__ = [
    "HuggingFaceLM",
    "LexinvariantLM",
    "LlamaGen",
    "MaskedTokenLM",
    "RegularizedLM",
    "Sampling",
    "Stream",
    "TokenLM",
    "TokenNGram",
    "Vocabulary",
]
