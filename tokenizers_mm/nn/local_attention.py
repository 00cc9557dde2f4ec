"""Self-attention inside fixed windows of time, as SNAC (Siuzdak et al., 2024) puts it into a convolutional codec."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import Linear


class LocalAttention(nn.Module):
    """Pre-norm attention among the steps of each window, rotary positions counted from the window's start, residual.

    Args:
        dim: C, a multiple of ``head_dim``.
        window: Steps of a window; it sees nothing outside.
        head_dim: Width of a head.

    Shape:
        ``[B, C, T] -> [B, C, T]``, T a multiple of ``window``.

    Raises:
        ValueError: If sizes do not fit.
    """

    rotation: Tensor

    def __init__(self, dim: int, window: int, head_dim: int = 64) -> None:
        super().__init__()
        if dim % head_dim or head_dim % 2 or window < 1:
            raise ValueError(
                f"dim must be a multiple of an even head_dim and window positive, got {dim}, {head_dim}, {window}"
            )
        self.window, self.heads = window, dim // head_dim
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = Linear(dim, 3 * dim, bias=False)
        self.to_out = Linear(dim, dim, bias=False)
        frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
        angles = torch.outer(torch.arange(window), frequencies)
        self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.window:
            raise ValueError(f"x must hold a multiple of {self.window} steps, got {x.shape[-1]}")
        qkv = self.to_qkv(self.norm(x.mT))
        q, k, v = rearrange(qkv, "b (w t) (i h d) -> i (b w) h t d", i=3, h=self.heads, t=self.window)
        heads = F.scaled_dot_product_attention(self._rotate(q), self._rotate(k), v)
        y = self.to_out(rearrange(heads, "(b w) h t d -> b (w t) (h d)", b=len(x)))
        return x + y.mT

    def _rotate(self, x: Tensor) -> Tensor:
        cos, sin = self.rotation.to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
