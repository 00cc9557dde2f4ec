"""A transformer of linear attention: cost grows with the sequence, not with its square.

Shen et al., "Efficient Attention: Attention with Linear Complexities", 2018, in the form of the package
linear-attention-transformer: queries are normalised over features and keys over the sequence, so that each head sums the
sequence up in one small matrix. Without positions: permuting the sequence permutes the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenizers_mm.nn.onednn import Linear, LinearGELU


class LinearAttention(nn.Module):
    """Attention whose keys and values meet before the queries come.

    Args:
        dim: Features in and out.
        heads: Heads; they divide ``dim``.
        dropout: Of the output, in training.

    Shape:
        ``[M, L, dim] -> [M, L, dim]``.

    Raises:
        ValueError: If ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int = 8, *, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide dim={dim}, got {heads}")
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.out = Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)  # each [M, L, heads, d]
        q = q.softmax(dim=-1) * q.shape[-1] ** -0.5
        k = k.softmax(dim=1)
        context = torch.einsum("mlhd,mlhe->mhde", k, v)
        return self.dropout(self.out(torch.einsum("mlhd,mhde->mlhe", q, context).flatten(-2)))


class LinearAttentionTransformer(nn.Module):
    """Pre-norm layers of linear attention and a GELU network of four times the width, without a last norm.

    Args:
        dim: Features in and out.
        depth: Layers.
        heads: Heads of each layer.
        dropout: Of each attention's output, in training.

    Shape:
        ``[M, L, dim] -> [M, L, dim]``.
    """

    def __init__(self, dim: int, depth: int, heads: int = 8, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(dim, heads, dropout) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = LinearAttention(dim, heads, dropout=dropout)
        self.mlp = nn.Sequential(LinearGELU(dim, 4 * dim), Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))
