"""Open-MAGVIT2: images to a grid of tokens of 18 bits, the signs of 18 features, without attention and without a codebook.

Luo et al., "Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-regressive Visual Generation", 2024, after MAGVIT-v2
(Yu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", 2023). Images of any size are padded to the
grid and returned exactly; the entropy loss is exact over all codes (see :mod:`tokenizers_mm.nn.lookup_free`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.image.grid import grid_spec, grid_tokens, pad_to_grid, quantize_map, to_map
from tokenizers_mm.nn.attention_free2d import (
    AttentionFreeDecoder2d,
    AttentionFreeEncoder2d,
    BiasFreeBlock2d,
    DepthToSpace2d,
    StridedConv2d,
)
from tokenizers_mm.nn.lookup_free import LookupFreeQuantizer
from tokenizers_mm.quantizers import usage
from tokenizers_mm.tokens import Tokens


class OpenMAGVIT2(Codec):
    """RGB images to one grid of tokens and back; by default the published model for 256x256 pixels, 256 tokens of 18 bits.

    Args:
        bits: Features whose signs are a token.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first; each level but the last halves the resolution.
        blocks: Residual blocks per level, and in the middle.
        groups: Of each normalisation.
        commitment_weight: Of the pull of features towards their codes.
        entropy_weight: Of the entropies of codes.

    Shape:
        ``x [B, 3, H, W]`` in [0, 1], any size; tokens ``[B, ceil(H / hop) * ceil(W / hop), 1]``, row-major, with the sign of
        feature 0 as an id's lowest bit.

    Source:
        https://github.com/TencentARC/SEED-Voken
    """

    signal_ndim = 4
    size_dims = 2
    signal_range = (0.0, 1.0)

    def __init__(
        self,
        bits: int = 18,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 4,
        groups: int = 32,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.hop = 2 ** (len(multipliers) - 1)
        self.encoder = AttentionFreeEncoder2d(
            bits, channels, multipliers, blocks, block=BiasFreeBlock2d, downsample=StridedConv2d, groups=groups
        )
        self.quantizer = LookupFreeQuantizer(
            bits, 2**bits, bit_order="lsb", commitment_weight=commitment_weight, entropy_weight=entropy_weight
        )
        self.decoder = AttentionFreeDecoder2d(
            bits,
            channels,
            multipliers,
            blocks,
            block=BiasFreeBlock2d,
            upsample=DepthToSpace2d,
            adaptive=True,
            groups=groups,
        )
        self.spec = grid_spec(self.quantizer, self.hop)

    @property
    def last_layer(self) -> Tensor:
        """The weight that an adaptive adversarial weight compares gradients at."""
        return self.decoder.last_layer

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction with gradients, not clamped to [0, 1]; the images of a training batch have one size."""
        z = self._features(x)
        quantized = quantize_map(self.quantizer, z)
        image = self._synthesise(quantized.features, z.shape[-2])[..., : x.shape[-2], : x.shape[-1]]
        return CodecOutput(image, quantized.ids, quantized.loss, usage(quantized.ids, self.spec.codebook_sizes))

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return grid_tokens(self.quantizer, self._features(x), self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self._synthesise(self.quantizer.decode(tokens.ids), int(tokens.shapes[0, 0])).clamp(0, 1)

    def _features(self, x: Tensor) -> Tensor:
        return self.encoder(pad_to_grid(x, self.hop) * 2 - 1)

    def _synthesise(self, features: Tensor, rows: int) -> Tensor:
        return (self.decoder(to_map(features, rows)) + 1) / 2
