"""How much to merge, drawn anew for each batch, so that one model serves every budget.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025: 30 equal bins
of the reduction to words, one of them drawn, then a value within it. Theirs takes 200 merges for all; here a table that the first
batches gave says how many merges a reduction takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from tokenizers_mm.text.dynamic import merges_for

Distribution = Literal["uniform", "gaussian"]
BINS, MEAN, STD = 30, 15, 5
_BATCHES = 16  # that the table is made of


class Budgets(nn.Module):
    """Percentages of the reduction to words, and the merges that they take.

    Args:
        distribution: Of the bins: all alike, or Gaussian with mean 15 and deviation 5.

    Raises:
        ValueError: If the distribution is unknown.
    """

    def __init__(self, distribution: Distribution = "uniform") -> None:
        super().__init__()
        if distribution not in get_args(Distribution):
            raise ValueError(f"distribution must be one of {get_args(Distribution)}, got {distribution!r}")
        self.distribution = distribution
        self.register_buffer("merges_at", torch.zeros(101))  # mean over batches
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    merges_at: Tensor
    batches: Tensor

    @property
    def wants_more(self) -> bool:
        """Whether the table takes further batches."""
        return int(self.batches) < _BATCHES

    def note(self, lengths: Sequence[int]) -> None:
        """Take a batch into the table.

        Args:
            lengths: Its tokens after 0, 1, 2, ... merges, up to all that there are.
        """
        own = torch.tensor(merges_for(lengths, range(101))).to(self.merges_at)
        self.batches += 1
        self.merges_at += (own - self.merges_at) / self.batches

    def merges(self, percent: float) -> int:
        """Merges that reach a percentage.

        Raises:
            ValueError: If it is none, or the table is empty.
        """
        if not 0 <= percent <= 100 or not int(self.batches):
            raise ValueError(
                f"percent must be 0 to 100 and batches have been noted, got {percent}, {int(self.batches)} batches"
            )
        return round(float(np.interp(percent, np.arange(101), self.merges_at.cpu().numpy())))

    def draw(self, generator: torch.Generator | None = None) -> float:
        """A percentage."""
        if self.distribution == "uniform":
            place = int(torch.randint(BINS, (), generator=generator))
        else:
            place = round(MEAN + STD * float(torch.randn((), generator=generator)))
        inside = float(torch.rand((), generator=generator))
        return 100 * (min(max(place, 0), BINS - 1) + inside) / BINS
