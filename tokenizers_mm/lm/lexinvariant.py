"""Lexinvariant language models: symbols mean nothing but what a sequence makes of them.

Huang et al., "Lexinvariant Language Models", NeurIPS 2023: every sequence draws its own random embeddings, which the output is
compared with too, so that in expectation a text's probability does not change when its symbols are permuted. No code of theirs is
public: the scale of the output and its learned temperature are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import DecoderLM, Transformer, draw
from tokenizers_mm.lm.cache import Cache

PADDING = -1


def random_rows(batch: int, symbols: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Embeddings ``[batch, symbols, dim]`` of independent normal values: each sequence its own."""
    return torch.randn(batch, symbols, dim, generator=generator)


class LexinvariantLM(nn.Module):
    """A decoder without a parameter for any symbol: it reads and writes through the rows of its sequence.

    Args:
        **network: Arguments of :class:`Transformer`.

    Shape:
        ids ``[B, L]``, :data:`PADDING` for none, on the right; rows ``[B, V, D]``, for any V; logits ``[B, L, V]`` of each id
        given those before it, the first from nothing.
    """

    def __init__(self, **network: int | float | None) -> None:
        super().__init__()
        self.transformer = Transformer(**network)  # type: ignore[arg-type]
        dim = self.transformer.dim
        self.start = nn.Parameter(torch.randn(dim))
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.out.weight, std=dim**-0.5)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def rows(self, batch: int, symbols: int, generator: torch.Generator | None = None) -> Tensor:
        """Fresh rows for ``batch`` sequences; the generator must be the CPU's, so that a seed gives the same on every device."""
        return random_rows(batch, symbols, self.transformer.dim, generator).to(self.start)

    def features(self, ids: Tensor, rows: Tensor, cache: Cache | None = None) -> Tensor:
        """States ``[B, L, D]``, the one at a step knowing the ids up to there; with a cache, of the next ids."""
        return self.transformer(embed(ids, rows), None, cache)

    def logits(self, states: Tensor, rows: Tensor) -> Tensor:
        """Similarity of states ``[B, L, D]`` to the rows of their sequence."""
        return self.log_scale.exp() / math.sqrt(rows.shape[-1]) * self.out(states) @ rows.transpose(1, 2)

    def forward(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Logits of each id given those before it.

        Raises:
            ValueError: If rows are not the sequences', or an id has none.
        """
        if rows.ndim != 3 or len(rows) != len(ids) or rows.shape[2] != self.transformer.dim:
            raise ValueError(f"rows must be [{len(ids)}, V, {self.transformer.dim}], got {list(rows.shape)}")
        if ids.numel() and int(ids.max()) >= rows.shape[1]:
            raise ValueError(f"ids must be below {rows.shape[1]}, the number of rows, got {int(ids.max())}")
        x = torch.cat([self.start.expand(len(ids), 1, -1), embed(ids[:, :-1], rows)], dim=1)
        return self.logits(self.transformer(x), rows)

    def loss(self, signal: Tensor, symbols: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy in nats with fresh rows.

        Args:
            signal: ids ``[B, L]``.
            symbols: V; by default one more than the largest id.
            generator: Of the rows.
        """
        ids = signal.long()
        rows = self.rows(len(ids), int(ids.max()) + 1 if symbols is None else symbols, generator)
        return F.cross_entropy(self(ids, rows).flatten(0, 1), ids.flatten(), ignore_index=PADDING)

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
        x = torch.cat([self.start.expand(len(ids), 1, -1), embed(ids, rows)], dim=1)
        states, drawn = self.transformer(x, None, cache)[:, -1:], []
        for step in range(steps):
            logits = self.logits(states, rows)[:, 0]
            drawn.append(draw(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator))
            if step + 1 < steps:
                states = self.features(drawn[-1][:, None], rows, cache)
        return torch.stack(drawn, dim=1)


class RegularizedLM(DecoderLM):
    """A token language model some of whose embeddings are, in training, random rows of their sequence.

    Each symbol of each sequence is replaced with probability ``share`` on its way in; raise it towards 1 for a model that comes
    to need no symbol's own embedding (:meth:`anneal`). In evaluation it is a :class:`DecoderLM`.

    Args:
        vocabulary_size: Ids, of a codec's tokens for example.
        share: Probability of a symbol's replacement; 0.2 in the paper.
        tied: Whether the output layer is the embedding.
        **network: Arguments of :class:`Transformer`.

    Raises:
        ValueError: If ``share`` is no probability.
    """

    def __init__(
        self, vocabulary_size: int, share: float = 0.2, tied: bool = True, **network: int | float | None
    ) -> None:
        super().__init__(vocabulary_size, tied, **network)
        if not 0 <= share <= 1:
            raise ValueError(f"share must be a probability from 0 to 1, got {share}")
        self.share = share

    def embed(self, ids: Tensor) -> Tensor:
        if not (self.training and self.share):
            return super().embed(ids)
        own = self.embedding.weight
        drawn = random_rows(len(ids), len(own), own.shape[1]).to(own) * own.detach().std()
        replaced = torch.rand(len(ids), len(own), 1, device=own.device) < self.share
        return embed(ids, torch.where(replaced, drawn, own))

    def anneal(self, done: float, final: float = 1.0, first: float = 0.0) -> None:
        """Set the share at ``done`` (0 to 1) of a training that goes from ``first`` to ``final``, in a straight line."""
        if not 0 <= done <= 1:
            raise ValueError(f"done must be a share from 0 to 1, got {done}")
        self.share = first + done * (final - first)


def embed(ids: Tensor, rows: Tensor) -> Tensor:
    """Rows ``[B, L, D]`` of ids ``[B, L]``; zeros where there is none."""
    found = rows.gather(1, ids.clamp(min=0)[..., None].expand(-1, -1, rows.shape[-1]))
    return found.masked_fill((ids < 0)[..., None], 0)


@torch.no_grad()
def loss_by_position(
    logits: Callable[[Tensor], Tensor], ids: Tensor, edges: Sequence[int] = (0, 16, 64, 128, 256, 512)
) -> list[float]:
    """Mean cross-entropy in nats between successive ``edges`` of position; buckets past the end are left out.

    Args:
        logits: Of each id of ``[B, L]`` given those before it, ``[B, L, V]``.
        ids: Without padding.
        edges: First positions of buckets, and the end.
    """
    nats = F.cross_entropy(logits(ids).transpose(1, 2), ids, reduction="none").mean(dim=0)
    return [float(nats[a:b].mean()) for a, b in pairwise(edges) if a < len(nats)]


@torch.no_grad()
def invariance_error(model: LexinvariantLM, ids: Tensor, symbols: int, draws: int, seed: int = 0) -> float:
    """Mean absolute difference of the log-probability of sequences and of the same with their symbols permuted, nats a symbol.

    Probabilities are averaged over so many draws; the error goes down as one over the square root of that.
    """
    generator = torch.Generator().manual_seed(seed)
    permuted = torch.randperm(symbols, generator=generator).to(ids.device)[ids]
    sides = []
    for side in (ids, permuted):
        p = model.probabilities(side, symbols, draws, generator)
        sides.append(p.gather(-1, side[..., None]).log().mean(dim=(1, 2)))
    return float((sides[0] - sides[1]).abs().mean())
