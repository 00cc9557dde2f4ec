"""Texts as rows of bytes, and where their words and documents are: what every language model of this wing reads.

A row holds one document or several, with a step of -1 between two and after the last; none sees another. Byte values that UTF-8
never has are free for marks, as in "Hierarchical Autoregressive Transformers" (Neitemeier et al., ICLR 2025).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.text.segmenters import Segmenter
from tokenizers_mm.text.segmenters.base import whole_characters
from tokenizers_mm.text.segmenters.uax29 import UAX29
from tokenizers_mm.text.segmenters.unicode_data import kinds

PAD = -1
END, WORD, START = 0xC0, 0xC1, 0xF5
"""Marks: of a document's end, of a word's, of a document's beginning."""
MARKS = re.compile(rb"[\xc0\xc1\xf5-\xff]")
"""Bytes that are marks; each is a word by itself."""

SIZES = (4, 6, 8, 12, 16, 24, 32, 64, 128)
"""Words are padded up to one of these lengths, longer ones to a power of two, and run with those of the same."""

Cut = Callable[[bytes], np.ndarray]
"""From bytes without marks to the starts of words."""


@dataclass(frozen=True)
class Rows:
    """Rows of bytes with their words.

    Args:
        ids: Bytes, int64 ``[B, L]``, 0 where there is none.
        valid: Whether there is one, bool ``[B, L]``.
        document: Number of its document in the row, ``[B, L]``; -1 where there is no byte.
        position: Place in the document, ``[B, L]``.
        word: Number of its word in the row, ``[B, L]``.
        guide: Number of the word whose guide a byte has, ``[B, L]``: its own, or the one before
            where the byte does not tell yet that a word begins.
        starts: First byte of each word in the row, ``[B, W]``.
        lengths: Bytes of each word, ``[B, W]``; 0 for padding.
        word_document: Number of its document, ``[B, W]``; -1 for padding.
        word_position: Place of the word in its document, ``[B, W]``.
    """

    ids: Tensor
    valid: Tensor
    document: Tensor
    position: Tensor
    word: Tensor
    guide: Tensor
    starts: Tensor
    lengths: Tensor
    word_document: Tensor
    word_position: Tensor

    @classmethod
    def of(cls, signal: Tensor, cut: Cut, *, strict: bool = False) -> Rows:
        """Rows of ``signal [B, L]``, int64, -1 between and after documents.

        Args:
            signal: The bytes.
            cut: Word starts of bytes without marks, such as :meth:`Segmenter.boundaries`.
            strict: A guide must not tell more than the bytes so far: the first character of a word has it from its last byte on.
        """
        rows = [_row(row, cut, strict) for row in signal.cpu().numpy()]
        words = max(max(len(row["starts"]) for row in rows), 1)
        for row in rows:
            for name, fill in (("starts", 0), ("lengths", 0), ("word_document", -1), ("word_position", 0)):
                row[name] = np.pad(row[name], (0, words - len(row[name])), constant_values=fill)
        names = [field.name for field in fields(cls)]
        return cls(
            **{name: torch.from_numpy(np.stack([row[name] for row in rows])).to(signal.device) for name in names}
        )

    def buckets(self) -> Iterator[Bucket]:
        """All words, those of about the same length together."""
        lengths, starts = self.lengths.flatten(), self.starts.flatten()
        row = torch.arange(len(self.ids), device=lengths.device).repeat_interleave(self.lengths.shape[1])
        begin = row * self.ids.shape[1] + starts
        low, longest = 0, int(lengths.max())
        sizes = [*SIZES]
        while sizes[-1] < longest:
            sizes.append(2 * sizes[-1])
        for size in sizes:
            words = torch.nonzero((lengths > low) & (lengths <= size)).flatten()
            low = size
            if len(words):
                place = torch.arange(size, device=words.device)
                inside = place < lengths[words, None]
                yield Bucket(words, (begin[words, None] + place).where(inside, begin[words, None]), inside)


@dataclass(frozen=True)
class Bucket:
    """Words of about the same length.

    Args:
        words: Their numbers among all ``B * W``, ``[n]``.
        index: Of their bytes among all ``B * L``, ``[n, S]``; for padding that of the first.
        inside: What is no padding, bool ``[n, S]``.
    """

    words: Tensor
    index: Tensor
    inside: Tensor


def _row(signal: np.ndarray, cut: Cut, strict: bool) -> dict[str, np.ndarray]:
    valid = signal >= 0
    ids = np.where(valid, signal, 0)
    fresh = valid & ~np.concatenate([[False], valid[:-1]])  # a document begins
    document = np.where(valid, np.cumsum(fresh) - 1, -1)
    begins = np.flatnonzero(fresh)
    ends = np.flatnonzero(valid & ~np.concatenate([valid[1:], [False]])) + 1
    position, guide_lag = np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=np.int64)
    starts, owner, place = [], [], []
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        data = ids[begin:end].astype(np.uint8).tobytes()
        found = word_starts(data, cut)
        position[begin:end] = np.arange(end - begin)
        if strict:
            guide_lag[begin:end] = unknown(data, found)
        starts.append(found + begin)
        owner.append(np.full(len(found), number))
        place.append(np.arange(len(found)))
    first = np.concatenate(starts) if starts else np.zeros(0, dtype=np.int64)
    marks = np.zeros(len(ids), dtype=np.int64)
    marks[first] = 1
    word = np.maximum(np.cumsum(marks) - 1, 0)
    lengths = np.bincount(word[valid], minlength=len(first))
    none = np.zeros(0, dtype=np.int64)
    return {
        "ids": ids, "valid": valid, "document": document, "position": position, "word": word, "guide": word - guide_lag,
        "starts": first, "lengths": lengths, "word_document": np.concatenate([none, *owner]),
        "word_position": np.concatenate([none, *place]),
    }  # fmt: skip


def word_starts(data: bytes, cut: Cut) -> np.ndarray:
    """Word starts of bytes with marks, each of which is a word."""
    found, at = [np.zeros(0, dtype=np.int64)], 0
    for mark in (match.start() for match in MARKS.finditer(data)):
        found += [cut(data[at:mark]) + at if mark > at else found[0], np.array([mark])]
        at = mark + 1
    return np.concatenate([*found, cut(data[at:]) + at] if at < len(data) else found)


def words_of(data: bytes, cut: Cut) -> list[bytes]:
    """The words of bytes with marks."""
    starts = word_starts(data, cut).tolist()
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=False)]


def unknown(data: bytes, starts: np.ndarray) -> np.ndarray:
    """Which bytes begin a word without telling so: all but the last of its first character, 1 or 0 each."""
    values = np.frombuffer(data, dtype=np.uint8)
    out = np.zeros(len(data), dtype=np.int64)
    for ahead in range(3):  # the lead byte and up to two more have a continuation after them
        at = starts[starts + ahead < len(data)] + ahead
        lead = values[at - ahead]
        length = 1 + (lead >= 0xC2).astype(int) + (lead >= 0xE0) + (lead >= 0xF0)
        out[at[(lead < 0xF5) & (length > ahead + 1) & (at - ahead > 0)]] = 1
    return out


def cutter(segmenter: Segmenter, *, strict: bool = False) -> Cut:
    """Word starts by a segmenter, as they are known at the end of the bytes: an unfinished character opens no word.

    Args:
        segmenter: Whose words.
        strict: Borders that a later combining mark would undo stay.
    """

    def cut(data: bytes) -> np.ndarray:
        whole = whole_characters(data)
        if whole < len(data):
            whole = max(whole, segmenter.settled(data)[1])  # some don't care for characters
        starts = segmenter.boundaries(data[:whole])
        if strict and isinstance(segmenter, UAX29) and _may_undo(data[:whole]):
            starts = _as_they_come(data[:whole], segmenter)
        return starts if len(starts) or not data else np.zeros(1, dtype=np.int64)

    return cut


def _may_undo(data: bytes) -> bool:
    """Whether a character that joins what is before it stands after white space, or a fraction slash is there."""
    if data.isascii():
        return False
    text = data.decode("utf-8", "surrogateescape")
    kind = kinds().of[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")]
    joins = kinds().is_a("Extend", "Format", "ZWJ")[kind]
    return bool((joins[1:] & kinds().flags["White_Space"][kind[:-1]]).any()) or "\u2044" in text


def _as_they_come(data: bytes, segmenter: Segmenter) -> np.ndarray:
    """Word starts when the open word alone is split anew with every character."""
    starts, at = [0], 0
    for character in data.decode("utf-8", "surrogateescape"):
        at += len(character.encode("utf-8", "surrogateescape"))
        starts += [starts[-1] + int(start) for start in segmenter.boundaries(data[starts[-1] : at])[1:]]
    return np.array(starts, dtype=np.int64)


def signal_of(texts: Sequence[str | bytes], *, end: bool = True) -> Tensor:
    """A row for each text, int64 ``[B, L]``, padded with -1; ``end`` adds the mark of a document's end.

    Raises:
        ValueError: If bytes hold a mark.
    """
    rows = [text.encode("utf-8") if isinstance(text, str) else text for text in texts]
    for row in rows:
        if found := MARKS.search(row):
            raise ValueError(f"texts must be UTF-8, got the byte {found[0][0]:#04x} at {found.start()}")
    rows = [row + bytes([END]) * end for row in rows]
    out = torch.full((len(rows), max([1, *map(len, rows)])), PAD, dtype=torch.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(list(row), dtype=torch.int64)
    return out


def pieces(data: bytes, limit: int) -> Iterator[bytes]:
    """Pieces of at most ``limit`` bytes, cut after lines where there are any, else after characters."""
    at = 0
    while at < len(data):
        end = min(at + limit, len(data))
        if end < len(data):
            line = data.rfind(b"\n", at, end) + 1
            while not line and end > at + 1 and data[end] & 0xC0 == 0x80:
                end -= 1
            end = line or end
        yield data[at:end]
        at = end
