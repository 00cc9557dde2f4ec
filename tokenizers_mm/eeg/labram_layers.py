"""The transformer of LaBraM (Jiang et al., 2024): a token per electrode and patch, with embeddings of electrode and second."""

from __future__ import annotations

import math
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import Linear, LinearGELU

MAX_PATCHES = 16  # rows of the published table of times


class TemporalConvolution(nn.Module):
    """Patches of samples through three convolutions; the norms see all patches of a recording.

    Args:
        patch_size: Samples of a patch.
        channels: Of every convolution.

    Shape:
        ``[B, P, patch_size] -> [B, P, ceil(patch_size / 8) * channels]``.
    """

    def __init__(self, patch_size: int, channels: int = 8) -> None:
        super().__init__()
        sizes = ((1, 15, 8, 7), (channels, 3, 1, 1), (channels, 3, 1, 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(n, channels, (1, taps), stride=(1, stride), padding=(0, pad)) for n, taps, stride, pad in sizes
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, channels) for _ in sizes)
        self.width = -(-patch_size // 8) * channels

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.gelu(norm(conv(x)))
        return rearrange(x, "b d p t -> b p (t d)")


class SpatialTransformer(nn.Module):
    """Pre-norm attention over all patches of a recording behind a summary token, each patch knowing its electrode and its time.

    Args:
        embedding: Makes ``[B, P, dim]`` of what comes in.
        dim: Width.
        layers: Blocks.
        heads: Of each block.
        electrodes: Rows of the table of electrodes, the summary token's first.
    """

    def __init__(self, embedding: nn.Module, dim: int, layers: int, heads: int, electrodes: int = 129) -> None:
        super().__init__()
        self.embedding = embedding
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.electrodes = nn.Parameter(torch.zeros(electrodes, dim))
        self.times = nn.Parameter(torch.zeros(MAX_PATCHES, dim))
        blocks = [_Block(dim, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for parameter in (self.cls_token, self.electrodes, self.times):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.apply(start)
        for depth, block in enumerate(blocks, start=1):
            for layer in (block.proj, block.mlp[1]):
                cast(nn.Linear, layer).weight.data.div_(math.sqrt(2.0 * depth))

    def forward(self, x: Tensor, rows: Tensor, patches: int) -> Tensor:
        """Features ``[B, C * patches, dim]`` of what the embedding takes.

        Args:
            x: Input of the embedding, electrodes slowest.
            rows: Table row of each electrode, ``[B, C]``.
            patches: Patches in time.
        """
        places = self.electrodes[rows][:, :, None] + self.times[:patches]  # [B, C, A, dim]
        x = self.embedding(x) + places.flatten(1, 2)
        cls = (self.cls_token + self.electrodes[0]).expand(len(x), -1, -1)
        x = torch.cat([cls, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 1:])


class _Block(nn.Module):
    """Attention whose queries and values have biases and keys have none, then a GELU network of four times the width."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.proj = Linear(dim, dim)
        self.mlp = nn.Sequential(LinearGELU(dim, 4 * dim), Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (rearrange(y, "b n (h d) -> b h n d", h=self.heads) for y in (q + self.q_bias, k, v + self.v_bias))
        x = x + self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))
        return x + self.mlp(self.norm2(x))


def start(module: nn.Module) -> None:
    """Published initial weights of linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
