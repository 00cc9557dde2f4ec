"""Merging of neighbouring tokens within a batch: byte-pair encoding of the batch itself, on top of a tokenizer's tokens.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025. Theirs counts all pairs
anew for each merge; here pairs keep their positions, so that a batch of N tokens costs O(N log N), with the same result, ties
included.
"""

from __future__ import annotations

import heapq
import string
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

Boundary = Literal["pretokens", "word", "word_hyphen", "sentence"]
_WHITE = frozenset(b" \n\t")


class Rule:
    """Which tokens may merge.

    Args:
        boundary: ``"pretokens"``, within what the tokenizer cuts text into; ``"word"``, within white space; ``"word_hyphen"``, as
            that, but a mark joins what is before it only if it is a hyphen; ``"sentence"``, whatever white space allows. None
            crosses white space.
        pieces: Into how many pieces the tokenizer cuts a string; for ``"pretokens"``.
        max_bytes: Of a merged token; None for no limit.

    Raises:
        ValueError: If the boundary is unknown or lacks ``pieces``, or the limit is below two.
    """

    def __init__(
        self, boundary: Boundary = "pretokens", pieces: Callable[[str], int] | None = None, max_bytes: int | None = None
    ) -> None:
        if boundary not in get_args(Boundary):
            raise ValueError(f"boundary must be one of {get_args(Boundary)}, got {boundary!r}")
        if boundary == "pretokens" and pieces is None:
            raise ValueError("boundary 'pretokens' needs pieces, what the tokenizer cuts a string into")
        if max_bytes is not None and max_bytes < 2:
            raise ValueError(f"max_bytes must be at least 2 or None, got {max_bytes}")
        self.boundary, self.pieces, self.max_bytes = boundary, pieces, max_bytes

    def allows(self, left: bytes, right: bytes) -> bool:
        """Whether two tokens, neither of them special, may become one."""
        joined = left + right
        if self.max_bytes is not None and len(joined) > self.max_bytes:
            return False
        if joined == b"\n\n" or (not _WHITE.isdisjoint(joined[1:]) and not _WHITE.issuperset(joined)):
            return False
        if self.boundary == "sentence":
            return True
        try:
            text = joined.decode("utf-8")
        except UnicodeDecodeError:
            return True  # part of a character
        if self.boundary == "pretokens":
            assert self.pieces is not None
            return self.pieces(text) == 1
        if len(text.split()) != 1:
            return False
        marks = self.boundary == "word_hyphen" and not _is_mark(left) and _is_mark(right)
        return not marks or right == b"-"


def _is_mark(token: bytes) -> bool:
    text = token.decode("utf-8", "replace").strip()
    return bool(text) and all(c in string.punctuation or unicodedata.category(c)[0] == "P" for c in text)


@dataclass(frozen=True)
class Merged:
    """A batch after merging.

    Args:
        rows: Ids of each sequence; those from the vocabulary's size on are of ``added``.
        starts: Index of the first base token of each token.
        added: Bytes of the new ids, in the order in which they came up.
        lengths: Tokens of the whole batch after 0, 1, 2, ... merges.
    """

    rows: list[list[int]]
    starts: list[list[int]]
    added: list[bytes]
    lengths: list[int]


def merge(
    rows: Sequence[Sequence[int]],
    tokens: Sequence[bytes],
    rule: Rule,
    max_merges: int | None = None,
    special: Collection[int] = (),
) -> Merged:
    """Merge the most frequent allowed pair of neighbours in a batch, again and again.

    Pairs count with their overlaps, over the whole batch; of equally frequent ones that comes first whose first occurrence does,
    row by row, from the left. Occurrences are replaced from the left.

    Args:
        rows: Ids of each sequence.
        tokens: Bytes of each id.
        rule: Which may merge.
        max_merges: At most so many pairs; None for all that there are.
        special: Ids that never merge, as those without bytes.

    Raises:
        ValueError: If an id is outside the vocabulary or the budget negative.
    """
    if max_merges is not None and max_merges < 0:
        raise ValueError(f"max_merges must be 0 or more, got {max_merges}")
    batch = _Batch(rows, tokens, rule, special)
    lengths = [batch.alive]
    while (max_merges is None or len(lengths) <= max_merges) and (pair := batch.best()) is not None:
        batch.join(pair)
        lengths.append(batch.alive)
    return batch.result(lengths)


@dataclass
class _Names:
    """Byte strings and their ids: two ways to the same bytes give the same token."""

    of: list[bytes]
    ids: dict[bytes, int]
    size: int
    allowed: dict[tuple[int, int], bool] = field(default_factory=dict)

    def joined(self, left: int, right: int) -> int:
        data = self.of[left] + self.of[right]
        if data not in self.ids:
            self.ids[data] = len(self.of)
            self.of.append(data)
        return self.ids[data]


class _Batch:
    """Sequences as linked lists of tokens, numbered in scan order, and pairs with their counts and positions.

    A pair's place in the queue may be too good, as when it lost occurrences, never too bad: it is put right when it comes up.
    """

    def __init__(
        self, rows: Sequence[Sequence[int]], tokens: Sequence[bytes], rule: Rule, special: Collection[int]
    ) -> None:
        self.rule, self.sizes = rule, [len(row) for row in rows]
        never = {i for i, token in enumerate(tokens) if not token} | set(special)
        ids = {token: i for i, token in reversed(list(enumerate(tokens))) if i not in never}
        self.names, self.never = _Names(list(tokens), ids, len(tokens)), never
        flat = (
            np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]) if rows else np.zeros(0, dtype=np.int64)
        )
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(tokens):
            raise ValueError(
                f"rows must hold ids from 0 to {len(tokens) - 1}, got {int(flat.min())} to {int(flat.max())}"
            )
        self.original = flat.tolist()
        flat = np.array([ids.get(token, i) if i not in never else i for i, token in enumerate(tokens)])[flat]
        ends = np.cumsum(self.sizes, dtype=np.int64)
        last = np.zeros(len(flat), dtype=bool)
        last[ends[np.array(self.sizes, dtype=np.int64) > 0] - 1] = True
        at = np.arange(len(flat))
        self.alive = len(flat)
        self.token: list[int] = flat.tolist()
        self.after: list[int] = np.where(last, -1, at + 1).tolist()
        self.before: list[int] = np.where(np.roll(last, 1), -1, at - 1).tolist()
        self.count: dict[tuple[int, int], int] = {}
        self.places: dict[tuple[int, int], list[int]] = {}
        self._index(flat, np.flatnonzero(~last))
        self.queue = [(-count, self.places[pair][0], pair) for pair, count in self.count.items()]
        heapq.heapify(self.queue)

    def _index(self, flat: np.ndarray, places: np.ndarray) -> None:
        """Positions of each pair of neighbours, ascending."""
        if not len(places):
            return
        code = flat[places] * len(self.names.of) + flat[places + 1]
        order = np.argsort(code, kind="stable")
        starts = np.flatnonzero(np.diff(code[order], prepend=-1))
        pairs = zip(
            (code[order[starts]] // len(self.names.of)).tolist(), flat[places[order[starts]] + 1].tolist(), strict=True
        )
        sorted_places, edges = places[order].tolist(), [*starts.tolist(), len(order)]
        for number, pair in enumerate(pairs):
            self.places[pair] = found = sorted_places[edges[number] : edges[number + 1]]
            self.count[pair] = len(found)

    def best(self) -> tuple[int, int] | None:
        """The pair to merge next."""
        while self.queue:
            count, place, pair = self.queue[0]
            if not self.count[pair] or not self._allows(pair):
                heapq.heappop(self.queue)
                continue
            found = -self.count[pair], self._first(pair)
            if found == (count, place):
                return pair
            heapq.heapreplace(self.queue, (*found, pair))
        return None

    def _allows(self, pair: tuple[int, int]) -> bool:
        known = self.names.allowed
        if pair not in known:
            left, right = pair
            special = left in self.never or right in self.never
            known[pair] = not special and self.rule.allows(self.names.of[left], self.names.of[right])
        return known[pair]

    def _is(self, place: int, pair: tuple[int, int]) -> bool:
        after = self.after[place]
        return after >= 0 and self.token[place] == pair[0] and self.token[after] == pair[1]

    def _first(self, pair: tuple[int, int]) -> int:
        places = self.places[pair]
        while not self._is(places[0], pair):
            heapq.heappop(places)
        return places[0]

    def join(self, pair: tuple[int, int]) -> None:
        """Replace all occurrences of a pair."""
        new = self.names.joined(*pair)
        changed: dict[tuple[int, int], int] = {}  # pairs that gained, and the first place where
        for place in sorted(self.places.pop(pair)):
            if not self._is(place, pair):
                continue
            gone, before = self.after[place], self.before[place]
            after = self.after[gone]
            if before >= 0:
                self._change((self.token[before], pair[0]), (self.token[before], new), before, changed)
            if after >= 0:
                self._change((pair[1], self.token[after]), (new, self.token[after]), place, changed)
                self.before[after] = place
            self.token[place], self.after[place] = new, after
            self.token[gone] = self.after[gone] = -1
            self.alive -= 1
        self.count[pair] = 0
        for gained, place in changed.items():
            heapq.heappush(self.queue, (-self.count[gained], place, gained))

    def _change(
        self, old: tuple[int, int], new: tuple[int, int], place: int, changed: dict[tuple[int, int], int]
    ) -> None:
        self.count[old] -= 1
        self.count[new] = self.count.get(new, 0) + 1
        if new in self.places:
            heapq.heappush(self.places[new], place)
        else:
            self.places[new] = [place]
        changed[new] = min(changed.get(new, place), self.places[new][0])

    def result(self, lengths: list[int]) -> Merged:
        rows, starts, begin = [], [], 0
        for size in self.sizes:
            places = [at for at in range(begin, begin + size) if self.token[at] >= 0]
            rows.append([self._id(at) for at in places])
            starts.append([at - begin for at in places])
            begin += size
        return Merged(rows, starts, self.names.of[self.names.size :], lengths)

    def _id(self, place: int) -> int:
        """Of a token that never merged the id that it came with, should others have its bytes too."""
        before, now = self.original[place], self.token[place]
        return before if self.names.of[before] == self.names.of[now] else now
