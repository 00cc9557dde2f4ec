"""The residual encoder and decoder of images that VQGAN introduced and that LlamaGen, VAR, IBQ and Cosmos kept.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021. Features are channels last in memory, attention is
one scaled-dot-product call, and inference on CPUs adds skips inside the convolution and never convolves a doubled map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.normconv2d import Conv3x3, Norm2d, NormSiLU
from tokenizers_mm.nn.onednn import Linear, PackedUpsampling2d, Packing, PointwiseConv2d


class ResBlock2d(nn.Module):
    """Two 3x3 convolutions, each after normalisation and SiLU, beside a skip: ``[B, C, H, W] -> [B, C', H, W]``.

    Without gradients the sum may be written over the input, which a network of such blocks no longer needs.
    """

    def __init__(self, channels: int, out_channels: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = NormSiLU(channels, groups)
        self.conv1 = Conv3x3(channels, out_channels)
        self.norm2 = NormSiLU(out_channels, groups)
        self.conv2 = Conv3x3(out_channels, out_channels, dropout=dropout)
        self.skip = PointwiseConv2d(channels, out_channels) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1.normalised(self.norm1, x)
        return self.conv2.normalised(self.norm2, h, self.skip(x))


class Attention2d(nn.Module):
    """One head of self-attention over all positions, added to its input: ``[B, C, H, W]``."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = Norm2d(channels, groups)
        self.qkv = Linear(channels, 3 * channels)
        self.out = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.norm(x), "b c h w -> b 1 (h w) c")
        attended = F.scaled_dot_product_attention(*self.qkv(tokens).chunk(3, dim=-1))
        return x + rearrange(self.out(attended), "b 1 (h w) c -> b c h w", h=x.shape[-2])


class Downsample2d(nn.Conv2d):
    """Halves both sides by a strided 3x3 convolution that pads right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Upsample2d(Packing, nn.Conv2d):
    """Doubles both sides: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        small = x.shape[-2] * x.shape[-1] < 4 * self.in_channels  # less than the packed filters would take
        if not small and isinstance(upsampling := self.packed(self, x, PackedUpsampling2d), PackedUpsampling2d):
            return upsampling(x)
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level2d(nn.Module):
    """Residual blocks at one resolution, each followed by attention where asked, then a change of resolution or none."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        blocks: int,
        groups: int,
        attention: bool,
        resample: nn.Module | None,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(ResBlock2d(a, b, groups, dropout) for a, b in pairwise(widths))
        self.attentions = nn.ModuleList(Attention2d(out_channels, groups) for _ in range(blocks if attention else 0))
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[index](x)
        return self.resample(x)


def middle(channels: int, groups: int, attention: bool, dropout: float) -> nn.Sequential:
    """The blocks at the lowest resolution between levels and code: residual, attention where asked, residual."""
    between = [Attention2d(channels, groups)] if attention else []
    return nn.Sequential(
        ResBlock2d(channels, channels, groups, dropout), *between, ResBlock2d(channels, channels, groups, dropout)
    )


class Encoder2d(nn.Module):
    """Images to features, ``[B, 3, H, W] -> [B, D, H / hop, W / hop]``; both sides must be multiples of the hop.

    Args:
        dim: D, channels of the features.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first.
        blocks: Residual blocks per level.
        downsamples: How many of the first levels end by halving the resolution.
        patch_size: Pixels along each side that conv_in sees as one position.
        level_attention: Attention after each block of the lowest level.
        middle_attention: Attention in the middle.
        groups: Of each normalisation.
        dropout: Inside residual blocks.
        image_channels: Channels of the image.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        *,
        downsamples: int,
        patch_size: int = 1,
        level_attention: bool = True,
        middle_attention: bool = True,
        groups: int = 32,
        dropout: float = 0.0,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        last = len(widths) - 1
        self.patch_size = patch_size
        self.conv_in = nn.Conv2d(image_channels * patch_size**2, channels, 3, padding=1)
        self.levels = nn.ModuleList(
            Level2d(
                before,
                width,
                blocks,
                groups,
                level_attention and i == last,
                Downsample2d(width) if i < downsamples else None,
                dropout,
            )
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.middle = middle(widths[-1], groups, middle_attention, dropout)
        self.norm_out = NormSiLU(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, self.patch_size).contiguous(memory_format=torch.channels_last)
        x = self.conv_in(x)
        for level in self.levels:
            x = level(x)
        return self.conv_out(self.norm_out(self.middle(x)))


class Decoder2d(nn.Module):
    """Features to images, ``[B, D, h, w] -> [B, 3, h * hop, w * hop]``: the encoder's mirror.

    Args:
        dim: D, channels of the features.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first as in the encoder; the decoder goes through them
            backwards.
        blocks: Residual blocks per level.
        upsamples: How many of the lowest levels end by doubling the resolution.
        patch_size: Pixels along each side that conv_out gives for one position.
        level_attention: Attention after each block of the lowest level.
        middle_attention: Attention in the middle.
        groups: Of each normalisation.
        dropout: Inside residual blocks.
        image_channels: Channels of the image.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        *,
        upsamples: int,
        patch_size: int = 1,
        level_attention: bool = True,
        middle_attention: bool = True,
        groups: int = 32,
        dropout: float = 0.0,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in reversed(multipliers)]
        self.patch_size = patch_size
        self.conv_in = nn.Conv2d(dim, widths[0], 3, padding=1)
        self.middle = middle(widths[0], groups, middle_attention, dropout)
        self.levels = nn.ModuleList(
            Level2d(
                before,
                width,
                blocks,
                groups,
                level_attention and i == 0,
                Upsample2d(width) if i < upsamples else None,
                dropout,
            )
            for i, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False))
        )
        self.norm_out = NormSiLU(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], image_channels * patch_size**2, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        """The weight that an adaptive adversarial weight compares gradients at."""
        return self.conv_out.weight

    def forward(self, z: Tensor) -> Tensor:
        x = self.middle(self.conv_in(z.contiguous(memory_format=torch.channels_last)))
        for level in self.levels:
            x = level(x)
        return F.pixel_shuffle(self.conv_out(self.norm_out(x, overwrite=True)), self.patch_size)


def halvings(hop: int, patch_size: int, levels: int) -> int:
    """How many levels change the resolution for a hop in pixels.

    Raises:
        ValueError: If the hop is not the patch size times a power of two, or needs more levels than there are.
    """
    steps = round(math.log2(hop / patch_size)) if hop >= patch_size > 0 else -1
    if steps < 0 or patch_size * 2**steps != hop or steps >= max(levels, 1):
        raise ValueError(
            f"hop must be patch_size={patch_size} times 2 to the power of 0 to {levels - 1}, one less than the levels, "
            f"got {hop}"
        )
    return steps
