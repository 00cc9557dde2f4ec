"""Lexinvariant language models: symbols mean nothing but what a sequence makes of them.

Huang et al., "Lexinvariant Language Models", NeurIPS 2023: every sequence draws its own random embeddings, which the output is
compared with too, so that in expectation a text's probability does not change when its symbols are permuted. No code of theirs is
public: the linear layer on what is read, the scale of the output and its learned temperature are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.checks import at_least
from tokenizers_mm.lm.backbone import Attention, Transformer, draw
from tokenizers_mm.lm.cache import Cache
from tokenizers_mm.stored import Stored

PADDING = -1


@dataclass(frozen=True)
class Documents:
    """Where the documents of rows are; a row holds several with :data:`PADDING` between them.

    Args:
        first: Whether a step's id is the first of its document, bool ``[B, L]``.
        number: Of its document in the row, ``[B, L]``; padding counts to the document before it, -1 where there is none.
        position: In its document, ``[B, L]``.
        count: Documents of the row that holds most, 1 at least.
    """

    first: Tensor
    number: Tensor
    position: Tensor
    count: int

    @classmethod
    def of(cls, ids: Tensor) -> Documents:
        """Documents of ids ``[B, L]``."""
        first = (F.pad(ids[:, :-1], (1, 0), value=PADDING) == PADDING) & (ids != PADDING)
        number = first.cumsum(dim=1) - 1
        at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        position = at - torch.where(first, at, 0).cummax(dim=1).values
        return cls(first, number, position, max(int(number.max()) + 1, 1) if ids.numel() else 1)


class LexinvariantLM(Stored):
    """A decoder without a parameter for any symbol: it reads and writes through the rows of its sequence.

    Args:
        symbols: V of the sequences to train on; others may be read with rows of another number.
        dim: Width D.
        layers: Blocks.
        heads: Of each block.
        hidden: Width of the feed-forward layers; by default 8/3 of ``dim``.
        dropout: In attention and after each layer.
        rope_base: Of the rotary positions.

    Shape:
        ids ``[B, L]``, :data:`PADDING` after a document or between two; rows ``[B, V, D]``, or ``[B, K, V, D]`` of K documents in
        a row, for any V; logits ``[B, L, V]`` of each id given those before it in its document, the first from nothing.
    """

    def __init__(
        self,
        symbols: int = 128,
        dim: int = 1024,
        layers: int = 12,
        heads: int = 8,
        hidden: int | None = None,
        dropout: float = 0.0,
        rope_base: float = 10000.0,
    ) -> None:
        super().__init__()
        at_least(2, symbols=symbols)
        self.symbols = symbols
        self.transformer = Transformer(dim, layers, heads, hidden=hidden, dropout=dropout, rope_base=rope_base)
        self.start = nn.Parameter(torch.randn(dim))
        self.into = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Begin with half of the heads looking at the symbol's own earlier places and the others copying rows to the output.

        Half of the width holds the row of the symbol read, the other half what is to be written. Both are what every such model
        comes to do, and takes long to find.
        """
        dim, half, layers = self.transformer.dim, self.transformer.dim // 2, len(self.transformer.blocks)
        for (
            name,
            parameter,
        ) in self.named_parameters():  # larger than the transformer's own: so are rows than embeddings
            if parameter.ndim == 2:
                skip = name.endswith(("attention.out.weight", "down.weight"))
                nn.init.normal_(parameter, std=(dim * (2 * layers if skip else 1)) ** -0.5)
        read = nn.init.orthogonal_(torch.empty(half, dim))
        self.into.weight.copy_(F.pad(read, (0, 0, 0, dim - half)))
        self.out.weight.copy_(F.pad(read.T, (dim - half, 0)))
        for block in self.transformer.blocks:
            attention = cast(Attention, block.attention)
            alike = attention.heads // 2 * (dim // attention.heads)
            (query, key, value), out = attention.qkv.split(dim), attention.out.weight
            query[:alike, half:] = 0
            query[:alike] *= 1.5
            key[:alike] = query[:alike]
            copies = nn.init.orthogonal_(torch.empty(dim - alike, half))
            value[alike:, :half] = copies
            out[dim - half :, alike:] += copies.T / math.sqrt(layers)

    def rows(self, batch: int, symbols: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Fresh rows ``[batch, V, D]``, each sequence its own, of independent normal values.

        The generator must be the CPU's, so that a seed gives the same on every device.
        """
        shape = batch, self.symbols if symbols is None else symbols, self.transformer.dim
        return torch.randn(shape, generator=generator).to(self.start)

    def features(self, ids: Tensor, rows: Tensor, cache: Cache | None = None) -> Tensor:
        """States ``[B, L, D]`` of one document a row, the one at a step knowing the ids up to there.

        Args:
            ids: Without padding before the end; those that follow what the cache holds, where it holds something.
            rows: ``[B, V, D]``.
            cache: Extended in place.
        """
        x = self.into(embed(ids, rows))
        if cache is not None and cache.length:
            return self.transformer(x, None, cache)
        return self.transformer(torch.cat([self.start.expand(len(x), 1, -1), x], dim=1), None, cache)[:, 1:]

    def logits(self, states: Tensor, rows: Tensor) -> Tensor:
        """Similarity of states ``[B, L, D]`` to the rows ``[B, V, D]`` of their sequence."""
        return self.log_scale.exp() / math.sqrt(rows.shape[-1]) * self.out(states) @ rows.transpose(1, 2)

    def forward(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Logits of each id given those before it; rows and errors as of :meth:`states`."""
        return self.by_document(self.states(ids, rows), ids, rows)

    def states(self, ids: Tensor, rows: Tensor) -> Tensor:
        """States ``[B, L, D]`` before each id, of rows that may hold several documents.

        Raises:
            ValueError: If rows are not the sequences', or an id has none.
        """
        documents, (_, *between, symbols, dim) = Documents.of(ids), rows.shape
        if rows.ndim not in (3, 4) or len(rows) != len(ids) or dim != self.transformer.dim:
            raise ValueError(f"rows must be [{len(ids)}, V, {self.transformer.dim}], got {list(rows.shape)}")
        if documents.count > math.prod(between):
            raise ValueError(f"rows must be those of {documents.count} documents a row, got {list(rows.shape)}")
        if ids.numel() and int(ids.max()) >= symbols:
            raise ValueError(f"ids must be below {symbols}, the number of rows, got {int(ids.max())}")
        own = torch.where(ids < 0, PADDING, documents.number * symbols + ids)
        before = self.into(embed(F.pad(own[:, :-1], (1, 0), value=PADDING), rows.flatten(1, -2)))
        x = torch.where(documents.first[..., None], self.start, before)
        if not documents.number.any():
            return self.transformer(x)
        return self.transformer.packed(x, documents.position, documents.number)

    def by_document(self, states: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
        """Logits ``[B, L, V]`` of :meth:`states`, each compared with the rows of its own document."""
        if rows.ndim == 3:
            return self.logits(states, rows)
        logits = self.logits(states, rows.flatten(1, 2)).unflatten(-1, rows.shape[1:3])
        number = Documents.of(ids).number.clamp(min=0)
        return logits.gather(2, number[..., None, None].expand(-1, -1, 1, rows.shape[2]))[:, :, 0]

    def fresh_rows(self, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Rows ``[B, K, V, D]``: one draw for each document of ids ``[B, L]``."""
        count = Documents.of(ids).count
        return self.rows(len(ids) * count, generator=generator).unflatten(0, (len(ids), count))

    def loss(self, signal: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy in nats of ids ``[B, L]``, each document with fresh rows.

        Args:
            signal: ids below ``symbols``.
            generator: Of the rows.
        """
        ids = signal.long()
        rows = self.fresh_rows(ids, generator)
        return cross_entropy(self(ids, rows), ids)

    @torch.no_grad()
    def probabilities(self, ids: Tensor, symbols: int, draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Probabilities ``[B, L, V]`` of each next id, averaged over so many draws of rows."""
        total = torch.zeros(*ids.shape, symbols, device=self.start.device)
        for _ in range(draws):
            total += self(ids, self.rows(len(ids), symbols, generator)).softmax(dim=-1)
        return total / draws

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        rows: Tensor,
        steps: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continuations ``[B, steps]`` of equally long prompts ``[B, L]``; the rows stay what they are throughout."""
        cache = self.transformer.cache(len(ids), ids.shape[1] + steps)
        x = torch.cat([self.start.expand(len(ids), 1, -1), self.into(embed(ids, rows))], dim=1)
        states, drawn = self.transformer(x, None, cache)[:, -1:], []
        for step in range(steps):
            logits = self.logits(states, rows)[:, 0]
            drawn.append(draw(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator))
            if step + 1 < steps:
                states = self.features(drawn[-1][:, None], rows, cache)
        return torch.stack(drawn, dim=1)


def embed(ids: Tensor, rows: Tensor) -> Tensor:
    """Rows ``[B, L, D]`` of ids ``[B, L]``; zeros where there is none."""
    found = rows.gather(1, ids.clamp(min=0)[..., None].expand(-1, -1, rows.shape[-1]))
    return found.masked_fill((ids < 0)[..., None], 0)


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean in nats over the ids ``[B, L]`` that are not padding; logits ``[B, L, V]``."""
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=PADDING)
