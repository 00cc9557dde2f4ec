"""1-D ConvNeXt backbone of Vocos (Siuzdak, 2023), with WavTokenizer's attention front (Ji et al., 2025), also causal."""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.conv import PaddedConv1d, StreamState
from tokenizers_mm.nn.onednn import Linear, LinearGELU
from tokenizers_mm.nn.resnet1d import AttentionFront


class AdaLayerNorm(nn.Module):
    """Layer norm whose scale and shift are looked up by a condition id.

    Shape:
        ``x [B, L, D]``, ``condition`` int64 ``[B]``, or None for the first condition throughout.
    """

    def __init__(self, num_embeddings: int, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Embedding(num_embeddings, dim)
        self.shift = nn.Embedding(num_embeddings, dim)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is None:
            return F.layer_norm(x, x.shape[-1:], self.scale.weight[0], self.shift.weight[0], eps=self.eps)
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return normed * self.scale(condition)[:, None] + self.shift(condition)[:, None]


def _norm(num_embeddings: int, dim: int) -> nn.Module:
    return AdaLayerNorm(num_embeddings, dim) if num_embeddings else nn.LayerNorm(dim, eps=1e-6)


def _apply_norm(norm: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
    return norm(x, condition) if isinstance(norm, AdaLayerNorm) else norm(x)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, two-layer perceptron with layer scale, residual."""

    def __init__(
        self, dim: int, intermediate_dim: int, layer_scale: float, *, num_embeddings: int = 0, causal: bool = False
    ) -> None:
        super().__init__()
        self.dwconv = PaddedConv1d(dim, dim, 7, groups=dim, causal=causal)
        self.norm = _norm(num_embeddings, dim)
        self.pwconv1 = LinearGELU(dim, intermediate_dim)
        self.pwconv2 = Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor, condition: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        h = rearrange(self.dwconv(x, state), "b d l -> b l d")
        h = self.gamma * self.pwconv2(self.pwconv1(_apply_norm(self.norm, h, condition)))
        return x + rearrange(h, "b l d -> b d l")


class ConvNeXtBackbone(nn.Module):
    """Embedding convolution, optional attention front, ConvNeXt blocks, final norm, all at one frame rate.

    Args:
        in_dim: Features in.
        dim: Width.
        intermediate_dim: Width inside a block.
        layers: Blocks.
        kernel_size: Taps of the embedding convolution.
        num_embeddings: Condition ids of the adaptive norms; 0 for plain layer norm.
        attention: Put WavTokenizer's residual-and-attention front before the blocks.
        dropout: Of the attention front.
        causal: Look at the past only, and keep no statistics over time, so that the network streams.
        window: Frames that causal attention looks back.

    Shape:
        ``[B, in_dim, L] -> [B, L, dim]``.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        intermediate_dim: int,
        layers: int,
        *,
        kernel_size: int = 7,
        num_embeddings: int = 0,
        attention: bool = False,
        dropout: float = 0.1,
        causal: bool = False,
        window: int = 64,
    ) -> None:
        super().__init__()
        self.embed = PaddedConv1d(in_dim, dim, kernel_size, causal=causal)
        self.norm = _norm(num_embeddings, dim)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(dim, intermediate_dim, 1 / layers, num_embeddings=num_embeddings, causal=causal)
            for _ in range(layers)
        )
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(self._init_weights)
        # after the initialisation above: the front keeps PyTorch's own, as upstream
        self.front = AttentionFront(dim, dropout=dropout, causal=causal, window=window) if attention else None

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, x: Tensor, condition: Tensor | None = None, state: StreamState | None = None) -> Tensor:
        x = self.embed(x, state)
        if self.front is not None:
            x = self.front(x, state)
        x = rearrange(_apply_norm(self.norm, rearrange(x, "b d l -> b l d"), condition), "b l d -> b d l")
        for block in self.convnext:
            x = block(x, condition, state)
        return self.final_layer_norm(rearrange(x, "b d l -> b l d"))
