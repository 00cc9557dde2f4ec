"""A transformer of linear attention: cost grows with the sequence, not with its square.

Shen et al., "Efficient Attention: Attention with Linear Complexities", 2018, in the form of the package
linear-attention-transformer: queries are normalised over features and keys over the sequence, so that each head sums the
sequence up in one small matrix. Without positions: permuting the sequence permutes the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenizers_mm.nn.onednn import Linear, LinearGELU, linear, usable

_SAFE = 40.0  # largest exponent whose products and sums are still far from float32's ends


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
        qkv = self.qkv(x)
        if usable(x) and (mixed := self._mix_exponentials(qkv)) is not None:
            return self.out(mixed)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(-3)  # each [M, L, heads, d]
        q = q.softmax(dim=-1) * q.shape[-1] ** -0.5
        k = k.softmax(dim=1)
        context = torch.einsum("mlhd,mlhe->mhde", k, v)
        return self.dropout(self.out(torch.einsum("mlhd,mhde->mlhe", q, context).flatten(-2)))

    def _mix_exponentials(self, qkv: Tensor) -> Tensor | None:
        """The same ``[M, L, dim]`` in a fraction of the time, if no exponential can overflow; ``qkv`` is written over.

        PyTorch's softmax is slow over few features and over strided ones. Here it is exponentials whose sums come by a matrix
        product for queries, and are divided out of the small matrix for keys.
        """
        qk, v = qkv.split([2 * qkv.shape[-1] // 3, qkv.shape[-1] // 3], dim=-1)
        if not max(map(abs, map(float, torch.aminmax(qk)))) < _SAFE:
            return None
        q, k = qk.exp_().chunk(2, dim=-1)
        width = v.shape[-1] // self.heads
        heads = (
            torch.eye(self.heads, device=q.device, dtype=q.dtype)
            .repeat_interleave(width, 0)
            .repeat_interleave(width, 1)
        )
        context = torch.einsum("mlhd,mlhe->mhde", k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1)))
        context *= (width**-0.5 / k.sum(dim=1)).unflatten(-1, (self.heads, -1))[..., None]
        mixed = torch.einsum("mlhd,mhde->mlhe", q.unflatten(-1, (self.heads, -1)), context).flatten(-2)
        return mixed.div_(linear(q, heads, None))


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
