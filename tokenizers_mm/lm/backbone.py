"""A decoder-only transformer: RMSNorm, SwiGLU, rotary positions, grouped key-value heads, a static key-value cache.

Vaswani et al., "Attention Is All You Need", 2017, in the form of Touvron et al., "LLaMA", 2023. It reads embeddings or ids and
knows no modality. Batches may be ragged: rows are padded on the left, and positions count from each row's first real step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Cache:
    """Keys and values of every layer for up to ``capacity`` steps, allocated once.

    Args:
        keys: Per layer ``[B, H, capacity, D]``.
        values: Per layer, likewise.
        valid: Which steps are real, bool ``[B, capacity]``.
        length: Steps written so far.
    """

    keys: list[Tensor]
    values: list[Tensor]
    valid: Tensor
    length: int = 0

    @property
    def capacity(self) -> int:
        """Steps that fit."""
        return self.valid.shape[1]

    def repeat(self, times: int) -> Cache:
        """Each row ``times`` times, one after the other: several continuations of one prompt."""
        keys, values = ([t.repeat_interleave(times, dim=0) for t in tensors] for tensors in (self.keys, self.values))
        return Cache(keys, values, self.valid.repeat_interleave(times, dim=0), self.length)


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotary positions (Su et al., "RoFormer", 2021), halves rotated against each other, in float32.

    Args:
        x: Queries or keys ``[B, H, L, D]``, D even.
        positions: int ``[B, L]``.
        base: Of the wavelengths.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = positions[:, None, :, None].float() * frequencies
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention of ``heads`` queries that share ``kv_heads`` keys and values."""

    def __init__(self, dim: int, heads: int, kv_heads: int, dropout: float, rope_base: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dropout, self.rope_base = heads, kv_heads, dropout, rope_base
        width = dim // heads
        self.query = nn.Linear(dim, heads * width, bias=False)
        self.key = nn.Linear(dim, kv_heads * width, bias=False)
        self.value = nn.Linear(dim, kv_heads * width, bias=False)
        self.out = nn.Linear(heads * width, dim, bias=False)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        q = rotate(rearrange(self.query(x), "b l (h d) -> b h l d", h=self.heads), positions, self.rope_base)
        k = rotate(rearrange(self.key(x), "b l (h d) -> b h l d", h=self.kv_heads), positions, self.rope_base)
        v = rearrange(self.value(x), "b l (h d) -> b h l d", h=self.kv_heads)
        if cache is not None:
            end = cache.length + x.shape[1]
            cache.keys[layer][:, :, cache.length : end] = k
            cache.values[layer][:, :, cache.length : end] = v
            k, v = cache.keys[layer][:, :, :end], cache.values[layer][:, :, :end]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.heads != self.kv_heads,
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.out(rearrange(y, "b h l d -> b l (h d)"))


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer, "GLU Variants Improve Transformer", 2020): ``[..., D] -> [..., D]``."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and feed-forward layer, each behind a norm and a skip."""

    def __init__(self, dim: int, heads: int, kv_heads: int, hidden: int, dropout: float, rope_base: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=1e-5)
        self.attention = Attention(dim, heads, kv_heads, dropout, rope_base)
        self.mlp_norm = nn.RMSNorm(dim, eps=1e-5)
        self.mlp = SwiGLU(dim, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, mask, cache, layer))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """A stack of causal blocks: embeddings in, features out.

    Args:
        dim: Width D.
        layers: Blocks.
        heads: Of the queries; ``dim / heads`` must be even.
        kv_heads: Of keys and values; as many as ``heads`` by default.
        hidden: Width of the feed-forward layers; by default 8/3 of ``dim`` up to a multiple of 32.
        dropout: In attention and after each layer.
        rope_base: Of the rotary positions.

    Raises:
        ValueError: If widths and heads do not fit.
    """

    def __init__(
        self,
        dim: int = 512,
        layers: int = 8,
        heads: int = 8,
        kv_heads: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.0,
        rope_base: float = 10000.0,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if dim % heads or (dim // heads) % 2 or heads % kv_heads:
            raise ValueError(
                f"dim must be heads times an even width and heads a multiple of kv_heads, got {dim}, {heads}, {kv_heads}"
            )
        self.dim, self.heads, self.kv_heads = dim, heads, kv_heads
        hidden = -(-8 * dim // 3 // 32) * 32 if hidden is None else hidden
        self.blocks = nn.ModuleList(Block(dim, heads, kv_heads, hidden, dropout, rope_base) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        scale = 0.02 / (2 * layers) ** 0.5  # outputs of 2 * layers skips add up (Radford et al., GPT-2, 2019)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=scale if name.endswith(("out.weight", "down.weight")) else 0.02)

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for ``batch`` rows of at most ``capacity`` steps."""
        like = self.norm.weight
        shape = (batch, self.kv_heads, capacity, self.dim // self.heads)
        keys, values = ([like.new_zeros(shape) for _ in self.blocks] for _ in range(2))
        return Cache(keys, values, torch.zeros(batch, capacity, dtype=torch.bool, device=like.device))

    def forward(self, x: Tensor, valid: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Features of the next steps.

        Args:
            x: ``[B, L, D]``.
            valid: Which steps are real, bool ``[B, L]``, padding on the left; all by default.
            cache: What came before, extended in place.

        Returns:
            ``[B, L, D]``; those of padding mean nothing.

        Raises:
            ValueError: If the cache is too short, or for another batch.
        """
        if valid is None and cache is None:
            positions = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
            return self._run(x, positions, None, None)
        new = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        start = 0
        if cache is not None:
            start, end = cache.length, cache.length + x.shape[1]
            if end > cache.capacity or len(x) != len(cache.valid):
                raise ValueError(
                    f"the cache holds {len(cache.valid)} rows of {cache.capacity} steps, got {len(x)} of {end}"
                )
            cache.valid[:, start:end] = new
            new = cache.valid[:, :end]
        positions = (new.long().cumsum(dim=1) - 1).clamp(min=0)[:, start:]
        at = torch.arange(new.shape[1], device=x.device)
        past = at[start:, None] >= at
        itself = at[start:, None] == at  # so that padding attends to something: a row without keys is NaN
        y = self._run(x, positions, (past & new[:, None, :] | itself)[:, None], cache)
        if cache is not None:
            cache.length += x.shape[1]
        return y

    def _run(self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        for layer, block in enumerate(self.blocks):
            x = block(x, positions, mask, cache, layer)
        return self.norm(x)


class DecoderLM(nn.Module):
    """Ids to logits of the next id.

    Args:
        vocabulary_size: Ids.
        tied: Whether the output layer is the embedding.
        **network: Arguments of :class:`Transformer`.
    """

    def __init__(self, vocabulary_size: int, tied: bool = True, **network: int | float | None) -> None:
        super().__init__()
        self.transformer = Transformer(**network)  # type: ignore[arg-type]
        self.embedding = nn.Embedding(vocabulary_size, self.transformer.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head = nn.Linear(self.transformer.dim, vocabulary_size, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, ids: Tensor, valid: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits ``[B, L, V]`` of ids ``[B, L]``; ``valid`` and ``cache`` as in :meth:`Transformer.forward`."""
        return self.head(self.transformer(self.embedding(ids), valid, cache))

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        steps: int,
        *,
        valid: Tensor | None = None,
        samples: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        allowed: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continuations of prompts.

        Args:
            ids: Prompts ``[B, L]``, padded on the left.
            steps: New ids.
            valid: Which ids are real, bool ``[B, L]``.
            samples: Continuations of each prompt.
            temperature: Of the softmax; 0 takes the likeliest id.
            top_k: Draw only from so many of the likeliest.
            top_p: Draw only from the likeliest that together reach this probability.
            allowed: Ids that may come, bool ``[V]``.
            generator: Of the draws.

        Returns:
            int64 ``[B, samples, steps]``.
        """
        cache = self.transformer.cache(len(ids), ids.shape[1] + steps)
        logits = self(ids, valid, cache)[:, -1]
        cache, logits = cache.repeat(samples), logits.repeat_interleave(samples, dim=0)
        drawn = []
        for step in range(steps):
            logits = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
            drawn.append(draw(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator))
            if step + 1 < steps:
                logits = self(drawn[-1][:, None], None, cache)[:, -1]
        return rearrange(torch.stack(drawn, dim=-1), "(b s) l -> b s l", s=samples)


def draw(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One id per row of ``logits [..., V]``; arguments as in :meth:`DecoderLM.generate`."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[..., -1:], -torch.inf)
    if top_p < 1:
        ranked, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        before = ranked.cumsum(dim=-1) - ranked  # the likeliest stays, whatever its probability
        logits = logits.masked_fill((before >= top_p).scatter(-1, order, before >= top_p), -torch.inf)
    p = logits.softmax(dim=-1)
    return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])
