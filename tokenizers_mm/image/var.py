"""VAR's image tokenizer: ten scales of tokens, coarse to fine, of which any first few decode.

Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction", 2024. Its published code
cannot train the tokenizer; here :meth:`VARTokenizer.forward` does, with the losses that the paper gives, and codes that fall out
of use can be revived.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.image.grid import original_sizes, resized
from tokenizers_mm.nn.multiscale import MultiScaleQuantizer
from tokenizers_mm.nn.resnet2d import Decoder2d, Encoder2d, halvings
from tokenizers_mm.quantizers import usage
from tokenizers_mm.tokens import Tokens, TokenSpec


class VARTokenizer(Codec):
    """RGB images to a pyramid of tokens and back; by default VAR's 680 tokens for 256x256 pixels.

    Args:
        scales: Sides of the pyramid's grids, coarse first; the images it works on have ``scales[-1] * hop`` pixels a side.
        hop: Pixels per token of the last scale along each side; ``patch_size`` times a power of two.
        codebook_size: Entries of the codebook that all scales share.
        latent_channels: Width of the codes.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first.
        blocks: Residual blocks per level of the encoder.
        decoder_blocks: Of the decoder; one more than the encoder's by default.
        patch_size: Side of the square of pixels that the first and last convolution treat as one position.
        level_attention: Attention after each block of the lowest level.
        middle_attention: Attention between the two middle blocks.
        refinements: Different convolutions that refine what a scale adds.
        commitment_weight: Of the pull of features towards every scale's sum.
        revive_below: Share of uniform use below which training revives a code; 0 as published.
        groups: Of each normalisation.
        dropout: Inside residual blocks.

    Shape:
        ``x [B, 3, H, W]`` in [0, 1]; other sizes are scaled to the codec's square and back. Tokens ``[B, sum(s^2), 1]``.
    """

    signal_ndim = 4
    size_dims = 2
    signal_range = (0.0, 1.0)

    def __init__(
        self,
        scales: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        hop: int = 16,
        codebook_size: int = 4096,
        latent_channels: int = 32,
        channels: int = 160,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        decoder_blocks: int | None = None,
        patch_size: int = 1,
        level_attention: bool = True,
        middle_attention: bool = True,
        refinements: int = 4,
        commitment_weight: float = 0.25,
        revive_below: float = 0.0,
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
        self.image_size = scales[-1] * hop
        self.encoder = Encoder2d(latent_channels, channels, multipliers, blocks, downsamples=resamples, **shared)
        self.project_in = nn.Conv2d(latent_channels, latent_channels, 3, padding=1)
        self.quantizer = MultiScaleQuantizer(
            latent_channels,
            codebook_size,
            scales,
            refinements=refinements,
            commitment_weight=commitment_weight,
            revive_below=revive_below,
        )
        self.project_out = nn.Conv2d(latent_channels, latent_channels, 3, padding=1)
        self.decoder = Decoder2d(
            latent_channels,
            channels,
            multipliers,
            blocks + 1 if decoder_blocks is None else decoder_blocks,
            upsamples=resamples,
            **shared,
        )
        self.spec = TokenSpec(
            modality="image",
            codebook_sizes=(codebook_size,),
            axes=("scale",),
            channels=3,
            scales=self.quantizer.steps,
            scalable="scales",
        )

    @property
    def last_layer(self) -> Tensor:
        """The weight that an adaptive adversarial weight compares gradients at."""
        return self.decoder.last_layer

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction with gradients, not clamped to [0, 1]; the images of a training batch have one size."""
        quantized = self.quantizer(self._features(x))
        image = resized(self._synthesise(quantized.features), x.shape[-2:])
        stats = usage(quantized.ids, self.spec.codebook_sizes)
        coarse = quantized.ids[:, : -self.spec.scales[-1]]
        stats["codes_used_coarse"] = usage(coarse, self.spec.codebook_sizes)["codes_used"]
        return CodecOutput(image, quantized.ids, quantized.loss, stats)

    def next_inputs(self, tokens: Tokens) -> Tensor:
        """What VAR's transformer reads in place of scales 2, 3, ...: the sum so far at their size, ``[B, T - 1, D]``."""
        return self.quantizer.next_inputs(tokens.ids.to(self.device))

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return Tokens(self.quantizer(self._features(x)).ids, self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return original_sizes(self._synthesise(self.quantizer.decode(tokens.ids)).clamp(0, 1), tokens)

    def _features(self, x: Tensor) -> Tensor:
        """What is quantized, ``[B, latent_channels, p, p]``."""
        square = resized(x, (self.image_size, self.image_size))
        return self.project_in(self.encoder(square * 2 - 1))

    def _synthesise(self, features: Tensor) -> Tensor:
        return (self.decoder(self.project_out(features)) + 1) / 2
