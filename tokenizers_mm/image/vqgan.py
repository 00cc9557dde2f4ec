"""VQGAN: images to a grid of tokens, one per 16x16 or 8x8 pixels, with any quantizer.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021, in the configuration of Sun et al.,
"Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation" (LlamaGen), 2024. The quantizer's projections are
the original's ``quant_conv`` and ``post_quant_conv``; images of any size are padded to the grid and returned exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.image.grid import grid_spec, grid_tokens, pad_to_grid, quantize_map, to_map
from tokenizers_mm.nn.resnet2d import Decoder2d, Encoder2d, halvings
from tokenizers_mm.quantizers import build_quantizer, usage
from tokenizers_mm.tokens import Tokens

LLAMAGEN = {"kind": "gradient_vq", "codebook_size": 16384, "codebook_dim": 8, "normalise": True}


class VQGAN(Codec):
    """RGB images to one grid of tokens and back; by default LlamaGen's VQ-16.

    Args:
        hop: Pixels per token along each side; ``patch_size`` times a power of two.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first.
        blocks: Residual blocks per level of the encoder.
        decoder_blocks: Of the decoder; one more than the encoder's by default.
        decoder_channels: Like ``channels``, of the decoder; the same by default.
        patch_size: Side of the square of pixels that the first and last convolution treat as one position: 1 as
            published; 4 spares the levels of full resolution, which cost most.
        level_attention: Attention after each block of the lowest level.
        middle_attention: Attention between the two middle blocks.
        latent_channels: Channels of the encoder's output, which the quantizer projects to its own width.
        quantizer: Mapping for :func:`~tokenizers_mm.quantizers.build_quantizer`.
        groups: Of each normalisation.
        dropout: Inside residual blocks.

    Shape:
        ``x [B, 3, H, W]`` in [0, 1], any size; tokens ``[B, ceil(H / hop) * ceil(W / hop), Q]``, row-major.
    """

    signal_ndim = 4
    size_dims = 2
    signal_range = (0.0, 1.0)

    def __init__(
        self,
        hop: int = 16,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        decoder_blocks: int | None = None,
        decoder_channels: int | None = None,
        patch_size: int = 1,
        level_attention: bool = True,
        middle_attention: bool = True,
        latent_channels: int = 256,
        quantizer: Mapping[str, Any] | None = None,
        groups: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        resamples = halvings(hop, patch_size, len(multipliers))
        shared: dict[str, Any] = {
            "patch_size": patch_size,
            "level_attention": level_attention,
            "middle_attention": middle_attention,
            "groups": groups,
            "dropout": dropout,
        }
        self.hop = hop
        self.encoder = Encoder2d(latent_channels, channels, multipliers, blocks, downsamples=resamples, **shared)
        self.quantizer = build_quantizer(latent_channels, **(quantizer or LLAMAGEN))
        self.decoder = Decoder2d(
            latent_channels,
            decoder_channels or channels,
            multipliers,
            blocks + 1 if decoder_blocks is None else decoder_blocks,
            upsamples=resamples,
            **shared,
        )
        self.spec = grid_spec(self.quantizer, hop)

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
        """What is quantized, ``[B, latent_channels, h, w]``."""
        return self.encoder(pad_to_grid(x, self.hop) * 2 - 1)

    def _synthesise(self, features: Tensor, rows: int) -> Tensor:
        return (self.decoder(to_map(features, rows)) + 1) / 2
