"""Unicode properties that word segmentation reads, as one small number per code point.

Unicode Standard Annex #29 (Word_Break), Unicode 16.0: the version of the published HAT splitter (0.1.10). The table is
pinned, so that words do not change with the installed packages.

``python -m tokenizers_mm.text.segmenters.unicode_data`` writes it anew with the installed ``regex`` (2024.11.6 holds Unicode
16.0).
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("word_break.npz")
WORD_BREAK = (
    "Other",
    "CR",
    "LF",
    "Newline",
    "Extend",
    "Format",
    "ZWJ",
    "WSegSpace",
    "ALetter",
    "Hebrew_Letter",
    "Numeric",
    "Katakana",
    "ExtendNumLet",
    "MidLetter",
    "MidNum",
    "MidNumLet",
    "Single_Quote",
    "Double_Quote",
    "Regional_Indicator",
)
FLAGS = ("P", "Ll", "Lu", "White_Space", "Extended_Pictographic")
_CODE_POINTS = sys.maxunicode + 1
_SHIFT = 5  # bits of the word-break class, below the flags


@dataclass(frozen=True)
class Kinds:
    """Code points that segmentation cannot tell apart, grouped.

    Args:
        of: Kind of each code point, uint8 ``[0x110000]``.
        word_break: Index into :data:`WORD_BREAK` of each kind.
        flags: Bool ``[kinds]`` for each name of :data:`FLAGS`.
    """

    of: np.ndarray
    word_break: np.ndarray
    flags: dict[str, np.ndarray]

    def is_a(self, *names: str) -> np.ndarray:
        """Which kinds are of one of these word-break classes, bool ``[kinds]``."""
        return np.isin(self.word_break, [WORD_BREAK.index(name) for name in names])


@functools.cache
def kinds() -> Kinds:
    """The table, read once; U+0020 has a kind of its own, the last one."""
    with np.load(FILE, allow_pickle=False) as file:
        lengths, values = file["lengths"], file["values"]
    distinct, runs = np.unique(values, return_inverse=True)
    of = np.repeat(runs.astype(np.uint8), lengths)
    of[ord(" ")] = len(distinct)
    values = np.append(distinct, values[np.searchsorted(np.cumsum(lengths), ord(" "), side="right")])
    flags = {name: (values >> (_SHIFT + bit) & 1).astype(bool) for bit, name in enumerate(FLAGS)}
    return Kinds(of, values & (1 << _SHIFT) - 1, flags)


def write(path: Path = FILE) -> None:
    """Write the table: runs of equal code points, their lengths and values."""
    import regex

    points = [chr(c) if not 0xD800 <= c < 0xE000 else "\0" for c in range(_CODE_POINTS)]
    text, values = "".join(points), np.zeros(_CODE_POINTS, dtype=np.uint16)

    def mark(pattern: str, value: int) -> None:
        for match in regex.finditer(f"{pattern}+", text):
            values[match.start() : match.end()] |= value

    for number, name in enumerate(WORD_BREAK[1:], start=1):
        mark(rf"\p{{WB={name}}}", number)
    for bit, name in enumerate(FLAGS):
        mark(rf"\p{{{name}}}", 1 << (_SHIFT + bit))
    starts = np.flatnonzero(np.diff(values, prepend=values[0] + 1))
    lengths = np.diff(starts, append=_CODE_POINTS)
    np.savez_compressed(path, lengths=lengths.astype(np.uint32), values=values[starts])


if __name__ == "__main__":
    write()
