"""Merging of neighbouring tokens within a batch: byte-pair encoding of the batch itself, on top of a tokenizer's tokens.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025. Theirs counts all pairs
anew for each merge; here pairs keep their positions, so that a batch of N tokens costs O(N log N), with the same result, ties
included.
"""

from __future__ import annotations

import heapq
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

Boundary = Literal["pretokens", "word", "word_hyphen", "sentence"]
_WHITE = frozenset(b" \n\t")
_PAIR = 2**32
_MANY = 48  # occurrences from which on NumPy pays


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


class _Batch:
    """Sequences as linked lists of tokens, numbered in scan order, and pairs with their counts and positions.

    A pair is one number, ``left * 2**32 + right``. Its place in the queue may be too good, as when it lost occurrences, never too
    bad: it is put right when it comes up. Tokens are known by their bytes: two ways to the same ones give the same token.
    """

    def __init__(
        self, rows: Sequence[Sequence[int]], tokens: Sequence[bytes], rule: Rule, special: Collection[int]
    ) -> None:
        self.rule, self.sizes, self.base = rule, [len(row) for row in rows], len(tokens)
        self.never = {i for i, token in enumerate(tokens) if not token} | set(special)
        self.names = list(tokens)
        self.ids = {token: i for i, token in reversed(list(enumerate(tokens))) if i not in self.never}
        self.allowed: dict[int, bool] = {}
        flat = np.array([i for row in rows for i in row], dtype=np.int64)
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(tokens):
            raise ValueError(
                f"rows must hold ids from 0 to {len(tokens) - 1}, got {int(flat.min())} to {int(flat.max())}"
            )
        same = np.array([i if i in self.never else self.ids[token] for i, token in enumerate(tokens)], dtype=np.int64)
        self.original, flat = flat, same[flat]
        self.known = flat
        last = np.zeros(len(flat), dtype=bool)
        ends = np.cumsum([size for size in self.sizes if size], dtype=np.int64)
        last[ends - 1] = True
        at = np.arange(len(flat))
        self.alive = len(flat)
        self._token, self._after = flat.copy(), np.where(last, -1, at + 1)
        self._before = np.where(np.roll(last, 1), -1, at - 1)
        # The same memory twice: single numbers are faster through a memoryview, many at once through NumPy.
        self.token, self.after, self.before = self._token.data, self._after.data, self._before.data
        self.count: defaultdict[int, int] = defaultdict(int)
        self.places: dict[int, list[int]] = {}
        self._index(flat, np.flatnonzero(~last))
        self.queue = [(-len(places), places[0], pair) for pair, places in self.places.items()]
        heapq.heapify(self.queue)

    def _index(self, flat: np.ndarray, places: np.ndarray) -> None:
        """Positions of each pair of neighbours, ascending."""
        if not len(places):
            return
        pairs = flat[places] * _PAIR + flat[places + 1]
        order = np.argsort(pairs, kind="stable")
        starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
        ordered, edges = places[order].tolist(), [*starts.tolist(), len(order)]
        for pair, (start, end) in zip(pairs[order[starts]].tolist(), pairwise(edges), strict=True):
            self.places[pair] = ordered[start:end]
            self.count[pair] = end - start

    def best(self) -> int | None:
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

    def _allows(self, pair: int) -> bool:
        if pair not in self.allowed:
            left, right = divmod(pair, _PAIR)
            special = left in self.never or right in self.never
            self.allowed[pair] = not special and self.rule.allows(self.names[left], self.names[right])
        return self.allowed[pair]

    def _first(self, pair: int) -> int:
        places = self.places[pair]
        while (after := self.after[places[0]]) < 0 or self.token[places[0]] * _PAIR + self.token[after] != pair:
            heapq.heappop(places)
        return places[0]

    def join(self, pair: int) -> None:
        """Replace all occurrences of a pair."""
        left, right = divmod(pair, _PAIR)
        new = self._named(self.names[left] + self.names[right])
        places = self.places.pop(pair)
        many = left != right and len(places) >= _MANY  # pairs of two equal tokens overlap: one after the other
        gained = (self._join_many if many else self._join_each)(left, right, new, places)
        self.count[pair] = 0
        for found, where in gained.items():
            known = self.places.setdefault(found, where)
            if known is not where:
                for place in where:
                    heapq.heappush(known, place)
            heapq.heappush(self.queue, (-self.count[found], known[0], found))

    def _join_each(self, left: int, right: int, new: int, places: list[int]) -> dict[int, list[int]]:
        """Pairs that came up, and where, ascending."""
        token, after, before, count = self.token, self.after, self.before, self.count
        gained: defaultdict[int, list[int]] = defaultdict(list)
        for place in sorted(places):
            gone = after[place]
            if gone < 0 or token[place] != left or token[gone] != right:
                continue
            behind, ahead = before[place], after[gone]
            if behind >= 0:
                other = token[behind] * _PAIR
                count[other + left] -= 1
                count[other + new] += 1
                gained[other + new].append(behind)
            if ahead >= 0:
                other = token[ahead]
                count[right * _PAIR + other] -= 1
                count[new * _PAIR + other] += 1
                gained[new * _PAIR + other].append(place)
                before[ahead] = place
            token[place], after[place] = new, ahead
            token[gone] = after[gone] = -1
            self.alive -= 1
        return gained

    def _join_many(self, left: int, right: int, new: int, places: list[int]) -> dict[int, list[int]]:
        """As :meth:`_join_each`, all at once."""
        token, after, before = self._token, self._after, self._before
        place = np.unique(np.array(places, dtype=np.int64))
        place = place[(token[place] == left) & (after[place] >= 0)]
        place = place[token[after[place]] == right]
        gone = after[place]
        behind, ahead = before[place], after[gone]
        touched = np.unique(
            np.concatenate([behind[behind >= 0], gone[ahead >= 0]])
        )  # whose pair with the next one goes
        for lost, times in _counted(token[touched] * _PAIR + token[after[touched]]):
            self.count[lost] -= times
        token[place], after[place] = new, ahead
        before[ahead[ahead >= 0]] = place[ahead >= 0]
        token[gone] = after[gone] = -1
        self.alive -= len(place)
        behind = before[place]
        fresh = np.unique(np.concatenate([behind[behind >= 0], place[ahead >= 0]]))
        fresh = fresh[token[fresh] >= 0]
        pairs = token[fresh] * _PAIR + token[after[fresh]]
        order = np.argsort(pairs, kind="stable")
        starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
        ordered, gained = fresh[order].tolist(), {}
        edges = [*starts.tolist(), len(order)]
        for found, (start, end) in zip(pairs[order[starts]].tolist(), pairwise(edges), strict=True):
            gained[found] = ordered[start:end]
            self.count[found] += end - start
        return gained

    def _named(self, data: bytes) -> int:
        if data not in self.ids:
            self.ids[data] = len(self.names)
            self.names.append(data)
        return self.ids[data]

    def result(self, lengths: list[int]) -> Merged:
        """What the batch is now; a token that never merged has the id that it came with, should others have its bytes too."""
        token = np.where(self._token == self.known, self.original, self._token)
        ends = np.cumsum([0, *self.sizes])
        rows, starts = [], []
        for begin, end in pairwise(ends.tolist()):
            places = np.flatnonzero(token[begin:end] >= 0)
            rows.append(token[begin:end][places].tolist())
            starts.append(places.tolist())
        return Merged(rows, starts, self.names[self.base :], lengths)


def _counted(values: np.ndarray) -> Iterator[tuple[int, int]]:
    found, times = np.unique(values, return_counts=True)
    return zip(found.tolist(), times.tolist(), strict=True)
