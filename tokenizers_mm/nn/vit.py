"""Pre-normalised transformer blocks over a set of tokens, as in vision transformers.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2021. Attention is one
scaled-dot-product call; products go through oneDNN in inference on CPUs.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import Linear, LinearGELU


class SelfAttention(nn.Module):
    """Multi-head self-attention among all tokens: ``[B, T, D] -> [B, T, D]``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads must divide dim={dim}, got {heads}")
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b t (n h d) -> n b h t d", n=3, h=self.heads)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h t d -> b t (h d)"))


class ViTBlock(nn.Module):
    """Attention, then two linear layers with GELU between; each normalised before and added to its input.

    Args:
        dim: D, width of the tokens.
        heads: Of attention.
        ratio: Width between the two linear layers, in multiples of ``dim``.
    """

    def __init__(self, dim: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(LinearGELU(dim, ratio * dim), Linear(ratio * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))
