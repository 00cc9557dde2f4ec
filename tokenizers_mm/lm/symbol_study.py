"""What a model makes of symbols within a sequence: loss by position, tasks by example, how little it minds a permutation.

The measurements of Huang et al., "Lexinvariant Language Models", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.lm.lexinvariant import LexinvariantLM
from tokenizers_mm.lm.symbols import Task, lookup, permute

EDGES = (0, 16, 64, 128, 256, 512)
BATCH = 16  # sequences at a time


@torch.no_grad()
def logits(model: LexinvariantLM, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Logits ``[B, L, V]`` of each id given those before it, a few sequences at a time, each with its rows."""
    parts = [model(part, model.rows(len(part), generator=generator)) for part in ids.split(BATCH)]
    return torch.cat(parts)


def positions(
    model: LexinvariantLM, ids: Tensor, generator: torch.Generator, edges: Sequence[int] = EDGES
) -> list[float]:
    """Mean cross-entropy in nats between successive ``edges`` of position (see :func:`loss_by_position`)."""
    return loss_by_position(logits(model, ids, generator), ids, edges)


def tasks(model: LexinvariantLM, rows: int, generator: torch.Generator) -> dict[str, float]:
    """Accuracy at look-up of 4 and 8 pairs and at permuting words of 3 and 5 symbols; chance is one in ``model.symbols``."""
    v = model.symbols
    made: dict[str, Task] = {
        "lookup_4": lookup(rows, 4, 24, v, generator),
        "lookup_8": lookup(rows, 8, 24, v, generator),
        "permute_3": permute(rows, 3, 12, v, generator),
        "permute_5": permute(rows, 5, 8, v, generator),
    }
    return {name: task.accuracy(logits(model, task.ids, generator)) for name, task in made.items()}


def loss_by_position(logits: Tensor, ids: Tensor, edges: Sequence[int] = EDGES) -> list[float]:
    """Mean cross-entropy in nats between successive ``edges`` of position; buckets past the end are left out.

    Args:
        logits: Of each id given those before it, ``[B, L, V]``.
        ids: ``[B, L]`` without padding.
        edges: First positions of buckets, and the end.
    """
    nats = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none").mean(dim=0)
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
