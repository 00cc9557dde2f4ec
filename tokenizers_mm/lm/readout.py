"""DepthReadout: the cells of a step told one after the other, where an output layer tells them all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.depth import DepthTransformer
from tokenizers_mm.lm.vocabulary import Vocabulary

Pick = Callable[[int, Callable[[Iterable[Choice]], Tensor]], Tensor]
"""Of a lane and what gives logits ``[N, V]`` of the ids that may come there: the ids ``[N]`` that come."""


class DepthReadout(nn.Module):
    """A :class:`DepthTransformer` whose inner steps are the lanes of a vocabulary.

    Args:
        vocabulary: Whose.
        features: Width of what it reads.
        **options: ``dim``, ``layers``, ``heads``, ``hidden`` and ``shared`` of :class:`DepthTransformer`.
    """

    table: Tensor

    def __init__(self, vocabulary: Vocabulary, features: int, **options: Any) -> None:
        super().__init__()
        marks = sorted({mark for choice in vocabulary.choices for mark in choice.marks})
        codes = {choice.codes for choice in vocabulary.choices if not choice.marks}
        most = max(map(len, codes))
        table = torch.full((vocabulary.size,), -1)  # what an id is within a lane: codes from 0, marks behind
        for part in codes:
            table[part.start : part.stop] = torch.arange(len(part))
        table[marks] = most + torch.arange(len(marks))
        self.register_buffer("table", table, persistent=False)
        self.depth = DepthTransformer(features, vocabulary.lanes, most + len(marks), **options)

    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        """Logits ``[B, T, L, n]`` within each lane of ``ids [B, T, L]``, given features ``[B, T, D]`` of the steps before."""
        return self.depth(features, self.table[ids])

    def of(self, choice: Choice) -> Tensor:
        """Which of the n logits are those of a choice, in its order."""
        return self.table[choice.ids.to(self.table.device)]

    def read(self, hidden: Tensor, pick: Pick) -> Tensor:
        """Ids ``[N, L]`` of a step after features ``[N, D]``."""
        drawn: list[Tensor] = []

        def choose(lane: int, logits: Tensor) -> Tensor:
            def spread(choices: Iterable[Choice]) -> Tensor:
                out = logits.new_zeros(len(logits), len(self.table))
                for choice in choices:
                    out[:, choice.ids.to(out.device)] = logits[:, self.of(choice)]
                return out

            drawn.append(pick(lane, spread))
            return self.table[drawn[-1]]

        self.depth.read(hidden, choose)
        return torch.stack(drawn, dim=1)
