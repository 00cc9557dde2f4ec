"""Blocks of DAC-style convolutional codecs with depthwise convolutions, as SNAC has them.

Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023; Siuzdak et al., "SNAC: Multi-Scale Neural Audio
Codec", 2024. A block's output is exactly ``N / stride`` or ``N * stride`` long, for odd strides too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tokenizers_mm.nn.conv import PaddedConv1d
from tokenizers_mm.nn.onednn import Packed, Packing
from tokenizers_mm.nn.snake import Snake

Noise = bool | torch.Generator
"""False: none; True: drawn anew each time; a generator: reproducible."""


class ResidualUnit(nn.Module):
    """Snake and depthwise dilated convolution, Snake and pointwise convolution, residual: ``[B, C, N] -> [B, C, N]``."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.snake1, self.snake2 = Snake(channels), Snake(channels)
        self.conv1 = PaddedConv1d(channels, channels, 7, dilation=dilation, groups=channels, norm="weight_norm")
        self.conv2 = PaddedConv1d(channels, channels, 1, norm="weight_norm")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.snake2(self.conv1(self.snake1(x))))


def residual_units(channels: int) -> nn.Sequential:
    """Three units that look 3, 9 and 27 samples to each side."""
    return nn.Sequential(*(ResidualUnit(channels, dilation) for dilation in (1, 3, 9)))


class DownBlock(nn.Module):
    """Residual units, then a strided convolution: ``[B, C, N] -> [B, C', N / stride]``, N a multiple of stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.units = residual_units(in_channels)
        self.snake = Snake(in_channels)
        self.down = PaddedConv1d(in_channels, out_channels, 2 * stride, stride=stride, norm="weight_norm")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.snake(self.units(x)))


class UpConv1d(Packing):
    """Transposed convolution with a kernel of two strides: ``[B, C, N] -> [B, C', N * stride]``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = weight_norm(
            nn.ConvTranspose1d(
                in_channels, out_channels, 2 * stride, stride, padding=-(-stride // 2), output_padding=stride % 2
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.packed(self.conv, x, PackedUpConv1d)(x)


class PackedUpConv1d(Packed):
    """An :class:`UpConv1d`, its weight norm folded, as one matrix product and one addition of overlaps; channels last."""

    def __init__(self, layer: nn.ConvTranspose1d) -> None:
        super().__init__(layer)
        stride = layer.stride[0]
        self.stride, self.cut = stride, int(layer.padding[0])
        self.channels = layer.out_channels
        weight = layer.weight.detach()  # C, C', 2 stride
        self.weight = weight.permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous()
        self.bias = None if layer.bias is None else layer.bias.detach().repeat(stride)

    def __call__(self, x: Tensor) -> Tensor:
        batch, _, n = x.shape
        pieces = torch.ops.mkldnn._linear_pointwise(x.mT, self.weight, None, "none", [], "none")  # B, N, 2 stride C'
        head, tail = pieces.chunk(2, dim=-1)
        half = head.shape[-1]
        y = x.new_empty(batch, n + 1, half)
        y[:, :n] = head
        y[:, n] = 0
        y[:, 1:] += tail
        if self.bias is not None:
            y += self.bias
        samples = y.view(batch, (n + 1) * self.stride, self.channels)
        return samples[:, self.cut : self.cut + n * self.stride].mT


class NoiseBlock(nn.Module):
    """Adds noise, one value for all channels of a sample, scaled by a pointwise convolution of the signal itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = weight_norm(nn.Conv1d(channels, channels, 1, bias=False))

    def forward(self, x: Tensor, noise: Noise) -> Tensor:
        if noise is False:
            return x
        generator = noise if isinstance(noise, torch.Generator) else None
        device = generator.device if generator is not None else x.device
        drawn = torch.randn(len(x), 1, x.shape[-1], dtype=x.dtype, device=device, generator=generator)
        return x + drawn.to(x.device) * self.linear(x)


class UpBlock(nn.Module):
    """Transposed convolution, optional noise, residual units: ``[B, C, N] -> [B, C', N * stride]``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, noise: bool) -> None:
        super().__init__()
        self.snake = Snake(in_channels)
        self.up = UpConv1d(in_channels, out_channels, stride)
        self.noise = NoiseBlock(out_channels) if noise else None
        self.units = residual_units(out_channels)

    def forward(self, x: Tensor, noise: Noise = False) -> Tensor:
        x = self.up(self.snake(x))
        if self.noise is not None:
            x = self.noise(x, noise)
        return self.units(x)
