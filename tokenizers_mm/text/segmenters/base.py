"""Segmenters: where the words of a byte string start, for the whole of it and byte by byte.

The common ground of hierarchical text models (HAT, SpaceByte, MegaByte, BLT, H-Net): words are byte strings whose
concatenation is the input, whatever the bytes are.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_FAR = 256  # bytes before the open word from which a stream looks for a nearer place to go on from


@dataclass(frozen=True)
class Segmentation:
    """How bytes fall into words.

    Args:
        lengths: Bytes of each word, int64 ``[W]``; they sum to the input's.
    """

    lengths: np.ndarray

    @property
    def seg_id(self) -> np.ndarray:
        """Index of the word that each byte is in, int64 ``[B]``."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def pos_in_seg(self) -> np.ndarray:
        """Place of each byte in its word, from 0, int64 ``[B]``."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.arange(int(self.lengths.sum())) - np.repeat(starts, self.lengths)


class Segmenter(ABC):
    """Cuts bytes into words.

    Args:
        max_bytes: Longest word; longer ones are cut at the last character border that fits, inside a character where not even
            one fits. None for no limit.

    Raises:
        ValueError: For a limit below one byte.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive number of bytes or None, got {max_bytes}")
        self.max_bytes = max_bytes

    def boundaries(self, data: bytes) -> np.ndarray:
        """Where words start, ascending int64 ``[W]``: 0 first, nothing for no bytes."""
        starts = self.word_starts(data)
        return starts if self.max_bytes is None else cut_long(data, starts, len(data), self.max_bytes)

    def split(self, data: bytes) -> list[bytes]:
        """The words; ``b"".join`` of them is ``data``."""
        starts = self.boundaries(data).tolist()
        return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)] if starts else []

    def segment(self, data: bytes) -> Segmentation:
        """The words' lengths, and what follows from them."""
        return Segmentation(np.diff(self.boundaries(data), append=len(data)))

    def stream(self) -> SegmentStream:
        """A session that takes bytes as they come and gives the same words as soon as nothing can change them."""
        return SegmentStream(self)

    @abstractmethod
    def word_starts(self, data: bytes) -> np.ndarray:
        """As :meth:`boundaries`, without the limit."""

    @abstractmethod
    def settled(self, data: bytes) -> tuple[np.ndarray, int]:
        """What is certain of the words of a text that goes on after ``data``.

        Returns:
            The word starts (without the limit) that no continuation changes, each after the one before it; and up to where
            ``data`` can have no further word start but those and its very end.
        """

    @abstractmethod
    def restart(self, data: bytes, starts: np.ndarray) -> int:
        """The last of ``starts`` from which segmenting the rest alone gives the same words."""

    def context(self, data: bytes, at: int) -> int:
        """A place inside the word that ``at`` is in, from which the words after ``at`` come out the same; 0 if there is none."""
        return 0


class SegmentStream:
    """Bytes in, words out. Joined over time, the words of all pushes and the flush are those of one ``split``."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._kept = b""  # from a place where segmentation can start anew
        self._done = 0  # bytes of it whose words are out
        self._trusted = 0  # from where on its word starts are real: what is before may begin inside a word

    @property
    def open(self) -> bytes:
        """The bytes of words that are not complete."""
        return self._kept[self._done :]

    def push(self, data: bytes | int) -> list[bytes]:
        """The words that are complete now.

        Args:
            data: More bytes, any number of them, or one as its value.
        """
        self._kept += bytes([data]) if isinstance(data, int) else data
        starts, reach = self.segmenter.settled(self._kept)
        words = self._emit(self._ends(starts, reach))
        real = starts[(starts >= self._trusted) & (starts <= self._done)]
        again = self.segmenter.restart(self._kept, real) if len(real) else 0
        inside = self.segmenter.context(self._kept, self._done) if self._done - again > _FAR else 0
        again = max(again, inside)
        self._kept, self._done = self._kept[again:], self._done - again
        self._trusted = self._done if again == inside > 0 else max(0, self._trusted - again)
        return words

    def flush(self) -> list[bytes]:
        """The words that are left; the session then starts anew."""
        size = len(self._kept)
        words = (
            self._emit(np.append(self._ends(self.segmenter.word_starts(self._kept), size), size)) if self.open else []
        )
        self._kept, self._done, self._trusted = b"", 0, 0
        return words

    def _ends(self, starts: np.ndarray, reach: int) -> np.ndarray:
        """Where words end, after those that are out: at word starts, and where the limit cuts."""
        starts = starts[starts > self._done]
        if self.segmenter.max_bytes is None or self._done >= reach:
            return starts
        return cut_long(self._kept, np.append(self._done, starts), reach, self.segmenter.max_bytes)[1:]

    def _emit(self, ends: np.ndarray) -> list[bytes]:
        edges = [self._done, *ends.tolist()]
        words = [self._kept[a:b] for a, b in pairwise(edges)]
        self._done = edges[-1]
        return words


def cut_long(data: bytes, starts: np.ndarray, end: int, limit: int) -> np.ndarray:
    """Word starts with those added that cut the words of ``data[:end]`` to ``limit`` bytes."""
    lengths = np.diff(starts, append=end)
    long = np.flatnonzero(lengths > limit)
    if not len(long):
        return starts
    extra: list[int] = []
    for start, length in zip(starts[long].tolist(), lengths[long].tolist(), strict=True):
        at, stop = start, start + length
        while stop - at > limit:
            cut = at + limit
            while cut > at and data[cut] & 0xC0 == 0x80 and cut > at + limit - 4:
                cut -= 1
            at = cut if cut > at and data[cut] & 0xC0 != 0x80 else at + limit
            extra.append(at)
    return np.sort(np.concatenate([starts, np.array(extra, dtype=np.int64)]))


def whole_characters(data: bytes) -> int:
    """Length of ``data`` without an unfinished UTF-8 character at its end; bytes that begin no character are whole."""
    return codecs.utf_8_decode(data[-3:], "surrogateescape", False)[1] + max(0, len(data) - 3) if data else 0


def code_points(data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Characters of bytes; a byte that is not UTF-8 counts as a character of its own, a lone surrogate.

    Returns:
        Code points, and the byte offset of each and of the end, int64 ``[n + 1]``; None where every character is one byte.
    """
    if data.isascii():
        return np.frombuffer(data, dtype=np.uint8), None
    text = data.decode("utf-8", "surrogateescape")
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    escaped = points - 0xD800 < 0x800  # wraps around below
    lengths = 1 + (points > 0x7F).view(np.int8) + (points > 0x7FF) + (points > 0xFFFF) - 2 * escaped.view(np.int8)
    return points, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
