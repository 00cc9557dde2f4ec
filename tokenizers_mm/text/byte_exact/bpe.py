"""Which tokens stay apart under byte-pair encoding, for all of a vocabulary at once.

A sequence is canonical where each pair of neighbours is (Berglund and van der Merwe, "Formalizing BPE Tokenization", NCMA 2023),
and a pair is where no merge across its border comes before those that made the two tokens. That is read off the merges, without
encoding anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_NEVER = np.iinfo(np.int64).max


class MergeRows:
    """Rows of the relation "may stand next to each other".

    Args:
        merges: ``(left, right, merged)`` ids in order of rank; each must come after those that make its parts.
        size: Of the vocabulary.

    Raises:
        ValueError: If merges are not in such an order, or make a token in several ways.
    """

    def __init__(self, merges: Sequence[tuple[int, int, int]], size: int) -> None:
        self.size = size
        made = {merged: (rank, left, right) for rank, (left, right, merged) in enumerate(merges)}
        if len(made) != len(merges):
            raise ValueError("merges make a token in several ways: such tokenizers are checked by encoding")
        for rank, (left, right, merged) in enumerate(merges):
            if max(made.get(left, (-1,))[0], made.get(right, (-1,))[0]) >= rank:
                raise ValueError(f"merge {rank} of {merged} comes before what makes its parts")
        self._made = made
        self._by_left: dict[int, list[tuple[int, int]]] = {}  # left: (right, rank)
        for rank, (left, right, _) in enumerate(merges):
            self._by_left.setdefault(left, []).append((right, rank))
        begun: dict[int, list[tuple[int, int]]] = {}  # token: (until what rank it is the first part, of what)
        for token in range(size):
            part, until = token, _NEVER
            while True:
                begun.setdefault(part, []).append((until, token))
                if part not in made:
                    break
                until, part, _ = made[part]
        self._begun = {}
        for part, found in begun.items():
            found.sort(reverse=True)
            self._begun[part] = tuple(np.array(column, dtype=np.int64) for column in zip(*found, strict=True))

    def row(self, left: int) -> np.ndarray:
        """Which tokens stay apart from ``left`` before them, bool ``[V]``."""
        apart = np.ones(self.size, dtype=bool)
        part, until = left, _NEVER
        while True:
            for right, rank in self._by_left.get(part, ()):
                if rank < until:  # of equal pairs the left one merges first
                    limits, tokens = self._begun[right]
                    apart[tokens[: np.searchsorted(-limits, -rank, side="right")]] = False
            if part not in self._made:
                return apart
            until, _, part = self._made[part]
