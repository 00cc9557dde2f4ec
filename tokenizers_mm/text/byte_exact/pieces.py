"""Canonical encodings of tokenizers that first cut a text into pieces: byte-level ones of ``tokenizers``, and ``tiktoken``.

Where a text breaks off, its last piece is open: what it becomes depends on what follows, inside a character even on what that
character will be. So an unfinished character is read as one of each class that the cutting pattern can tell apart, and a run of
spaces as what stands before a letter, a digit, a mark or a line's end.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from tokenizers_mm.text.byte_exact.bpe import MergeRows
from tokenizers_mm.text.byte_exact.canonical import Canonical, Ids
from tokenizers_mm.text.segmenters.base import whole_characters

Cut = Callable[[str], list[int]]
_CONTRACTIONS = {"'r": "e", "'v": "e", "'l": "l"}  # what the patterns of GPT-2 and after it cut off once it is whole
_AFTER_SPACE = "a1.\n"  # the last of a run of spaces may belong to what follows
_CATEGORIES = ("L", "M", "N", "P", "S", "Z", "C", *(a + b for a in "LMNPSZC" for b in "abcdefiklmnopstu"))
_PRIVATE = 0xE000
_REMEMBERED = 128  # shapes of open ends
_STRAY = "\ufffd"  # stands for a byte that is no character: like it, neither letter nor digit nor space


class PieceModel(ABC):
    """What a tokenizer does with one piece."""

    @abstractmethod
    def encode(self, piece: bytes) -> Ids:
        """Tokens of a whole piece."""

    @abstractmethod
    def row(self, left: Ids) -> np.ndarray:
        """Which tokens may follow ``left`` at the start of a piece that goes on, bool ``[V]``."""


class AnyModel(PieceModel):
    """A model known by its function alone."""

    def __init__(self, tokens: Sequence[bytes], encode: Callable[[bytes], Sequence[int]]) -> None:
        self.tokens, self._encode = tokens, encode

    def encode(self, piece: bytes) -> Ids:
        return tuple(self._encode(piece))

    def row(self, left: Ids) -> np.ndarray:
        data = b"".join([self.tokens[i] for i in left])
        return np.array([bool(t) and self.encode(data + t) == (*left, i) for i, t in enumerate(self.tokens)])


class MergeModel(PieceModel):
    """Byte-pair encoding known by its merges; with ``whole``, a piece that is a token is that token, whatever the merges say."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        encode: Callable[[bytes], Sequence[int]],
        merges: Sequence[tuple[int, int, int]],
        whole: bool = False,
    ) -> None:
        self._encode, self._rows = encode, MergeRows(merges, len(tokens))
        single = {merged for _, _, merged in merges} | {i for i, token in enumerate(tokens) if len(token) == 1}
        self._made = np.array([bool(token) and i in single for i, token in enumerate(tokens)])
        self._first = np.array([bool(token) for token in tokens]) if whole else self._made
        self._row = functools.lru_cache(maxsize=1024)(lambda left: self._rows.row(left) & self._made)

    def encode(self, piece: bytes) -> Ids:
        return tuple(self._encode(piece))

    def row(self, left: Ids) -> np.ndarray:
        if not left:
            return self._first
        return self._row(left[-1]) if self._made[left[-1]] else np.zeros_like(self._made)


class Pieces(Canonical):
    """A tokenizer that cuts text and encodes each piece.

    Args:
        tokens: Bytes of each id; empty for ids that text never gives.
        model: Of a piece.
        cut: Where pieces of a string start, without 0; None where all of a text is one piece.
        classes: Which characters the cutting cannot tell apart (see :func:`classes_of`).
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        model: PieceModel,
        cut: Cut | None = None,
        classes: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(tokens)
        self.model, self._cut, self._classes = model, cut, classes
        self._class = functools.lru_cache(maxsize=2**16)(classes) if classes is not None else None
        self._cuts: dict[str, list[int]] = {}
        self._known: dict[object, dict[Ids, np.ndarray]] = {}
        self._whole = self._group() if cut is not None else {}

    def pieces(self, text: str) -> int:
        """Into how many pieces a string is cut."""
        return 1 if self._cut is None else len(self._cut_text(text)) + 1

    def split(self, text: str) -> list[str]:
        """The pieces of a string."""
        cuts = [] if self._cut is None else self._cut(text)
        return [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]

    def encodings(self, data: bytes) -> list[Ids]:
        if not data:
            return [()]
        found: dict[Ids, None] = {}
        for cuts in self._places(data):
            parts = [self.model.encode(data[a:b]) for a, b in pairwise([*cuts, len(data)])]
            found[tuple(itertools.chain.from_iterable(parts))] = None
        return [ids for ids in found if self.bytes_of(ids) == data]

    def _follows(self, left: Ids) -> np.ndarray:
        data, mask = self.bytes_of(left), np.zeros(len(self.tokens), dtype=bool)
        if self._cut is None:
            return self.model.row(left)
        ends = [0, *itertools.accumulate(len(self.tokens[i]) for i in left)]
        for cuts, which in self._groups(data).items():
            at = [ends.index(cut) if cut in ends else -1 for cut in cuts]
            if -1 in at:
                continue
            closed = all(self.model.encode(data[ends[a] : ends[b]]) == left[a:b] for a, b in pairwise(at))
            if closed:
                mask[which] |= self.model.row(left[at[-1] :])[which]
        return mask

    def _groups(self, data: bytes) -> dict[Ids, np.ndarray]:
        """Where pieces start in ``data`` when a token follows, to the tokens that make it so; not those that a cut splits."""
        text, offsets = _strays(data)
        if self._classes is None or whole_characters(data) < len(data) or _STRAY in text:
            return self._grouped(data)
        key = self._signature(text), text[-2:].lower() in _CONTRACTIONS
        edges = [*offsets, len(data)]
        if key not in self._known:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            found = self._grouped(data)
            self._known[key] = {tuple(edges.index(cut) for cut in cuts): which for cuts, which in found.items()}
        return {tuple(edges[at] for at in cuts): which for cuts, which in self._known[key].items()}

    def _grouped(self, data: bytes) -> dict[Ids, np.ndarray]:
        groups: dict[Ids, list[int]] = {}
        shared = self._whole if whole_characters(data) == len(data) else {}
        done = set(itertools.chain.from_iterable(shared.values()))
        alone = [(token, [i]) for i, token in enumerate(self.tokens) if token and i not in done]
        for token, ids in itertools.chain(shared.items(), alone):
            for cuts in self._places(data + token):
                if cuts[-1] <= len(data):
                    groups.setdefault(tuple(cuts), []).extend(ids)
        return {cuts: np.array(ids) for cuts, ids in groups.items()}

    def _group(self) -> dict[bytes, list[int]]:
        """Tokens of whole characters that the cutting cannot tell apart, by one of them."""
        found: dict[str, tuple[bytes, list[int]]] = {}
        for i, token in enumerate(self.tokens):
            try:
                text = token.decode("utf-8")
            except UnicodeDecodeError:
                continue
            if token and text[-2:].lower() not in _CONTRACTIONS:
                found.setdefault(self._signature(text), (token, []))[1].append(i)
        return dict(found.values())

    def _places(self, data: bytes) -> list[list[int]]:
        """Where pieces of ``data`` may start, 0 first: one list for each way of reading its end."""
        if self._cut is None:
            return [[0]]
        found: dict[Ids, list[int]] = {}
        for text, offsets in self._readings(data):
            cuts = [0] + [at for at in (offsets[c] for c in self._cut_text(text)) if at < len(data)]
            found.setdefault(tuple(cuts), cuts)
        return list(found.values())

    def _readings(self, data: bytes) -> list[tuple[str, list[int]]]:
        """Strings that begin with ``data``, and the byte offset of each character."""
        text, offsets = _strays(data)
        found = [(text, offsets)]
        if rest := data[whole_characters(data) :]:
            at = len(text) - len(rest)
            found += [(text[:at] + c, offsets[: at + 1]) for c in _completions(rest, self._classes)]
        for start, begins in list(found):
            more = _AFTER_SPACE if start[-1:].isspace() else _CONTRACTIONS.get(start[-2:].lower(), "")
            found += [(start + c, [*begins, len(data)]) for c in more]
        return found

    def _cut_text(self, text: str) -> list[int]:
        key = self._signature(text)
        if key not in self._cuts:
            assert self._cut is not None
            if len(self._cuts) > 2**18:
                self._cuts.clear()
            self._cuts[key] = self._cut(text)
        return self._cuts[key]

    def _signature(self, text: str) -> str:
        return text if self._class is None else "".join(map(self._class, text))


def classes_of(pattern: str) -> Callable[[str], str] | None:
    """Characters to what a regular expression can tell them apart by; None where it uses more than categories and single ones.

    Args:
        pattern: Made of ``\\p{L}`` and its like, ``\\s``, ``\\S`` and single characters.
    """
    names = re.findall(r"\\[pP]\{\^?(\w+)\}", pattern)
    rest = re.sub(r"\\[pP]\{\^?\w+\}|\\[sSrnt]|\\(?=[^\w])|\(\?[:!=i]+|\{[\d,]+\}", "", pattern)
    if any(len(name) > 2 for name in names) or "\\" in rest or re.search(r"\[[^\]]*[^\[^]-[^\]]", rest):
        return None
    width = max(map(len, names), default=1)
    literal = {c.lower() for c in rest} | set("\r\n\t ")

    def kind(c: str) -> str:
        category = unicodedata.category(c)
        if c.lower() in literal or c.casefold() in literal or category == "Cn":  # another Unicode may know those of Cn
            return c
        return chr(_PRIVATE + 2 * _CATEGORIES.index(category[:width]) + c.isspace())

    return kind


def _strays(data: bytes) -> tuple[str, list[int]]:
    """Text of bytes, with :data:`_STRAY` for those that are no character, and the byte offset of each character."""
    text = data.decode("utf-8", "surrogateescape")
    sizes = [1 if c < "\x80" or "\ud800" <= c <= "\udfff" else len(c.encode()) for c in text]
    if any("\ud800" <= c <= "\udfff" for c in text):
        text = "".join(_STRAY if "\ud800" <= c <= "\udfff" else c for c in text)
    return text, list(itertools.accumulate(sizes, initial=0))[:-1]


@functools.lru_cache(maxsize=4096)
def _completions(start: bytes, classes: Callable[[str], str] | None) -> tuple[str, ...]:
    """Characters whose UTF-8 begins with ``start``, one of each class."""
    lead, size = start[0], 2 if start[0] < 0xE0 else 3 if start[0] < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4:
        return ()
    more = 6 * (size - len(start))
    value = lead & (0x7F >> size)
    for byte in start[1:]:
        value = value << 6 | byte & 0x3F
    lowest = {2: 0x80, 3: 0x800, 4: 0x10000}[size]
    points = range(max(value << more, lowest), min((value + 1) << more, 0x110000))
    found: dict[str, str] = {}
    for point in points:
        if not 0xD800 <= point < 0xE000:
            c = chr(point)
            category = unicodedata.category(c)
            key = category if classes is None or category == "Cn" else classes(c)
            found.setdefault(key + str(c.isspace()), c)
    return tuple(found.values())
