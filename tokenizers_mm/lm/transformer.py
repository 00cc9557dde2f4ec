"""A decoder-only transformer: RMSNorm, SwiGLU, rotary positions, grouped key-value heads, a static key-value cache.

Vaswani et al., "Attention Is All You Need", 2017, in the form of Touvron et al., "LLaMA", 2023. It reads embeddings and knows no
modality. Batches may be ragged: rows are padded on the left, and positions count from each row's first real step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from tokenizers_mm.lm import flex
from tokenizers_mm.lm.blocks import Attention, Block
from tokenizers_mm.lm.cache import Cache, CacheAt, Slots, SlotsAt
from tokenizers_mm.lm.compiled import Column, CompiledStep, require_compiler
from tokenizers_mm.lm.output import Trace
from tokenizers_mm.lm.rope import CondRope, Rope, RopeLayout

AttentionKind = Literal["sdpa", "flex"]


class Transformer(nn.Module):
    """A stack of blocks, causal by default: embeddings in, features out.

    A forward hook on one of ``blocks`` sees and may change what that layer gives.

    Args:
        dim: Width D.
        layers: Blocks.
        heads: Of the queries; ``dim / heads`` must be even.
        kv_heads: Of keys and values; as many as ``heads`` by default.
        hidden: Width of the feed-forward layers; by default 8/3 of ``dim`` up to a multiple of 32.
        dropout: After each layer, and in attention.
        rope_base: Of the rotary positions.
        rope_scaling: Of the rotary positions; this and the next three as in :class:`~tokenizers_mm.lm.rope.Rope`.
        rope_layout: Which features turn together.
        rope_axes: Axes of positions: 1, or 2 for rows and columns.
        cond_rope: What steps at negative positions become.
        causal: Whether a step sees no later ones. Without, only :meth:`packed` runs.
        window: Steps that a step sees at most, itself among them; None for all.
        qk_norm: Normalise the queries and keys of each head.
        final_norm: Normalise the features.
        eps: Of the norms.
        attention_dropout: In attention, if not as ``dropout``.
        checkpointing: In training, keep only the blocks' inputs and compute the rest again on the way back.
        attention: Of :meth:`packed`: ``"sdpa"``, with a mask in memory, or on GPUs ``"flex"``, without one
            (:mod:`tokenizers_mm.lm.flex`), where there is no dropout of attention.

    Raises:
        ValueError: If widths and heads do not fit, or there is no such attention.
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
        rope_layout: RopeLayout = "halves",
        rope_axes: int = 1,
        cond_rope: CondRope = "identity",
        causal: bool = True,
        window: int | None = None,
        qk_norm: bool = False,
        final_norm: bool = True,
        eps: float = 1e-5,
        attention_dropout: float | None = None,
        checkpointing: bool = False,
        attention: AttentionKind = "sdpa",
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if dim % heads or (dim // heads) % 2 or heads % kv_heads:
            raise ValueError(
                f"dim must be heads times an even width and heads a multiple of kv_heads, got {dim}, {heads}, {kv_heads}"
            )
        if attention not in get_args(AttentionKind):
            raise ValueError(f"attention must be one of {get_args(AttentionKind)}, got {attention!r}")
        self.dim, self.heads, self.kv_heads, self.causal, self.window = dim, heads, kv_heads, causal, window
        self.attention: AttentionKind = attention
        self.hidden = -(-8 * dim // 3 // 32) * 32 if hidden is None else hidden
        self.rope = Rope(dim // heads, rope_base, rope_scaling, rope_layout, rope_axes, cond_rope)
        self.checkpointing = checkpointing
        self._compiled: CompiledStep | None = None
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.attention_dropout = attention_dropout
        self.blocks = nn.ModuleList(
            Block(
                dim,
                self.hidden,
                dropout,
                Attention(dim, heads, kv_heads, attention_dropout, qk_norm=qk_norm, eps=eps),
                eps,
            )
            for _ in range(layers)
        )
        self.norm = nn.RMSNorm(dim, eps=eps) if final_norm else nn.Identity()
        scale = 0.02 / (2 * max(layers, 1)) ** 0.5  # outputs of 2 * layers skips add up (Radford et al., GPT-2, 2019)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=scale if name.endswith(("out.weight", "down.weight")) else 0.02)

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for ``batch`` rows of at most ``capacity`` steps."""
        shape = (batch, self.kv_heads, capacity, self.dim // self.heads)
        return Cache(len(self.blocks), shape, next(self.parameters()))

    def slots(self, batch: int, capacity: int) -> Slots:
        """An empty cache for ``batch`` rows that advance each on its own; with a window, it has to fit with a chunk."""
        shape = (batch, self.kv_heads, capacity, self.dim // self.heads)
        return Slots(len(self.blocks), shape, next(self.parameters()))

    def compile_steps(self) -> Self:
        """From now on, compute single steps with a cache by compiled code: two to three times as fast on CPUs.

        The first step of each batch size then takes a few seconds a block, on CPUs with a C++ compiler, which must be there.
        Padding at the beginning of rows is no hindrance; rows that were taken back each by its own count go the usual way.
        Results differ by rounding.

        Raises:
            FileNotFoundError: If there is no compiler.
        """
        if next(self.parameters()).device.type == "cpu":
            require_compiler()
        self._compiled = CompiledStep(self._step)
        return self

    def compile_blocks(self) -> Self:
        """From now on, compute blocks by compiled code, as training does; all share one, for each shape that comes."""
        for block in self.blocks:
            block.compile()
        return self

    def _step(self, x: Tensor, positions: Tensor, mask: Tensor | None, layers: Sequence[Column]) -> Tensor:
        """What is compiled: :meth:`_run` for one step, given where each layer writes."""
        table = self.rope.table(positions)
        for block, column in zip(self.blocks, layers, strict=True):
            x = block(x, table, mask, column, 0)
        return self.norm(x)

    def flops_per_token(self, context: int, *, training: bool = False) -> int:
        """Floating-point operations of one step that sees ``context`` steps, multiplications and additions counted apart.

        Products of weights and of attention only, the output layer not among them; three times as many with the way back.
        """
        weights = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2)
        seen = context if self.window is None else min(context, self.window)
        return (2 * weights + 4 * len(self.blocks) * self.dim * seen) * (3 if training else 1)

    def packed(
        self,
        x: Tensor,
        positions: Tensor,
        documents: Tensor,
        inject: Sequence[Tensor] | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """Features of rows that hold several documents, none of which sees another.

        Args:
            x: ``[B, L, D]``.
            positions: Of each step in its document, int ``[B, L]`` or ``[B, L, axes]``.
            documents: Number of its document in the row, int ``[B, L]``, anything for padding as long as no document has it.
            inject: Added to the input of each block, ``[B, L, D]`` for each.
            groups: int ``[B, L]``, non-decreasing: steps of one group see each other; by default each is one of its own.
        """
        if self.attention == "flex" and flex.usable(x) and not (self.training and self.attention_dropout):
            sees = flex.document_mask(documents, groups, causal=self.causal, window=self.window)
            return self._run(x, positions, sees, None, inject)
        mask = documents[:, :, None] == documents[:, None, :]
        if self.causal or self.window is not None:
            at = torch.arange(x.shape[1], device=x.device)
            mask = mask & _grouped(self._sees(at[:, None], at)[None], groups)
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
        return self._run(x, positions, mask[:, None], at, inject)

    def _sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a step at ``query`` sees one at ``key``."""
        sees = key <= query if self.causal else torch.ones_like(key <= query)
        return sees if self.window is None else sees & (key > query - self.window)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        cache: Cache | None = None,
        positions: Tensor | None = None,
        trace: Trace | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """Features of the next steps.

        Args:
            x: ``[B, L, D]``.
            valid: Which steps are real, bool ``[B, L]``; all by default. With a cache, only its first steps may be padding, on
                the left.
            cache: What came before, extended in place.
            positions: int ``[B, L]`` or ``[B, L, axes]``; by default the number of real steps before. Who sees whom does not
                depend on them.
            trace: Collects what the layers give.
            groups: As for :meth:`packed`, of these steps, int ``[B or 1, L]``; all rows of a cache must be as long.

        Returns:
            ``[B, L, D]``; those of padding mean nothing.

        Raises:
            ValueError: If the cache is too short or for another batch, or padding is where it must not be.
        """
        if cache is not None:
            return self._continue(x, valid, cache, positions, trace, groups)
        at = torch.arange(x.shape[1], device=x.device)
        if positions is None:
            positions = at[None] if valid is None else valid.long().cumsum(dim=1) - 1
        if valid is None and self.window is None and groups is None:
            return self._run(x, positions, None, None, trace=trace)
        mask = _grouped(self._sees(at[:, None], at)[None], groups)
        if valid is not None:  # padding attends to itself: a row without keys is NaN
            mask = mask & valid[:, None, :] | (at[:, None] == at)
        return self._run(x, positions, mask[:, None], None, trace=trace)

    def _continue(
        self,
        x: Tensor,
        valid: Tensor | None,
        cache: Cache,
        positions: Tensor | None,
        trace: Trace | None,
        groups: Tensor | None,
    ) -> Tensor:
        """:meth:`forward` with a cache."""
        if len(x) != cache.batch:
            raise ValueError(f"the cache holds {cache.batch} rows of {cache.capacity} steps, got {len(x)} rows")
        if valid is not None and not bool(valid.all()):
            if cache.length or bool((valid[:, 1:] < valid[:, :-1]).any()):
                raise ValueError(
                    "valid must be padding on the left of a cache's first steps; take back others by rollback"
                )
            cache.start = valid.shape[1] - valid.sum(dim=1)
        at = cache.take(x.shape[1])
        if positions is None:
            positions = at.columns if cache.start is None else at.columns - cache.start[:, None]
        one = x.shape[1] == 1 or at.end == x.shape[1]  # a step that sees all there is, or the first ones
        plain = one and groups is None and cache.start is None
        if plain and at.even and (self.window is None or at.end <= self.window):
            return self._run(x, positions, None, at, trace=trace)
        keys = torch.arange(at.end, device=x.device)
        queries = at.columns[:, :, None]
        mask = _grouped(self._sees(queries, keys), groups)
        if cache.start is not None:
            mask = mask & (keys >= cache.start[:, None, None]) | (keys == queries)
        return self._run(x, positions, mask[:, None], at, trace=trace)

    def _run(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | BlockMask | None,
        cache: CacheAt | SlotsAt | None,
        inject: Sequence[Tensor] | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        step = isinstance(cache, CacheAt) and cache.even and x.shape[1] == 1 and inject is None and trace is None
        if self._compiled is not None and step and not torch.is_grad_enabled():
            return self._compiled(x, positions, cast(Tensor | None, mask), cast(CacheAt, cache))
        table = self.rope.table(positions)
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for layer, block in enumerate(self.blocks):
            x = x if inject is None else x + inject[layer]
            if trace is not None:
                trace.hidden.append(x)
            if again:
                x = checkpoint(block, x, table, mask, cache, layer, trace, use_reentrant=False)
            else:
                x = block(x, table, mask, cache, layer, trace)
        if trace is not None:
            trace.hidden.append(x)
        return self.norm(x)


def _grouped(mask: Tensor, groups: Tensor | None) -> Tensor:
    """Who sees whom, ``[B or 1, L, S]``, where the last L keys are the queries and those of one group see each other."""
    if groups is None:
        return mask
    own = groups[:, None, :] <= groups[:, :, None]
    rest = mask[..., : mask.shape[-1] - own.shape[-1]]
    rows = max(len(own), len(rest))
    return torch.cat([rest.expand(rows, -1, -1), own.expand(rows, -1, -1)], dim=-1)
