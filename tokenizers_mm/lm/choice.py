"""Choice: the ids that may stand in a cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenizers_mm.nn.few_rows import few_rows


@dataclass(frozen=True)
class Choice:
    """Single ids and a range: marks, and the codes of one codebook.

    Args:
        marks: Single ids.
        codes: All ids of a codebook, which follow one another.
    """

    marks: tuple[int, ...] = ()
    codes: range = range(0)

    def __len__(self) -> int:
        return len(self.marks) + len(self.codes)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.marks or id_ in self.codes

    @property
    def ids(self) -> Tensor:
        """All of them, int64 ``[n]``, marks first."""
        return torch.tensor([*self.marks, *self.codes], dtype=torch.int64)

    @property
    def first(self) -> int:
        """The first of them; the only one, where there is no choice."""
        return self.marks[0] if self.marks else self.codes[0]

    def place(self, ids: Tensor) -> Tensor:
        """Where ids, which must be among them, are in :attr:`ids`."""
        place = ids - self.codes.start + len(self.marks)
        for i, mark in enumerate(self.marks):
            place = place.masked_fill(ids == mark, i)
        return place

    def rows(self, weight: Tensor) -> Tensor:
        """Their rows ``[n, D]`` of an output layer ``[V, D]``."""
        codes = weight[self.codes.start : self.codes.stop]
        return torch.cat([weight[list(self.marks)], codes]) if self.marks else codes

    def logits(self, features: Tensor, weight: Tensor) -> Tensor:
        """Of each of them, ``[N, n]``, from features ``[N, D]`` and an output layer ``[V, D]``."""
        codes = few_rows(features, weight, self.codes)
        return torch.cat([features @ weight[list(self.marks)].T, codes], dim=1) if self.marks else codes
