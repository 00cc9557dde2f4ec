"""Where a byte string stands among the tokens that may cover it.

A branch is a canonical token sequence and, after it, one more token that is not over yet: not each possible one by itself but the
range of a sorted vocabulary that begins with the bytes since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

END = 256  # the symbol after the 256 bytes: the text is over
SYMBOLS = 257
Ids = tuple[int, ...]


class SortedTokens:
    """A vocabulary in the order of its byte strings.

    Args:
        tokens: Bytes of each id; ids without any are left out.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.order = np.array(sorted((i for i, t in enumerate(tokens) if t), key=tokens.__getitem__), dtype=np.int64)
        self._bytes = [tokens[i] for i in self.order.tolist()]
        self._columns: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.order)

    def column(self, depth: int) -> np.ndarray:
        """Byte of each token at ``depth``, plus one; 0 for tokens that are over. int64 ``[V]``."""
        while len(self._columns) <= depth:
            at = len(self._columns)
            self._columns.append(np.array([t[at] + 1 if len(t) > at else 0 for t in self._bytes], dtype=np.int64))
        return self._columns[depth]

    def down(self, lo: int, hi: int, depth: int, byte: int) -> tuple[int, int, int]:
        """Of tokens ``lo`` to ``hi``, which share ``depth`` bytes, those with ``byte`` next: first, first that goes on, end."""
        here = self.column(depth)[lo:hi]
        first, end = (lo + int(np.searchsorted(here, byte + 1, side=side)) for side in ("left", "right"))
        return first, first + int(np.searchsorted(self.column(depth + 1)[first:end], 0, side="right")), end


@dataclass(frozen=True)
class Branch:
    """Tokens and an unfinished one after them.

    Args:
        ids: The tokens.
        weights: Log-probability of ``ids`` and each further token, in sorted order ``[V]``.
        lo, hi: Range of tokens that begin with the bytes since.
        depth: How many bytes these are.
    """

    ids: Ids
    weights: np.ndarray
    lo: int
    hi: int
    depth: int

    def mass(self) -> float:
        """Log-probability of all of it."""
        return log_sum(self.weights[self.lo : self.hi])


@dataclass(frozen=True)
class State:
    """A byte string and all that covers it; never changed, so that it can be shared.

    Args:
        size: Bytes so far.
        ends: Sequences that end just here, with their log-probabilities.
        branches: Those that reach further.
        scale: What log-probabilities are relative to.
        fixed: Tokens that all of them begin with, whose probability is not counted.
        context: Ids before these, which are not text.
    """

    size: int
    ends: tuple[tuple[Ids, float], ...]
    branches: tuple[Branch, ...]
    scale: float = 0.0
    fixed: Ids = ()
    context: Ids = ()
    _memo: dict = field(default_factory=dict, repr=False, compare=False)

    def mass(self) -> float:
        """Log-probability that a text begins so, after the fixed tokens."""
        return self.scale + log_sum([weight for _, weight in self.ends] + [branch.mass() for branch in self.branches])


def log_sum(values: Sequence[float] | np.ndarray) -> float:
    """Logarithm of the sum of exponentials; minus infinity of none."""
    array = np.asarray(values, dtype=np.float64)
    top = array.max(initial=-np.inf)
    return float(top + np.log(np.exp(array - top).sum())) if np.isfinite(top) else -np.inf
