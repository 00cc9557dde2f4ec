"""How a codec's tokens go with the classes of what they stand for, after the token analysis of TFM-Tokenizer.

Pradeepkumar et al., "Tokenizing Single-Channel EEG with Time-Frequency Motif Learning", ICLR 2026, whose definitions are partly
given in words only: K of the retrieval and its distance are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenizers_mm.tokens import Tokens

NEIGHBOURS = 5


def histograms(tokens: Tokens, *, per_row: bool = False) -> Tensor:
    """How often each entry of each codebook occurs in each item, as shares: float32 ``[B, D]``.

    Args:
        tokens: The items.
        per_row: Count each row of the grid (each channel) for itself, instead of all together.
    """
    sizes = tokens.spec.codebook_sizes
    found = []
    for item in range(len(tokens)):
        grid = tokens.grid(item).cpu()
        rows = grid.reshape(-1, grid.shape[-2] if per_row else grid[..., 0].numel(), grid.shape[-1])
        counts = [
            torch.bincount(row[:, column], minlength=size).float() / len(row)
            for row in rows
            for column, size in enumerate(sizes)
        ]
        found.append(torch.cat(counts))
    return torch.stack(found)


def uniqueness(used: Sequence[frozenset[int]]) -> float | None:
    """Class-token uniqueness: of the tokens that a class uses the share that no other class does, geometric mean over classes.

    Args:
        used: Ids that occur in each class; None comes back for fewer than two classes with tokens.
    """
    classes = [ids for ids in used if ids]
    if len(classes) < 2:
        return None
    shares = []
    for own in classes:
        others = frozenset().union(*(ids for ids in classes if ids is not own))
        shares.append(len(own - others) / len(own))
    return math.prod(shares) ** (1 / len(shares))


def consistency(features: Tensor, labels: Tensor, neighbours: int = NEIGHBOURS) -> float | None:
    """Intra-class consistency: share of the nearest items, by cosine of token histograms, that are of an item's own class.

    Mean over classes of the precision at ``neighbours``, so that frequent classes do not outvote others; None for fewer items.

    Args:
        features: Histograms ``[B, D]``.
        labels: int64 ``[B]``.
        neighbours: K.
    """
    if len(features) <= neighbours:
        return None
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    similar = unit @ unit.T
    similar.fill_diagonal_(-2)
    nearest = similar.topk(neighbours, dim=1).indices
    precision = (labels[nearest] == labels[:, None]).double().mean(dim=1)
    return float(torch.stack([precision[labels == label].mean() for label in labels.unique()]).mean())


def used_by_class(tokens: Tokens, labels: Tensor) -> list[frozenset[int]]:
    """Ids of the first codebook that occur in the items of each class."""
    sets: dict[int, set[int]] = {label: set() for label in labels.unique().tolist()}
    for item, label in enumerate(labels.tolist()):
        sets[label] |= set(tokens.grid(item)[..., 0].flatten().tolist())
    return [frozenset(sets[label]) for label in sorted(sets)]
