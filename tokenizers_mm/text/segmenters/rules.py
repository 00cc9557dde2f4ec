"""Segmenters by simple rules: white space, a fixed number of bytes, and SpaceByte's space-like bytes.

``whitespace`` is that of "Hierarchical Autoregressive Transformers" (Neitemeier et al., ICLR 2025); ``fixed`` that of
"MegaByte" (Yu et al., NeurIPS 2023); ``spacelike`` that of "SpaceByte" (Slagle, NeurIPS 2024), which "Byte Latent Transformer"
(Pagnoni et al., 2024) takes over.
"""

from __future__ import annotations

import functools
import string

import numpy as np

from tokenizers_mm.text.segmenters.base import Segmenter, code_points, whole_characters
from tokenizers_mm.text.segmenters.unicode_data import kinds


class Whitespace(Segmenter):
    """A word begins at every character that follows Unicode white space and is none itself: ``"a  b"`` is ``"a  "``, ``"b"``."""

    def word_starts(self, data: bytes) -> np.ndarray:
        points, offsets = code_points(data)
        white = _white()[points]
        starts = np.flatnonzero(white[:-1] & ~white[1:]) + 1
        starts = starts if offsets is None else offsets[starts]
        return np.concatenate([[0], starts]) if data else starts

    def settled(self, data: bytes) -> tuple[np.ndarray, int]:
        reach = whole_characters(data)
        return self.word_starts(data[:reach]), reach

    def restart(self, data: bytes, starts: np.ndarray) -> int:
        return int(starts[-1])


class Fixed(Segmenter):
    """Words of ``size`` bytes, whatever they are; the last may be shorter.

    Args:
        size: Bytes of a word.
    """

    def __init__(self, size: int = 8) -> None:
        if size < 1:
            raise ValueError(f"size must be a positive number of bytes, got {size}")
        super().__init__()
        self.size = size

    def word_starts(self, data: bytes) -> np.ndarray:
        return np.arange(0, len(data), self.size)

    def settled(self, data: bytes) -> tuple[np.ndarray, int]:
        return np.arange(0, len(data) + 1, self.size), len(data)

    def restart(self, data: bytes, starts: np.ndarray) -> int:
        return int(starts[-1])


class SpaceLike(Segmenter):
    """A word begins after the first byte of each run of bytes that are neither letters, digits nor inside a UTF-8 character."""

    def word_starts(self, data: bytes) -> np.ndarray:
        starts = self._starts(data)
        return starts[starts < len(data)]

    def settled(self, data: bytes) -> tuple[np.ndarray, int]:
        return self._starts(data), len(data)

    def restart(self, data: bytes, starts: np.ndarray) -> int:
        like = _space_like()
        good = (start for start in starts[::-1].tolist() if start < len(data) and not like[data[start]])
        return next(good, 0)

    def _starts(self, data: bytes) -> np.ndarray:
        like = _space_like()[np.frombuffer(data, dtype=np.uint8)]
        first = like.copy()
        first[1:] &= ~like[:-1]
        return np.concatenate([[0], np.flatnonzero(first) + 1])


@functools.cache
def _white() -> np.ndarray:
    """Which code points are white space."""
    return kinds().flags["White_Space"][kinds().of]


@functools.cache
def _space_like() -> np.ndarray:
    table = np.ones(256, dtype=bool)
    table[list((string.ascii_letters + string.digits).encode())] = False
    table[0x80:0xC0] = False
    return table
