"""MaskGIT's VQGAN: images to a grid of tokens without attention; its codes are also what TiTok first learns to predict.

Chang et al., "MaskGIT: Masked Generative Image Transformer", 2022. Images of any size are padded to the grid and returned
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.image.grid import grid_spec, grid_tokens, pad_to_grid, quantize_map, to_map
from tokenizers_mm.nn.attention_free2d import (
    AttentionFreeDecoder2d,
    AttentionFreeEncoder2d,
    AveragePool2d,
    BiasFreeBlock2d,
)
from tokenizers_mm.nn.quantizer import GradientVectorQuantizer
from tokenizers_mm.nn.resnet2d import Upsample2d
from tokenizers_mm.quantizers import usage
from tokenizers_mm.tokens import Tokens


def maskgit_decoder(
    dim: int, channels: int, multipliers: Sequence[int], blocks: int, groups: int
) -> AttentionFreeDecoder2d:
    """The decoder alone, which others put behind codes of their own; arguments as of :class:`MaskGITVQ`."""
    block = partial(BiasFreeBlock2d, skip_output=True)
    return AttentionFreeDecoder2d(dim, channels, multipliers, blocks, block=block, upsample=Upsample2d, groups=groups)


class MaskGITVQ(Codec):
    """RGB images to one grid of tokens and back; by default the published model, one of 1,024 codes per 16x16 pixels.

    Args:
        codebook_size: Entries of the codebook.
        dim: Width of the codes.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first; each level but the last halves the resolution.
        blocks: Residual blocks per level, and in the middle.
        groups: Of each normalisation.

    Shape:
        ``x [B, 3, H, W]`` in [0, 1], any size; tokens ``[B, ceil(H / hop) * ceil(W / hop), 1]``, row-major.

    Source:
        https://github.com/google-research/maskgit; PyTorch weights: https://github.com/bytedance/1d-tokenizer
    """

    signal_ndim = 4
    size_dims = 2
    signal_range = (0.0, 1.0)

    def __init__(
        self,
        codebook_size: int = 1024,
        dim: int = 256,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.hop = 2 ** (len(multipliers) - 1)
        self.encoder = AttentionFreeEncoder2d(
            dim,
            channels,
            multipliers,
            blocks,
            block=partial(BiasFreeBlock2d, skip_output=True),
            downsample=lambda _: AveragePool2d(),
            groups=groups,
        )
        self.quantizer = GradientVectorQuantizer(dim, codebook_size)
        self.decoder = maskgit_decoder(dim, channels, multipliers, blocks, groups)
        self.spec = grid_spec(self.quantizer, self.hop)

    @property
    def last_layer(self) -> Tensor:
        """The weight that an adaptive adversarial weight compares gradients at."""
        return self.decoder.last_layer

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction with gradients, not clamped to [0, 1]; the images of a training batch have one size."""
        z = self._features(x)
        quantized = quantize_map(self.quantizer, z)
        image = self.decoder(to_map(quantized.features, z.shape[-2]))[..., : x.shape[-2], : x.shape[-1]]
        return CodecOutput(image, quantized.ids, quantized.loss, usage(quantized.ids, self.spec.codebook_sizes))

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return grid_tokens(self.quantizer, self._features(x), self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self.decoder(to_map(self.quantizer.decode(tokens.ids), int(tokens.shapes[0, 0]))).clamp(0, 1)

    def _features(self, x: Tensor) -> Tensor:
        return self.encoder(pad_to_grid(x, self.hop))
