"""Counts of ids after contexts, as sorted arrays: how they are made from tokens, and what smoothing makes of them.

A context of n ids is the place of the context of its n - 1 nearest ids in the table one shorter, and the id further away: a trie,
whose keys stay small however long contexts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from tokenizers_mm.lm.places import Places

_UNIT = 2.0**-16  # discounts are multiples of it: sums of them are exact in any order
_DEFAULT = (0.5, 1.0, 1.5)  # discounts where there are too few counts to estimate them


@dataclass(frozen=True)
class Table:
    """What follows the contexts of one length.

    Args:
        contexts: int64 ``[C]``, ascending: place of the shorter context times ``ids`` plus the further id.
        first: int64 ``[C + 1]``, where the successors of each begin, and the end.
        next: int64 ``[E]``, the successors, ascending for each context.
        counts: int64 ``[E]``, how often.
    """

    contexts: np.ndarray
    first: np.ndarray
    next: np.ndarray
    counts: np.ndarray

    @property
    def owners(self) -> np.ndarray:
        """Context of each successor, int64 ``[E]``."""
        return np.repeat(np.arange(len(self.contexts)), np.diff(self.first))

    @property
    def totals(self) -> np.ndarray:
        """Counts of each context, int64 ``[C]``."""
        return sums(self.counts, self.first)

    @classmethod
    def of(cls, contexts: np.ndarray, owners: np.ndarray, nexts: np.ndarray, size: int) -> Self:
        """Count pairs of a context's place and an id below ``size``; every context occurs."""
        pairs, counts = np.unique(owners * size + nexts, return_counts=True)
        first = np.searchsorted(pairs, np.arange(len(contexts) + 1) * size)
        return cls(contexts, first, pairs % size, counts)

    def check(self, sizes: np.ndarray) -> None:
        """Refuse what is no table of ids below ``sizes`` ``[C]``.

        Raises:
            ValueError: If the parts do not fit together.
        """
        lengths = np.diff(self.first)
        fits = len(self.first) == len(self.contexts) + 1 and len(self.next) == len(self.counts) == self.first[-1]
        if not fits or self.first[0] != 0 or (lengths < 1).any() or (np.diff(self.contexts) < 1).any():
            raise ValueError("contexts and what follows them do not fit together")
        inside = (self.next >= 0) & (self.next < sizes[self.owners])
        ascending = (np.diff(self.next) > 0) | (np.diff(self.owners) > 0)
        if not inside.all() or not ascending.all() or (self.counts < 1).any():
            raise ValueError("what follows contexts must be ids of the codebook, ascending, each with a count")

    def discounts(self) -> np.ndarray:
        """Of counts 1, 2, and 3 or more, float64 ``[3]``, after Chen and Goodman; above 0 and at most 1, 2, 3."""
        with np.errstate(divide="ignore", invalid="ignore"):
            n = np.bincount(np.minimum(self.counts, 5), minlength=6)[1:5].astype(np.float64)
            share = n[0] / (n[0] + 2 * n[1])
            found = np.array([1, 2, 3]) - np.array([2, 3, 4]) * share * n[1:] / n[:3]
        found = np.where(np.isfinite(found), found, _DEFAULT).clip(0.1, [1, 2, 3])
        return np.round(found / _UNIT) * _UNIT


def count_tables(
    columns: np.ndarray, near: np.ndarray, codes: np.ndarray, *, ids: int, size: int, min_count: int = 1
) -> list[Table]:
    """Counts for contexts of 0 to n ids: of the longest how often an id follows, of the others after how many further ids.

    Args:
        columns: int64 ``[N]``, the column of each id.
        near: int32 ``[n, N]``, its neighbours, nearest first.
        codes: int64 ``[N]``, itself.
        ids: How many values neighbours take.
        size: How many values ``codes`` take.
        min_count: How often a context of one id or more occurs at least; rarer ones are left out after counting.
    """
    contexts, owners = np.unique(columns, return_inverse=True)
    found, often = [contexts], [np.bincount(owners)]
    for row in near:
        contexts, owners = np.unique(owners * ids + row, return_inverse=True)
        found.append(contexts)
        often.append(np.bincount(owners))
    tables = [Table.of(found[-1], owners, codes, size)]
    for shorter in reversed(found[:-1]):
        longer = tables[0]
        tables.insert(0, Table.of(shorter, (longer.contexts // ids)[longer.owners], longer.next, size))
    return _frequent(tables, often, min_count, ids)


def _frequent(tables: Sequence[Table], often: Sequence[np.ndarray], min_count: int, ids: int) -> list[Table]:
    """A context occurs at least as often as any longer one that begins with it: what stays is a trie again."""
    out: list[Table] = [tables[0]]
    place = np.arange(len(tables[0].contexts))
    for table, occurrences in zip(tables[1:], often[1:], strict=True):
        keep = occurrences >= min_count
        lengths, inside = np.diff(table.first), keep[table.owners]
        contexts = place[table.contexts[keep] // ids] * ids + table.contexts[keep] % ids
        first = np.concatenate([[0], np.cumsum(lengths[keep])])
        out.append(Table(contexts, first, table.next[inside], table.counts[inside]))
        place = np.cumsum(keep) - 1
    return out


def sums(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Sum of each stretch of values, none of them empty; there may be no stretch."""
    return np.add.reduceat(values, first[:-1]) if len(first) > 1 else values[:0]


class Level:
    """Predictions after the contexts of one length: ``p = leak * shorter p + gain`` of the ids that were seen there.

    Args:
        table: The counts.
        size: Of the largest codebook.
    """

    def __init__(self, table: Table, size: int) -> None:
        self.first, self.next, self.size = table.first, table.next, size
        self.places = Places(table.contexts)
        self.pairs = table.owners * size + table.next
        totals, owners = table.totals, table.owners
        off = table.discounts()[np.minimum(table.counts, 3) - 1]
        self.gain = (table.counts - off) / totals[owners]
        self.leak = sums(off, table.first) / totals

    def mix(self, owners: np.ndarray, codes: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Probabilities of ids after contexts, from those after the shorter contexts, float64 ``[N]``."""
        wanted = owners * self.size + codes
        if not len(wanted):
            return shorter
        at = np.searchsorted(self.pairs, wanted).clip(max=len(self.pairs) - 1)
        return shorter * self.leak[owners] + np.where(self.pairs[at] == wanted, self.gain[at], 0.0)

    def mix_all(self, owner: int, shorter: np.ndarray) -> np.ndarray:
        """Probabilities of all ids after one context, float64 ``[K]``."""
        mixed = shorter * self.leak[owner]
        seen = slice(self.first[owner], self.first[owner + 1])
        mixed[self.next[seen]] += self.gain[seen]
        return mixed
