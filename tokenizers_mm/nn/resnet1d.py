"""The attention front of WavTokenizer's decoder (Ji et al., 2024): residual blocks around one self-attention over time.

The blocks are those of VQGAN (Esser et al., 2021) in one dimension. The causal variant is ours, for streaming: it looks
back only, normalises the channels of a step instead of taking statistics over time, and attends to a sliding window.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.conv import PaddedConv1d, StreamState
from tokenizers_mm.nn.onednn import GroupNorm1d, PointwiseConv1d


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each step of ``[B, D, L]``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


def make_norm(dim: int, causal: bool) -> nn.Module:
    """GroupNorm over time in at most 32 groups of at least 8 channels (so that one step has statistics too), or
    ChannelNorm where causal."""
    groups = math.gcd(32, dim, max(1, dim // 8))
    return ChannelNorm(dim, eps=1e-6) if causal else GroupNorm1d(groups, dim, eps=1e-6)


class ResnetBlock1d(nn.Module):
    """Norm, swish, convolution, twice, with a skip.

    Args:
        dim: Channels D.
        dropout: Probability before the second convolution.
        causal: Look only at the past.

    Shape:
        ``[B, D, L] -> [B, D, L]``.
    """

    def __init__(self, dim: int, dropout: float = 0.1, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = make_norm(dim, causal)
        self.conv1 = PaddedConv1d(dim, dim, 3, causal=causal)
        self.norm2 = make_norm(dim, causal)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = PaddedConv1d(dim, dim, 3, causal=causal)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)), state)
        return x + self.conv2(self.dropout(F.silu(self.norm2(y))), state)


class AttentionBlock1d(nn.Module):
    """Single-head self-attention over time without positions, with a skip.

    Args:
        dim: Channels D.
        causal: Attend to the last ``window`` steps only, the present one included.
        window: Steps that a causal block sees; a non-causal one sees the whole clip.

    Shape:
        ``[B, D, L] -> [B, D, L]``.
    """

    def __init__(self, dim: int, causal: bool = False, window: int = 64) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be at least 1 step, got {window}")
        self.causal = causal
        self.window = window
        self.norm = make_norm(dim, causal)
        self.q = PointwiseConv1d(dim, dim)
        self.k = PointwiseConv1d(dim, dim)
        self.v = PointwiseConv1d(dim, dim)
        self.proj_out = PointwiseConv1d(dim, dim)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y = self.norm(x)
        q, k, v = (rearrange(layer(y), "b d l -> b 1 l d") for layer in (self.q, self.k, self.v))
        y = self._attend_windowed(q, k, v, state) if self.causal else F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(y, "b 1 l d -> b d l"))

    def _attend_windowed(self, q: Tensor, k: Tensor, v: Tensor, state: StreamState | None) -> Tensor:
        """Attention in pieces of ``window`` queries, so that memory grows linearly with the clip."""
        past = None if state is None else state.get(self)
        past_k, past_v = (k[:, :, :0], v[:, :, :0]) if past is None else past
        outputs = []
        for piece, new_k, new_v in zip(*(t.split(self.window, dim=2) for t in (q, k, v)), strict=True):
            keys, values = torch.cat([past_k, new_k], dim=2), torch.cat([past_v, new_v], dim=2)
            query_at = torch.arange(keys.shape[2] - piece.shape[2], keys.shape[2], device=q.device)[:, None]
            age = query_at - torch.arange(keys.shape[2], device=q.device)  # queries x keys
            mask = (age >= 0) & (age < self.window)
            outputs.append(F.scaled_dot_product_attention(piece, keys, values, attn_mask=mask))
            kept = max(keys.shape[2] - (self.window - 1), 0)
            past_k, past_v = keys[:, :, kept:], values[:, :, kept:]
        if state is not None:
            state[self] = (past_k.clone(), past_v.clone())  # views would keep the whole piece alive
        return torch.cat(outputs, dim=2)


class AttentionFront(nn.Module):
    """Two residual blocks, attention, two residual blocks, a norm.

    Args:
        dim: Channels D.
        dropout: Probability inside the residual blocks.
        causal: Look only at the past, so that the stack can stream.
        window: Steps that the causal attention sees.

    Shape:
        ``[B, D, L] -> [B, D, L]``.
    """

    def __init__(self, dim: int, dropout: float = 0.1, causal: bool = False, window: int = 64) -> None:
        super().__init__()
        self.causal = causal
        self.layers = nn.ModuleList(
            [
                ResnetBlock1d(dim, dropout, causal),
                ResnetBlock1d(dim, dropout, causal),
                AttentionBlock1d(dim, causal, window),
                ResnetBlock1d(dim, dropout, causal),
                ResnetBlock1d(dim, dropout, causal),
            ]
        )
        self.norm = make_norm(dim, causal)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Features of a clip, or of a stream's next piece.

        Args:
            x: Features ``[B, D, L]``.
            state: What the stack remembers of the pieces before, updated in place; an empty dict starts a stream.

        Returns:
            Features ``[B, D, L]``.

        Raises:
            ValueError: If ``state`` is given to a non-causal stack.
        """
        if state is not None and not self.causal:
            raise ValueError("state needs causal=True: this stack looks at the whole clip")
        for layer in self.layers:
            x = layer(x, state)
        return self.norm(x)
