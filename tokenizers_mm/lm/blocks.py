"""The layers of a decoder: attention whose queries, keys and values are one product, a gated feed-forward layer, a block of both.

Vaswani et al., "Attention Is All You Need", 2017, in the form of Touvron et al., "LLaMA", 2023.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from tokenizers_mm.lm import flex
from tokenizers_mm.lm.cache import CacheAt, SlotsAt
from tokenizers_mm.lm.joint import Joint
from tokenizers_mm.lm.output import Trace
from tokenizers_mm.lm.rope import Table, turn
from tokenizers_mm.nn.few_rows import FewRowsLinear, few_rows


class Attention(Joint):
    """Self-attention of ``heads`` queries that share ``kv_heads`` keys and values."""

    joint: ClassVar = {"qkv": ("query", "key", "value")}
    qkv: nn.Parameter

    def __init__(
        self, dim: int, heads: int, kv_heads: int, dropout: float, *, qk_norm: bool = False, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dropout = heads, kv_heads, dropout
        self.width = dim // heads
        self.join("qkv", dim, heads * self.width, kv_heads * self.width, kv_heads * self.width)
        self.out = FewRowsLinear(heads * self.width, dim)
        self.query_norm = nn.RMSNorm(self.width, eps=eps) if qk_norm else None
        self.key_norm = nn.RMSNorm(self.width, eps=eps) if qk_norm else None

    def forward(
        self,
        x: Tensor,
        table: Table,
        mask: Tensor | BlockMask | None,
        cache: CacheAt | SlotsAt | None,
        layer: int,
        trace: Trace | None = None,
    ) -> Tensor:
        """Features ``[B, L, D]``; without a mask, several steps are the first ones and causal, and one sees all."""
        qkv = few_rows(x, self.qkv).unflatten(-1, (-1, self.width)).transpose(1, 2)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        if self.query_norm is None or self.key_norm is None:
            q, k = turn(qk, table).split((self.heads, self.kv_heads), dim=1)
        else:
            q, k = qk.split((self.heads, self.kv_heads), dim=1)
            q, k = turn(self.query_norm(q), table), turn(self.key_norm(k), table)
        if cache is not None:
            k, v = cache.write(layer, k, v)
        causal = mask is None and x.shape[1] > 1
        if isinstance(mask, BlockMask):
            return self.out(flex.attend(q, k, v, mask).transpose(1, 2).flatten(2))
        if trace is not None and trace.attentions is not None:
            trace.attentions.append(shares(q, k, mask, causal))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.heads != self.kv_heads,
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.out(y.transpose(1, 2).flatten(2))


def shares(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attention ``[B, H, L, S]`` of queries ``[B, H, L, D]`` to keys ``[B, G, S, D]``, H a multiple of G."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = (q.float() @ k.float().transpose(-1, -2)) / q.shape[-1] ** 0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)


class SwiGLU(Joint):
    """Gated feed-forward layer (Shazeer, "GLU Variants Improve Transformer", 2020): ``[..., D] -> [..., D]``."""

    joint: ClassVar = {"gate_up": ("gate", "up")}
    gate_up: nn.Parameter

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.join("gate_up", dim, hidden, hidden)
        self.down = FewRowsLinear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = few_rows(x, self.gate_up).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and feed-forward layer, each behind a norm and a skip."""

    def __init__(self, dim: int, hidden: int, dropout: float, attention: Attention, eps: float = 1e-5) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=eps)
        self.attention = attention
        self.mlp_norm = nn.RMSNorm(dim, eps=eps)
        self.mlp = SwiGLU(dim, hidden)
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        table: Table,
        mask: Tensor | BlockMask | None,
        cache: CacheAt | SlotsAt | None,
        layer: int,
        trace: Trace | None = None,
    ) -> Tensor:
        x = x + self._drop(self.attention(self.attention_norm(x), table, mask, cache, layer, trace))
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x
