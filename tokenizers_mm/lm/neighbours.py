"""Which known ids a count-based model looks at before it predicts one, nearest first: those before it, or those around it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np

from tokenizers_mm.tokens import Tokens, TokenSpec

Context = Literal["sequence", "grid"]
_LONGEST = 16  # ids before that a sequence takes at most


@lru_cache(maxsize=64)
def neighbours(context: Context, shape: tuple[int, ...], columns: int, count: int) -> np.ndarray:
    """Places ``step * Q + column`` of the ``count`` neighbours of each id of a grid, all of them before it.

    Args:
        context: ``"sequence"`` takes the ids just before, as step after step and column after column follow one another.
            ``"grid"`` takes the column before in the same step, then the same column of the steps that touch along the last two
            axes: one back, one up, one up and on, one up and back; then the column before of the step before, two and three back.
        shape: The grid, one extent per axis.
        columns: Q.
        count: How many.

    Returns:
        int32 ``[count, T * Q]``; ``T * Q`` where there is none.

    Raises:
        ValueError: If a grid has fewer such neighbours.
    """
    extents = np.array([*shape, columns])
    total = math.prod(shape) * columns
    at = np.arange(total)
    if context == "sequence":
        before = at - np.arange(1, count + 1)[:, None]
        return np.where(before >= 0, before, total).astype(np.int32)
    offsets = _around(len(shape), columns)
    if count > len(offsets):
        raise ValueError(f"order must be at most {len(offsets) + 1} in a grid of {len(shape)} axes, got {count + 1}")
    out = np.full((count, total), total, dtype=np.int32)
    here = np.array(np.unravel_index(at, extents)).reshape(len(extents), total)
    for row, offset in zip(out, offsets, strict=False):
        there = here + np.array(offset)[:, None]
        inside = ((there >= 0) & (there < extents[:, None])).all(axis=0)
        row[inside] = np.ravel_multi_index(tuple(there[:, inside]), tuple(extents))
    return out


def most_neighbours(context: Context, spec: TokenSpec) -> int:
    """How many neighbours there are to ask for."""
    return _LONGEST if context == "sequence" else len(_around(len(spec.axes), spec.num_codebooks))


def global_ids(tokens: Tokens) -> np.ndarray:
    """Ids of all columns in one range, column after column, int64 ``[B, T * Q + 1]``; the last entry stands for "none"."""
    sizes = np.array(tokens.spec.codebook_sizes)
    ids = tokens.ids.cpu().numpy() + (np.cumsum(sizes) - sizes)
    flat = ids.reshape(len(ids), -1)
    return np.concatenate([flat, np.full((len(flat), 1), sizes.sum())], axis=1)


def _around(axes: int, columns: int) -> list[tuple[int, ...]]:
    """Offsets along the axes and the columns, nearest first."""
    row, column = np.eye(axes + 1, dtype=int)[axes - 1], np.eye(axes + 1, dtype=int)[axes]
    up = np.eye(axes + 1, dtype=int)[axes - 2] if axes > 1 else None
    found = [-column] if columns > 1 else []
    found.append(-row)
    found += [] if up is None else [-up, row - up, -row - up]
    found += [-row - column] if columns > 1 else []
    found += [-2 * row, -3 * row]
    return [tuple(offset.tolist()) for offset in found]
