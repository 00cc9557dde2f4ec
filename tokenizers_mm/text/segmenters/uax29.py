"""The words of HAT: Unicode word bounds, cut after punctuation and at camelCase, joined with the space before and marks after.

The splitter of "Hierarchical Autoregressive Transformers" (Neitemeier et al., ICLR 2025, appendix C) as the package hat-splitter
0.1.10 has it, over Unicode Standard Annex #29. Ours works on arrays of characters, takes bytes that are not UTF-8, and streams.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from tokenizers_mm.text.segmenters.base import Segmenter, code_points, whole_characters
from tokenizers_mm.text.segmenters.unicode_data import kinds

_BLOCK = 1 << 15  # bytes segmented at a time: what the processor's cache holds
_JOIN, _BREAK, _IF_NEXT, _IF_BEFORE, _PAIRS = range(5)  # verdicts on two neighbours
_OTHER = 0  # kind of characters without any property
_CONTEXT, _BACK = 8, 64  # characters, in so many bytes, that tell of a long word what there is to know
_FRACTION_SLASH = "\u2044".encode()
_LETTERS = ("ALetter", "Hebrew_Letter")
_SPACE, _WHITE, _PUNCTUATION, _WORD = range(4)  # sorts of pieces


class UAX29(Segmenter):
    """HAT's splitter: ``"Hello, world!"`` is ``"Hello,"``, ``" world!"``.

    Args:
        max_bytes: Longest word (see :class:`Segmenter`); the published models have 100.
    """

    def __init__(self, max_bytes: int | None = 100) -> None:
        super().__init__(max_bytes)

    def word_starts(self, data: bytes) -> np.ndarray:
        parts, at = [], 0
        while at < len(data):
            end = at + _BLOCK
            line = data.rfind(b"\n", at, end) + 1 or data.find(b"\n", end) + 1 if end < len(data) else 0
            end = line or len(data)  # words never cross the end of a line
            parts.append(_groups(data[at:end]) + at)
            at = end
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def settled(self, data: bytes) -> tuple[np.ndarray, int]:
        reach = whole_characters(data)
        data = data[:reach]
        starts = self.word_starts(data)
        if len(starts) < 2:
            return starts, reach
        before, last = data[int(starts[-2]) : int(starts[-1])], data[int(starts[-1]) :]
        # A mark would make white space a word, which joins the space before; a digit joins a fraction slash to the number before.
        waits = (before == b" " and last.decode("utf-8", "surrogateescape").isspace()) or _is_slash(last)
        return (starts[:-1], int(starts[-1])) if waits else (starts, reach)

    def restart(self, data: bytes, starts: np.ndarray) -> int:
        ignored = _tables().ignored
        for start in starts[::-1].tolist():
            first = code_points(data[start : start + 4])[0][:1]
            if start == 0 or (len(first) and not ignored[kinds().of[first[0]]]):
                return start
        return 0

    def context(self, data: bytes, at: int) -> int:
        before = data[max(0, at - _BACK) : at]
        while before and before[0] & 0xC0 == 0x80:  # the rest of a character
            before = before[1:]
        points, offsets = code_points(before)
        base = np.flatnonzero(~_tables().ignored[kinds().of[points]])
        if len(base) < _CONTEXT:
            return 0
        first = int(base[-_CONTEXT])
        return at - len(before) + (first if offsets is None else int(offsets[first]))


@dataclass(frozen=True)
class _Tables:
    """What the rules say of two neighbours, by their kinds, flattened ``[kinds * kinds]``, and what kinds are."""

    rules: np.ndarray  # verdicts of UAX #29 alone
    cuts: np.ndarray  # bool: HAT's own cuts
    fused: np.ndarray  # both, where nothing is ignored between characters
    ignored: np.ndarray
    newline: np.ndarray
    sort: np.ndarray  # of a piece of one character
    joins: np.ndarray  # bool, by sorts


@functools.cache
def _tables() -> _Tables:
    k = kinds()
    n, is_a = len(k.word_break), k.is_a
    verdict = np.full((n, n), _BREAK, dtype=np.uint8)

    def rule(before: np.ndarray, after: np.ndarray, what: int) -> None:
        verdict[np.ix_(before, after)] = what

    letter, number, tail = is_a(*_LETTERS), is_a("Numeric"), is_a("ExtendNumLet")
    katakana, hebrew = is_a("Katakana"), is_a("Hebrew_Letter")
    middle_letter = is_a("MidLetter", "MidNumLet", "Single_Quote")
    middle_number = is_a("MidNum", "MidNumLet", "Single_Quote")
    rule(is_a("CR"), is_a("LF"), _JOIN)  # WB3
    rule(is_a("WSegSpace"), is_a("WSegSpace"), _JOIN)  # WB3d
    rule(letter, letter, _JOIN)  # WB5
    rule(letter, middle_letter, _IF_NEXT)  # WB6
    rule(middle_letter, letter, _IF_BEFORE)  # WB7
    rule(hebrew, is_a("Single_Quote"), _JOIN)  # WB7a
    rule(hebrew, is_a("Double_Quote"), _IF_NEXT)  # WB7b
    rule(is_a("Double_Quote"), hebrew, _IF_BEFORE)  # WB7c
    rule(letter | number, letter | number, _JOIN)  # WB8 to WB10
    rule(middle_number, number, _IF_BEFORE)  # WB11
    rule(number, middle_number, _IF_NEXT)  # WB12
    rule(katakana, katakana, _JOIN)  # WB13
    rule(letter | number | katakana | tail, tail, _JOIN)  # WB13a
    rule(tail, letter | number | katakana, _JOIN)  # WB13b
    rule(is_a("Regional_Indicator"), is_a("Regional_Indicator"), _PAIRS)  # WB15, WB16
    punctuation, white = k.flags["P"], k.flags["White_Space"]
    cuts = punctuation[:, None] | (k.flags["Ll"][:, None] & k.flags["Lu"][None])
    # Whether a mark belongs to the word before it is all the same, as it is cut off and joined again.
    fused = np.where(cuts | ((verdict == _IF_NEXT) & punctuation[None]), _BREAK, verdict).astype(np.uint8)
    sort = np.select([punctuation, white], [_PUNCTUATION, _WHITE], _WORD).astype(np.uint8)
    sort[-1] = _SPACE
    joins = np.zeros((4, 4), dtype=bool)
    joins[[_SPACE, _SPACE, _WORD, _PUNCTUATION], [_WORD, _PUNCTUATION, _PUNCTUATION, _PUNCTUATION]] = True
    return _Tables(
        verdict.ravel(),
        cuts.ravel(),
        fused.ravel(),
        is_a("Extend", "Format", "ZWJ"),
        is_a("CR", "LF", "Newline"),
        sort,
        joins.ravel(),
    )


def _groups(data: bytes) -> np.ndarray:
    """Byte offsets of the words of a block that begins and ends with whole words."""
    points, offsets = code_points(data)
    kind = kinds().of[points]
    pieces = np.flatnonzero(_breaks(kind))
    sort = _sorts(kind, pieces)
    together = _tables().joins[(sort[:-1] << 2) | sort[1:]]
    words = np.concatenate([pieces[:1], pieces[1:][~together]])
    return words if offsets is None else offsets[words]


def _sorts(kind: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Sort of each piece that starts at ``pieces``: white space is what begins and ends with it."""
    t = _tables()
    sort = t.sort[kind[pieces]]
    ends = np.append(pieces[1:], len(kind))
    longer = np.flatnonzero((ends - pieces > 1) & (sort != _WORD))
    white_end = kinds().flags["White_Space"][kind[ends[longer] - 1]]
    sort[longer] = np.where(white_end, _WHITE, _WORD)  # a longer piece never begins with punctuation
    return sort


def _breaks(kind: np.ndarray) -> np.ndarray:
    """Whether a piece starts at each character, bool ``[n]``."""
    t, n = _tables(), len(kinds().word_break)
    ignored = t.ignored[kind]
    pairs = kind[:-1].astype(np.uint16) * n + kind[1:]
    out = np.ones(len(kind), dtype=bool)
    if not ignored.any():
        out[1:] = _decide(t.fused[pairs], kind)
        return out
    ignored[1:] &= ~t.newline[kind[:-1]]  # WB4: marks belong to what they follow
    ignored[0] = False
    joined = np.zeros(len(kind), dtype=bool)
    joined[1:] = kinds().is_a("ZWJ")[kind[:-1]] & kinds().flags["Extended_Pictographic"][kind[1:]]  # WB3c
    base = np.flatnonzero(~ignored)
    of_base = np.where(joined, _OTHER, kind)[
        base
    ]  # a joined pictograph that is a letter too is none here, as published
    verdict = t.rules[of_base[:-1].astype(np.uint16) * n + of_base[1:]]
    spaces = kinds().is_a("WSegSpace")
    apart = np.diff(base) > 1
    verdict[apart & spaces[of_base[:-1]]] = _BREAK  # WB3d needs neighbours
    starts = np.zeros(len(kind), dtype=bool)
    starts[base[1:]] = _decide(verdict, of_base)
    out[1:] = (starts & ~joined)[1:] | t.cuts[pairs]
    return out


def _decide(verdict: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Whether there is a break between neighbours, bool ``[n - 1]``, from verdicts on them."""
    out = verdict != _JOIN
    open_ = np.flatnonzero(verdict > _BREAK)
    if not len(open_):
        return out
    what = verdict[open_]
    for kind_of_rule, before, other in ((_IF_NEXT, 0, 2), (_IF_BEFORE, 1, -1)):
        at = open_[what == kind_of_rule]
        outer = at + other
        inside = (outer >= 0) & (outer < len(kind))
        mark, known, beyond = kind[at + 1 - before], kind[at + before], kind[outer.clip(0, len(kind) - 1)]
        out[at] = ~(inside & _alike(mark, known, beyond))
    pairs = open_[what == _PAIRS]
    if len(pairs):
        fresh = np.flatnonzero(np.diff(pairs, prepend=-2) > 1)
        rank = np.arange(len(pairs)) - np.repeat(fresh, np.diff(fresh, append=len(pairs)))
        out[pairs] = rank % 2 == 1
    return out


def _alike(mark: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Whether two letters (Hebrew ones around a double quote), or two numbers, stand on both sides of a mark."""
    k = kinds()
    hebrew, letters, numbers = k.is_a("Hebrew_Letter"), k.is_a(*_LETTERS), k.is_a("Numeric")
    words = np.where(k.is_a("Double_Quote")[mark], hebrew[inner] & hebrew[outer], letters[inner] & letters[outer])
    return words | (numbers[inner] & numbers[outer])


def _is_slash(word: bytes) -> bool:
    """Whether a word is the one mark within numbers that is no punctuation, U+2044, and what is ignored after it."""
    if not word.startswith(_FRACTION_SLASH):
        return False
    return bool(_tables().ignored[kinds().of[code_points(word)[0][1:]]].all())
