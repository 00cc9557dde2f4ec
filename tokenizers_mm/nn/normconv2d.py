"""Group normalisation, SiLU and a 3x3 convolution: what residual blocks of images are made of, in one place for their inference.

Wu and He, "Group Normalization", 2018. Inference on CPUs normalises while it convolves, so no normalised map lies in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import add_conv2d, usable
from tokenizers_mm.nn.winograd import normalised_conv2d, worthwhile

EPS = 1e-6


class Norm2d(nn.GroupNorm):
    """Group normalisation that also takes a group of one value, as the smallest images give.

    Args:
        channels: Channels in and out.
        groups: Groups that share statistics.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class NormSiLU(Norm2d):
    """Group normalisation, then SiLU; written over the input where asked and there is no gradient."""

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        if not usable(x):
            return F.silu(super().forward(x))
        scale, shift = self.scale_shift(x)
        normal = torch.addcmul(shift, x, scale, out=x) if overwrite else torch.addcmul(shift, x, scale)
        return F.silu(normal, inplace=True)

    def scale_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the normalisation multiplies by and adds, ``[B, C, 1, 1]`` each.

        PyTorch's own statistics of groups lose three digits of float32 channels last; those of channels don't, and are as fast.
        """
        found = [torch.batch_norm_update_stats(item[None], None, None, 0.0) for item in x]
        mean, var = (torch.stack(values).unflatten(1, (self.num_groups, -1)) for values in zip(*found, strict=True))
        centre = mean.mean(dim=-1, keepdim=True)
        spread = (var + (mean - centre).square()).mean(dim=-1, keepdim=True)
        scale = ((spread + self.eps).rsqrt() * self.weight.unflatten(0, (self.num_groups, -1))).flatten(1)
        shift = self.bias - centre.expand_as(mean).flatten(1) * scale
        return scale[..., None, None], shift[..., None, None]


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that can normalise what it convolves: ``[B, C, H, W] -> [B, C', H, W]``.

    Args:
        channels: C.
        out_channels: C'.
        bias: Whether it has one.
        dropout: Of the normalised map, in training.
    """

    def __init__(self, channels: int, out_channels: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__(channels, out_channels, 3, padding=1, bias=bias)
        self.dropout = dropout

    def normalised(self, norm: NormSiLU, x: Tensor, total: Tensor | None = None) -> Tensor:
        """``total + conv(norm(x))``; without gradients ``total`` is written over, and ``x`` too where there is one."""
        if not self.training and usable(x) and worthwhile(self, x):
            return normalised_conv2d(x, *norm.scale_shift(x), self, total)
        h = F.dropout(norm(x, overwrite=total is not None), self.dropout, self.training)
        return self(h) if total is None else add_conv2d(total, h, self)
