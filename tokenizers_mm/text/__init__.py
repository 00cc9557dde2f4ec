"""Text wing: lossless codecs, segmenters, hierarchical models."""

from tokenizers_mm.text.base_models import SubwordBase, TransformersBase
from tokenizers_mm.text.dynamic import DynamicCodec
from tokenizers_mm.text.dynamic_classifier import DynamicClassifier
from tokenizers_mm.text.flat import ByteLM, SubwordLM
from tokenizers_mm.text.hat_paper import HATPaper
from tokenizers_mm.text.hat_tfree import HATTFree
from tokenizers_mm.text.hnet import HNet
from tokenizers_mm.text.hypernetwork import Hypernetwork
from tokenizers_mm.text.retrofit import Retrofit
from tokenizers_mm.text.sampled import BatchMerges, SampledUnigram
from tokenizers_mm.text.subword import SubwordCodec
from tokenizers_mm.text.units import ByteCodec, WordByteCodec

__all__ = [
    "BatchMerges",
    "ByteCodec",
    "ByteLM",
    "DynamicClassifier",
    "DynamicCodec",
    "HATPaper",
    "HATTFree",
    "HNet",
    "Hypernetwork",
    "Retrofit",
    "SampledUnigram",
    "SubwordBase",
    "SubwordCodec",
    "SubwordLM",
    "TransformersBase",
    "WordByteCodec",
]
