"""VQGAN's descendants without attention: the networks of MaskGIT's VQGAN and of Open-MAGVIT2.

Chang et al., "MaskGIT: Masked Generative Image Transformer", 2022; Luo et al., "Open-MAGVIT2: An Open-Source Project Toward
Democratizing Auto-regressive Visual Generation", 2024, after Yu et al., "Language Model Beats Diffusion", 2023 (MAGVIT-v2). Both
leave out biases inside residual blocks; they differ in how blocks skip, how maps change size, and in adaptive normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.normconv2d import EPS, Conv3x3, NormSiLU
from tokenizers_mm.nn.onednn import Linear

BuildBlock = Callable[[int, int, int], nn.Module]
BuildResample = Callable[[int], nn.Module]


class BiasFreeBlock2d(nn.Module):
    """Two 3x3 convolutions without bias, each after normalisation and SiLU, beside a skip: ``[B, C, H, W] -> [B, C', H, W]``.

    Args:
        channels: C.
        out_channels: C'.
        groups: Of each normalisation.
        skip_output: Where the width changes, add a 1x1 convolution of what the second convolution gives, not of the input: a slip
            of MaskGIT's program that its weights were trained with.
    """

    def __init__(self, channels: int, out_channels: int, groups: int, *, skip_output: bool = False) -> None:
        super().__init__()
        self.norm1 = NormSiLU(channels, groups)
        self.conv1 = Conv3x3(channels, out_channels, bias=False)
        self.norm2 = NormSiLU(out_channels, groups)
        self.conv2 = Conv3x3(out_channels, out_channels, bias=False)
        self.skip_output = skip_output and channels != out_channels
        self.skip: nn.Module = nn.Identity()
        if channels != out_channels:
            self.skip = nn.Conv2d(out_channels if skip_output else channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1.normalised(self.norm1, x)
        if not self.skip_output:
            return self.conv2.normalised(self.norm2, h, self.skip(x))
        h = self.conv2.normalised(self.norm2, h)
        return h + self.skip(h)


class DepthToSpace2d(nn.Conv2d):
    """Doubles both sides: a 3x3 convolution to four times the channels, which become 2x2 pixels, the pixel's place first."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(super().forward(x), "b (p q c) h w -> b c (h p) (w q)", p=2, q=2)


class StridedConv2d(nn.Conv2d):
    """Halves both sides by a strided 3x3 convolution, padded alike on all sides."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)


class AdaptiveGroupNorm(nn.Module):
    """Group normalisation whose scale and shift come from the spread and the mean of the whole code map.

    What is decoded at one place depends on the codes everywhere: a crop of the codes is not a crop of the image.

    Args:
        channels: C, channels to normalise.
        dim: D, channels of the code map.
        groups: Of the normalisation.
    """

    def __init__(self, channels: int, dim: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.scale = Linear(dim, channels)
        self.shift = Linear(dim, channels)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """``[B, C, H, W]`` normalised by code maps ``[B, D, h, w]``; a map of a single code has no spread."""
        codes = codes.flatten(2)
        spread = codes.var(dim=-1, correction=1 if codes.shape[-1] > 1 else 0)
        scale, shift = self.scale((spread + EPS).sqrt()), self.shift(codes.mean(dim=-1))
        return torch.addcmul(shift[..., None, None], torch.group_norm(x, self.groups, eps=EPS), scale[..., None, None])


class AttentionFreeEncoder2d(nn.Module):
    """Images to features, ``[B, 3, H, W] -> [B, D, H / hop, W / hop]``, the hop being 2 to the power of the levels less one.

    Args:
        dim: D, channels of the features.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first.
        blocks: Residual blocks per level, and in the middle.
        block: Makes a residual block of channels in, channels out and groups.
        downsample: Makes what halves a map of so many channels after each level but the last.
        groups: Of each normalisation.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        *,
        block: BuildBlock,
        downsample: BuildResample,
        groups: int = 32,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.levels = nn.ModuleList(
            _Level(before, width, blocks, block, groups, downsample(width) if i < len(widths) - 1 else None)
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.middle = nn.Sequential(*(block(widths[-1], widths[-1], groups) for _ in range(blocks)))
        self.norm_out = NormSiLU(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        for level in self.levels:
            x = level(x)
        return self.conv_out(self.norm_out(self.middle(x)))


class AttentionFreeDecoder2d(nn.Module):
    """Features to images, ``[B, D, h, w] -> [B, 3, h * hop, w * hop]``: the encoder's mirror.

    Args:
        dim: D, channels of the features.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first as in the encoder; the decoder goes through them backwards.
        blocks: Residual blocks per level, and in the middle.
        block: Makes a residual block of channels in, channels out and groups.
        upsample: Makes what doubles a map of so many channels after each level but the last.
        adaptive: Put an :class:`AdaptiveGroupNorm` before each level.
        groups: Of each normalisation.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        *,
        block: BuildBlock,
        upsample: BuildResample,
        adaptive: bool = False,
        groups: int = 32,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in reversed(multipliers)]
        self.conv_in = nn.Conv2d(dim, widths[0], 3, padding=1)
        self.middle = nn.Sequential(*(block(widths[0], widths[0], groups) for _ in range(blocks)))
        self.adaptive = nn.ModuleList(
            AdaptiveGroupNorm(width, dim, groups) for width in [widths[0], *widths[:-1]] if adaptive
        )
        self.levels = nn.ModuleList(
            _Level(before, width, blocks, block, groups, upsample(width) if i < len(widths) - 1 else None)
            for i, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False))
        )
        self.norm_out = NormSiLU(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        """The weight that an adaptive adversarial weight compares gradients at."""
        return self.conv_out.weight

    def forward(self, z: Tensor) -> Tensor:
        x = self.middle(self.conv_in(z.contiguous(memory_format=torch.channels_last)))
        for index, level in enumerate(self.levels):
            x = level(self.adaptive[index](x, z) if self.adaptive else x)
        return self.conv_out(self.norm_out(x))


class _Level(nn.Module):
    """Residual blocks at one resolution, then a change of resolution or none."""

    def __init__(
        self, channels: int, out_channels: int, blocks: int, block: BuildBlock, groups: int, resample: nn.Module | None
    ) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * blocks
        self.blocks = nn.Sequential(*(block(a, b, groups) for a, b in pairwise(widths)))
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(self.blocks(x))


class AveragePool2d(nn.Module):
    """Halves both sides: means of 2x2 pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)
