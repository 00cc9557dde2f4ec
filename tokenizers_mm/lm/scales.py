"""Scales: the grids of a multi-scale item, coarse first, and which coarser cell each cell is predicted from.

Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction", 2024. There a cell reads the
codec's sum of all coarser scales, interpolated at its place; here the one cell below its centre, of tokens of any codec, and sees
the rest by attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scales:
    """Grids of one area, as a language model reads and writes them: one after the other, each at once.

    Args:
        sides: Rows and columns of each grid, coarse first, or the length of each line.

    Raises:
        ValueError: If there are none, or grids are neither all of one axis nor all of two.
    """

    sides: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", tuple(tuple(grid) for grid in self.sides))
        axes = {len(grid) for grid in self.sides}
        if axes not in ({1}, {2}) or any(n < 1 for grid in self.sides for n in grid):
            raise ValueError(f"sides must be positive, of one axis or two in every scale, got {self.sides}")

    @classmethod
    def of(cls, counts: Sequence[int]) -> Scales:
        """Of cells of each scale: squares if every one can be, else lines."""
        roots = [math.isqrt(n) for n in counts]
        square = all(root * root == n for root, n in zip(roots, counts, strict=True))
        return cls(tuple((root, root) for root in roots) if square else tuple((n,) for n in counts))

    @property
    def counts(self) -> tuple[int, ...]:
        """Cells of each scale."""
        return tuple(math.prod(grid) for grid in self.sides)

    @property
    def ends(self) -> tuple[int, ...]:
        """Cells up to the end of each scale."""
        return tuple(accumulate(self.counts))

    def whole(self, cells: int) -> int:
        """Cells of the scales that are whole when so many cells are there."""
        return max((end for end in self.ends if end <= cells), default=0)

    @property
    def starts(self) -> Tensor:
        """The first cell of each cell's scale, int64 ``[T]``."""
        return torch.tensor((0, *self.ends[:-1])).repeat_interleave(torch.tensor(self.counts))

    @property
    def parents(self) -> Tensor:
        """The cell of the scale before that lies below the centre of each, int64 ``[T]``; -1 in the first scale."""
        parts = [torch.full((self.counts[0],), -1)]
        for own, coarser, start in zip(self.sides[1:], self.sides, (0, *self.ends), strict=False):
            *row, column = _centres(own, coarser).unbind(dim=1)
            parts.append(start + column + (row[0] * coarser[1] if row else 0))
        return torch.cat(parts)

    @property
    def places(self) -> Tensor:
        """Row and column on the finest grid of the centre of each cell, int64 ``[T, 2]``; of lines the two are the same."""
        at = torch.cat([_centres(grid, self.sides[-1]) for grid in self.sides])
        return at.expand(-1, 2)


def _centres(grid: tuple[int, ...], other: tuple[int, ...]) -> Tensor:
    """The cells of another grid of the same area in which the centres of the cells of one lie, int64 ``[cells, axes]``."""
    along = [(2 * torch.arange(n) + 1) * m // (2 * n) for n, m in zip(grid, other, strict=True)]
    return torch.stack(torch.meshgrid(*along, indexing="ij"), dim=-1).flatten(0, -2)
