"""A hash table that looks up many numbers at once, for models that are counts."""

from __future__ import annotations

import numpy as np


class Places:
    """Where numbers are in a list of different ones: a hash table with linear probing.

    Args:
        numbers: int64 ``[N]``, 0 and above, each once.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        bits = max(8, (4 * len(numbers)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._keys = np.full(2**bits, -1, dtype=np.int64)
        self._index = np.full(2**bits, -1, dtype=np.int32)
        left, slot = np.arange(len(numbers)), self._slot(numbers)
        while len(left):
            free = np.flatnonzero(self._index[slot] < 0)
            self._index[slot[free]] = left[free]  # of those that want one slot, one gets it
            lost = self._index[slot] != left
            left, slot = left[lost], (slot[lost] + 1) % len(self._keys)
        taken = self._index >= 0
        self._keys[taken] = numbers[self._index[taken]]

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """Place of each number, -1 for those that are not in the list."""
        slot = self._slot(numbers)
        keys = self._keys[slot]
        out = np.where(keys == numbers, self._index[slot], -1)
        left = np.flatnonzero((keys != numbers) & (keys >= 0))
        slot = slot[left]
        while len(left):
            slot = (slot + 1) % len(self._keys)
            keys, wanted = self._keys[slot], numbers[left]
            out[left] = np.where(keys == wanted, self._index[slot], -1)
            on = (keys != wanted) & (keys >= 0)
            left, slot = left[on], slot[on]
        return out

    def _slot(self, numbers: np.ndarray) -> np.ndarray:
        return ((numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> self._shift).astype(np.int64)
