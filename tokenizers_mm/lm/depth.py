"""A small transformer over the codebooks of one step, driven by the features of a large one over time.

Lee et al., "Autoregressive Image Generation using Residual Quantization" (RQ-Transformer), 2022; with weights of their own for
each codebook as in Défossez et al., "Moshi", 2024, which has no positions either: the weights say which codebook it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.checks import at_least
from tokenizers_mm.lm.cache import Cache, CacheAt


class StepLinear(nn.Module):
    """A linear layer for each inner step, or one for all: ``[N, K, inputs] -> [N, K, outputs]`` for steps ``first`` on."""

    def __init__(self, steps: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(steps, outputs, inputs))

    def forward(self, x: Tensor, first: int) -> Tensor:
        if len(self.weight) == 1:
            return F.linear(x, self.weight[0])
        if x.shape[1] == 1:
            return F.linear(x, self.weight[first])
        own = self.weight[first : first + x.shape[1]]
        return torch.bmm(x.transpose(0, 1), own.transpose(1, 2)).transpose(0, 1)


class DepthBlock(nn.Module):
    """Attention over inner steps and a gated layer, each behind a norm and a skip."""

    def __init__(self, steps: int, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.qkv, self.out = StepLinear(steps, dim, 3 * dim), StepLinear(steps, dim, dim)
        self.gate_up, self.down = StepLinear(steps, dim, 2 * hidden), StepLinear(steps, hidden, dim)

    def forward(self, x: Tensor, first: int, cache: CacheAt | None, layer: int) -> Tensor:
        """Features ``[N, K, D]`` of the inner steps from ``first`` on; with a cache, one."""
        q, k, v = (
            self.qkv(self.attention_norm(x), first).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        )
        if cache is not None:
            k, v = cache.write(layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + self.out(y.transpose(1, 2).flatten(2), first)
        gate, up = self.gate_up(self.mlp_norm(x), first).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up, first)


class DepthTransformer(nn.Module):
    """Codes of one step, one after the other, given the features of the steps before; of Moshi's width and depth by default.

    Args:
        features: Width of the temporal features.
        codebooks: Codes of a step, Q.
        vocabulary_size: Ids of a codebook, V, of the largest if they differ.
        dim: Width.
        layers: Blocks.
        heads: Of attention.
        hidden: Of the gated layers; by default 8/3 of ``dim`` up to a multiple of 32.
        shared: Whether the blocks of all inner steps have the same weights.

    Raises:
        ValueError: If there is nothing to do, or width and heads do not fit.

    Shape:
        features ``[B, T, features]``, each knowing the steps before; codes int64 ``[B, T, Q]``, negative for none; logits
        ``[B, T, Q, V]``, of each code given the features of its step and the codes before it there.
    """

    def __init__(
        self,
        features: int,
        codebooks: int,
        vocabulary_size: int,
        dim: int = 1024,
        layers: int = 6,
        heads: int = 16,
        hidden: int | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, codebooks=codebooks, vocabulary_size=vocabulary_size, layers=layers)
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got {dim} and {heads}")
        self.codebooks, self.vocabulary_size, self.dim, self.heads = codebooks, vocabulary_size, dim, heads
        hidden = -(-8 * dim // 3 // 32) * 32 if hidden is None else hidden
        self.inputs = nn.Linear(features, codebooks * dim, bias=False)
        self.embedding = nn.Embedding(max(codebooks - 1, 1) * vocabulary_size, dim)
        self.blocks = nn.ModuleList(DepthBlock(1 if shared else codebooks, dim, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.head = StepLinear(codebooks, dim, vocabulary_size)
        scale = 0.02 / (2 * layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=scale if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Logits of all codes at once.

        Raises:
            ValueError: If codes are not Q for each of the features.
        """
        if codes.shape != (*features.shape[:2], self.codebooks):
            raise ValueError(f"codes must be {[*features.shape[:2], self.codebooks]}, got {list(codes.shape)}")
        x = self._inputs(features.flatten(0, 1))
        before = self._embed(codes.flatten(0, 1)[:, :-1], 0)
        x = torch.cat([x[:, :1], x[:, 1:] + before], dim=1)
        return self.head(self._run(x, 0, None), 0).unflatten(0, features.shape[:2])

    def read(self, features: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Codes ``[N, Q]`` of one step.

        Args:
            features: ``[N, features]``.
            choose: Of a codebook's number and its logits ``[N, V]``: the codes ``[N]``.
        """
        x = self._inputs(features)
        cache = Cache(len(self.blocks), (len(x), self.heads, self.codebooks, self.dim // self.heads), x)
        new, chosen = x[:, :1], []
        for codebook in range(self.codebooks):
            y = self._run(new, codebook, cache)
            chosen.append(choose(codebook, self.head(y, codebook)[:, 0]))
            if codebook + 1 < self.codebooks:
                new = x[:, codebook + 1, None] + self._embed(chosen[-1][:, None], codebook)
        return torch.stack(chosen, dim=1)

    def _inputs(self, features: Tensor) -> Tensor:
        """Of every inner step, ``[N, features] -> [N, Q, D]``."""
        return self.inputs(features).unflatten(-1, (self.codebooks, self.dim))

    def _embed(self, codes: Tensor, first: int) -> Tensor:
        """Codes ``[N, K]`` of the codebooks from ``first`` on, ``[N, K, D]``; zeros where there is none."""
        offsets = torch.arange(first, first + codes.shape[1], device=codes.device) * self.vocabulary_size
        found = self.embedding(codes.clamp(min=0) + offsets)
        return found.masked_fill((codes < 0)[..., None], 0)

    def _run(self, x: Tensor, first: int, cache: Cache | None) -> Tensor:
        at = None if cache is None else cache.take(x.shape[1])
        for layer, block in enumerate(self.blocks):
            x = block(x, first, at, layer)
        return self.norm(x)
