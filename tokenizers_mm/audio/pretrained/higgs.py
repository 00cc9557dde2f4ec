"""Higgs Audio v2's tokenizer: speech, music and sound events at 24 kHz in 25 steps per second.

Boson AI, "Higgs Audio V2: Redefining Expressiveness in Audio Generation", 2025. X-Codec's layout at half its frame rate, over
``transformers``' HiggsAudioV2TokenizerModel; the library has no training forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenizers_mm.audio.pretrained.xcodec import encode_residual, residual_model
from tokenizers_mm.pretrained import TransformersCodec
from tokenizers_mm.tokens import Tokens

SAMPLE_RATE = 24000
PUBLISHED = {"downsampling_ratios": [8, 5, 4, 2, 3], "upsampling_ratios": [8, 5, 4, 2, 3]}


class HiggsAudio(TransformersCodec):
    """24 kHz audio to residual codebooks, 25 steps per second; by default the published 8 (2 kbit/s).

    Args:
        num_codebooks: Residual codebooks.
        codebook_size: Entries of each.
        codebook_dim: Width in which the nearest entry is looked up.
        acoustic: ``DacConfig`` fields in place of the published ones; ``downsampling_ratios`` decide the hop.
        semantic: Configuration of the semantic model (16 kHz, 320 samples apart), its ``model_type`` among the fields; by default
            HuBERT base.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, ceil(N / hop), Q]``.
    """

    def __init__(
        self,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        codebook_dim: int = 64,
        acoustic: Mapping[str, Any] | None = None,
        semantic: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.spec = residual_model(
            "HiggsAudioV2Tokenizer",
            SAMPLE_RATE,
            num_codebooks,
            codebook_size,
            {**PUBLISHED, **(acoustic or {})},
            semantic,
            codebook_dim=codebook_dim,
        )

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return encode_residual(self.model, self.spec, x)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self.model.decode(tokens.codes, return_dict=False)
