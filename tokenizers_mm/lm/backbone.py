"""A decoder-only transformer: RMSNorm, SwiGLU, rotary positions, grouped key-value heads, a static key-value cache.

Vaswani et al., "Attention Is All You Need", 2017, in the form of Touvron et al., "LLaMA", 2023. It reads embeddings or ids and
knows no modality. Batches may be ragged: rows are padded on the left, and positions count from each row's first real step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.cache import Cache, Slots, SlotsAt

__all__ = ["Attention", "Block", "Cache", "DecoderLM", "SwiGLU", "Transformer", "draw", "rotate"]


def rotate(x: Tensor, positions: Tensor, base: float, scaling: Mapping[str, float] | None = None) -> Tensor:
    """Rotary positions (Su et al., "RoFormer", 2021), halves rotated against each other, in float32.

    Args:
        x: Queries or keys ``[B, H, L, D]``, D even.
        positions: int ``[B, L]``.
        base: Of the wavelengths.
        scaling: Llama 3.1's stretching of long wavelengths: ``factor``, ``low_freq_factor``, ``high_freq_factor`` and
            ``original_max_position_embeddings``.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    if scaling is not None:
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        frequencies = frequencies * (keep + (1 - keep) / scaling["factor"])
    angles = positions[:, None, :, None].float() * frequencies
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Self-attention of ``heads`` queries that share ``kv_heads`` keys and values; causal where no mask is given."""

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int,
        dropout: float,
        rope_base: float,
        *,
        rope_scaling: Mapping[str, float] | None = None,
        qk_norm: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dropout = heads, kv_heads, dropout
        self.rope_base, self.rope_scaling = rope_base, rope_scaling
        width = dim // heads
        self.query = nn.Linear(dim, heads * width, bias=False)
        self.key = nn.Linear(dim, kv_heads * width, bias=False)
        self.value = nn.Linear(dim, kv_heads * width, bias=False)
        self.out = nn.Linear(heads * width, dim, bias=False)
        self.query_norm = nn.RMSNorm(width, eps=eps) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(width, eps=eps) if qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | SlotsAt | None, layer: int
    ) -> Tensor:
        q = self.query_norm(rearrange(self.query(x), "b l (h d) -> b h l d", h=self.heads))
        k = self.key_norm(rearrange(self.key(x), "b l (h d) -> b h l d", h=self.kv_heads))
        q, k = (rotate(y, positions, self.rope_base, self.rope_scaling) for y in (q, k))
        v = rearrange(self.value(x), "b l (h d) -> b h l d", h=self.kv_heads)
        if cache is not None:
            k, v = cache.write(layer, k, v)
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

    def __init__(self, dim: int, hidden: int, dropout: float, attention: Attention, eps: float = 1e-5) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=eps)
        self.attention = attention
        self.mlp_norm = nn.RMSNorm(dim, eps=eps)
        self.mlp = SwiGLU(dim, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | SlotsAt | None, layer: int
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, mask, cache, layer))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """A stack of blocks, causal by default: embeddings in, features out.

    Args:
        dim: Width D.
        layers: Blocks.
        heads: Of the queries; ``dim / heads`` must be even.
        kv_heads: Of keys and values; as many as ``heads`` by default.
        hidden: Width of the feed-forward layers; by default 8/3 of ``dim`` up to a multiple of 32.
        dropout: In attention and after each layer.
        rope_base: Of the rotary positions.
        rope_scaling: Of the rotary positions (see :func:`rotate`).
        causal: Whether a step sees no later ones. Without, only :meth:`packed` runs.
        window: Steps that a step sees at most, itself among them; None for all.
        qk_norm: Normalise the queries and keys of each head.
        final_norm: Normalise the features.
        eps: Of the norms.

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
        *,
        rope_scaling: Mapping[str, float] | None = None,
        causal: bool = True,
        window: int | None = None,
        qk_norm: bool = False,
        final_norm: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if dim % heads or (dim // heads) % 2 or heads % kv_heads:
            raise ValueError(
                f"dim must be heads times an even width and heads a multiple of kv_heads, got {dim}, {heads}, {kv_heads}"
            )
        self.dim, self.heads, self.kv_heads, self.causal, self.window = dim, heads, kv_heads, causal, window
        hidden = -(-8 * dim // 3 // 32) * 32 if hidden is None else hidden
        options = {"rope_scaling": rope_scaling, "qk_norm": qk_norm, "eps": eps}
        self.blocks = nn.ModuleList(
            Block(dim, hidden, dropout, Attention(dim, heads, kv_heads, dropout, rope_base, **options), eps)  # type: ignore[arg-type]
            for _ in range(layers)
        )
        self.norm = nn.RMSNorm(dim, eps=eps) if final_norm else nn.Identity()
        scale = 0.02 / (2 * max(layers, 1)) ** 0.5  # outputs of 2 * layers skips add up (Radford et al., GPT-2, 2019)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=scale if name.endswith(("out.weight", "down.weight")) else 0.02)

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for ``batch`` rows of at most ``capacity`` steps."""
        like = next(self.parameters())
        shape = (batch, self.kv_heads, capacity, self.dim // self.heads)
        keys, values = ([like.new_zeros(shape) for _ in self.blocks] for _ in range(2))
        return Cache(keys, values, torch.zeros(batch, capacity, dtype=torch.bool, device=like.device))

    def slots(self, batch: int, capacity: int) -> Slots:
        """An empty cache for ``batch`` rows that advance each on its own; with a window, it has to fit with a chunk."""
        shape = (batch, self.kv_heads, capacity, self.dim // self.heads)
        return Slots(len(self.blocks), shape, next(self.parameters()))

    def packed(self, x: Tensor, positions: Tensor, documents: Tensor, inject: Sequence[Tensor] | None = None) -> Tensor:
        """Features of rows that hold several documents, none of which sees another.

        Args:
            x: ``[B, L, D]``.
            positions: Of each step in its document, int ``[B, L]``.
            documents: Number of its document in the row, int ``[B, L]``, anything for padding as long as no document has it.
            inject: Added to the input of each block, ``[B, L, D]`` for each.
        """
        mask = documents[:, :, None] == documents[:, None, :]
        if self.causal or self.window is not None:
            at = torch.arange(x.shape[1], device=x.device)
            mask = mask & self._sees(at[:, None], at)
        return self._run(x, positions, mask[:, None], None, inject)

    def advance(
        self, x: Tensor, slots: Slots, rows: Tensor, positions: Tensor, inject: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Features of the next steps of some rows of a cache.

        Args:
            x: ``[n, L, D]``.
            slots: The cache, extended in place; what it had at these positions is replaced.
            rows: Which rows these are, int ``[n]``.
            positions: int ``[n, L]``; -1 for padding, whose features mean nothing.
            inject: As for :meth:`packed`.
        """
        at = slots.at(rows, positions)
        seen = at.positions[:, None, :]
        mask = (seen >= 0) & self._sees(positions.clamp(min=0)[:, :, None], seen)
        return self._run(x, positions.clamp(min=0), mask[:, None], at, inject)

    def _sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a step at ``query`` sees one at ``key``."""
        sees = key <= query if self.causal else torch.ones_like(key <= query)
        return sees if self.window is None else sees & (key > query - self.window)

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
        if valid is None and cache is None and self.window is None:
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
        past = self._sees(at[start:, None], at)
        itself = at[start:, None] == at  # so that padding attends to something: a row without keys is NaN
        y = self._run(x, positions, (past & new[:, None, :] | itself)[:, None], cache)
        if cache is not None:
            cache.length += x.shape[1]
        return y

    def _run(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache | SlotsAt | None,
        inject: Sequence[Tensor] | None = None,
    ) -> Tensor:
        for layer, block in enumerate(self.blocks):
            x = x if inject is None else x + inject[layer]
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
