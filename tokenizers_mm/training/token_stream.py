"""Documents out of shards of tokens: drawn, shuffled, cut and packed, by many processes, from any place on.

The order is computed, not kept: a permutation of row groups for each pass, and one of the items of a few of them at a time. How
many items were taken of each source is therefore all that a resume needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tokenizers_mm.lm.vocabulary import Vocabulary
from tokenizers_mm.scale.columns import Item, Label
from tokenizers_mm.scale.shards import Group, ShardReader
from tokenizers_mm.tokens import Tokens, TokenSpec

Long = Literal["crop", "skip", "error"]
Packing = Literal["packed", "single"]
State = dict[str, Any]
_UNITS = 4  # that each process has at least, where there are items enough


class Unit(NamedTuple):
    """Rows of a row group that are read together: shard, row group, first row, the one after the last."""

    shard: int
    group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Share:
    """Which part of the data a process reads: every ``of``-th unit from ``number`` on."""

    number: int = 0
    of: int = 1


@dataclass(frozen=True)
class Options:
    """What documents and batches are: arguments of :class:`tokenizers_mm.training.token_data.TokenDataModule`."""

    length: int
    batch_size: int
    packing: Packing
    long: Long
    segments: int
    buffer: int
    seed: int


@dataclass(frozen=True)
class Shelf:
    """A source: its shards, how often it is drawn, and the number of each class; None where classes don't count."""

    name: str
    shards: tuple[ShardReader, ...]
    weight: float
    number: Callable[[Label], int | None]

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def units(self, streams: int) -> list[Unit]:
        """All row groups; where they are few for so many processes, parts of them."""
        groups = [(s, g, rows) for s, shard in enumerate(self.shards) for g, rows in enumerate(shard.group_sizes)]
        parts = 1
        while True:
            borders = [np.linspace(0, rows, min(parts, rows) + 1).astype(int).tolist() for _, _, rows in groups]
            units = [Unit(s, g, *at) for (s, g, _), all_ in zip(groups, borders, strict=True) for at in pairwise(all_)]
            if len(units) >= min(_UNITS * streams, len(self)):
                return units
            parts *= 2


class Items:
    """A process's share of the items of a source, pass after pass; ``turn`` and ``position`` are its whole state."""

    def __init__(self, shelf: Shelf, share: Share, seed: Sequence[int], buffer: int, shuffle: bool) -> None:
        self.shelf, self.share, self.seed, self.buffer, self.shuffle = shelf, share, seed, buffer, shuffle
        self.units = shelf.units(share.of)
        self.turn = self.position = 0
        self._window = lru_cache(maxsize=1)(self._read_window)
        self._starts = lru_cache(maxsize=1)(self._window_starts)

    @property
    def left(self) -> int:
        """Items of this pass that were not taken."""
        return int(self._starts(self.turn)[-1]) - self.position

    def take(self) -> Item:
        """The next item; after the last one of a pass the first of another."""
        if not self.left:
            self.turn, self.position = self.turn + 1, 0
        starts = self._starts(self.turn)
        window = int(np.searchsorted(starts, self.position, side="right")) - 1
        group, row = self._window(self.turn, window)[self.position - int(starts[window])]
        self.position += 1
        return group[row]

    def _order(self, turn: int) -> list[Unit]:
        order = self._rng(turn).permutation(len(self.units)) if self.shuffle else range(len(self.units))
        return [self.units[i] for i in order[self.share.number :: self.share.of]]

    def _window_starts(self, turn: int) -> np.ndarray:
        """How many items are before each window, and, last, how many there are."""
        sizes = [unit.stop - unit.start for unit in self._order(turn)]
        return np.cumsum([0, *(sum(sizes[i : i + self.buffer]) for i in range(0, len(sizes), self.buffer))])

    def _read_window(self, turn: int, window: int) -> list[tuple[Group, int]]:
        """Items of a few units, in the order in which they are taken."""
        rows = []
        for unit in self._order(turn)[window * self.buffer :][: self.buffer]:
            group = self.shelf.shards[unit.shard].group(unit.group)
            rows += [(group, row) for row in range(unit.start, unit.stop)]
        order = self._rng(turn, window).permutation(len(rows)) if self.shuffle else range(len(rows))
        return [rows[i] for i in order]

    def _rng(self, *place: int) -> np.random.Generator:
        return np.random.default_rng((*self.seed, *place))


class Documents:
    """A process's documents, one after another.

    Args:
        vocabulary: Makes their ids.
        shelves: Where items come from.
        options: See there.
        share: The process's.
        endless: Shuffled, with pass after pass; otherwise every item once, in order.
    """

    def __init__(
        self, vocabulary: Vocabulary, shelves: Sequence[Shelf], options: Options, share: Share, endless: bool
    ) -> None:
        self.vocabulary, self.shelves, self.options = vocabulary, shelves, options
        self.share, self.endless = share, endless
        self.items = [
            Items(shelf, share, (options.seed, 0, i), options.buffer, shuffle=endless)
            for i, shelf in enumerate(shelves)
        ]
        self.drawn = self.skipped = 0

    def state(self) -> State:
        """Where it stands."""
        places = [[items.turn, items.position] for items in self.items]
        return {"places": places, "drawn": self.drawn, "skipped": self.skipped}

    def go_to(self, state: State) -> None:
        """Go on from a :meth:`state`."""
        for items, (turn, position) in zip(self.items, state["places"], strict=True):
            items.turn, items.position = turn, position
        self.drawn, self.skipped = state["drawn"], state["skipped"]

    def next(self) -> Tensor | None:
        """Ids ``[S, L]`` of the next document that fits; None after the last one.

        Raises:
            ValueError: If one is too long and that is an error, or none of a whole pass fits.
        """
        for _ in range(sum(map(len, self.shelves))):
            rng = np.random.default_rng((self.options.seed, 1, self.share.number, self.drawn))
            drawn = self._draw(rng)
            if not drawn:
                return None
            self.drawn += 1
            ids = self._ids(drawn, rng)
            if ids is not None:
                return ids
            self.skipped += 1
        raise ValueError(
            f"length must be that of a document at least: of a whole pass none fits into {self.options.length} steps"
        )

    def _draw(self, rng: np.random.Generator) -> list[tuple[Shelf, Item]]:
        """Items of a document; neighbours are of different sources if there are several."""
        drawn: list[tuple[Shelf, Item]] = []
        last = -1
        for _ in range(self.options.segments):
            open_ = [i for i, items in enumerate(self.items) if self.endless or items.left]
            others = [i for i in open_ if i != last] or open_
            if not others:
                break
            weights = np.array([self.shelves[i].weight for i in others])
            last = others[int(rng.choice(len(others), p=weights / weights.sum()))]
            drawn.append((self.shelves[last], self.items[last].take()))
        return drawn

    def _ids(self, drawn: Sequence[tuple[Shelf, Item]], rng: np.random.Generator) -> Tensor | None:
        labels = [shelf.number(item.label) for shelf, item in drawn]
        label = next((label for label in labels if label is not None), None)
        segments = [(shelf.name, item.tokens) for shelf, item in drawn]
        ids = self.vocabulary.document(segments, label)
        if len(ids) <= self.options.length:
            return ids
        if self.options.long == "error":
            keys = ", ".join(item.key for _, item in drawn)
            raise ValueError(f"the document of {keys} has {len(ids)} steps, length is {self.options.length}")
        return self._cropped(segments, label, len(ids), rng) if self.options.long == "crop" else None

    def _cropped(
        self, segments: list[tuple[str, Tokens]], label: int | None, steps: int, rng: np.random.Generator
    ) -> Tensor | None:
        """Ids of the document with a random stretch of its longest item that can be cut; None if that is not enough."""
        extents = [int(tokens.shapes[0, -1]) for _, tokens in segments]
        cuttable = [i for i, (_, tokens) in enumerate(segments) if can_be_cut(tokens.spec) and extents[i] > 1]
        if not cuttable:
            return None
        i = max(cuttable, key=lambda i: int(segments[i][1].lengths[0]))
        (name, tokens), have, block = segments[i], extents[i], segments[i][1].spec.block

        def ids_of(start: int, count: int) -> Tensor:
            part = (name, tokens.narrow(start, count))
            return self.vocabulary.document([*segments[:i], part, *segments[i + 1 :]], label)

        # a document grows by the same with every frame: two lengths tell how many fit
        probe = min(have - 1, max(1, have * self.options.length // steps))
        short = len(ids_of(0, probe))
        fits = probe + (self.options.length - short) * (have - probe) // max(1, steps - short)
        for count in range(min(fits, have) // block * block, 0, -block):
            start = int(rng.integers((have - count) // block + 1)) * block
            ids = ids_of(start, count)
            if len(ids) <= self.options.length:
                return ids
        return None


def can_be_cut(spec: TokenSpec) -> bool:
    """Whether any stretch of the last axis is an item too: there is an order, and no scales or windows."""
    return not spec.scales and not spec.window and (len(spec.axes) == 1 or spec.axes[-1] == "time")


class Batches(IterableDataset):
    """Packed documents, and with every batch who made it and where it stands: ``(stream, signal, state)``.

    Args:
        documents: Makes the documents of a share.
        share: Of a process with one worker: the first of ``workers`` that follow one another.
        workers: Streams of this process.
        first: Stream that makes the first batch.
        states: Of the streams, where they go on.
    """

    def __init__(
        self,
        documents: Callable[[Share], Documents],
        share: Share,
        workers: int = 1,
        first: int = 0,
        states: Sequence[State | None] = (None,),
    ) -> None:
        self.documents, self.share, self.workers, self.first, self.states = documents, share, workers, first, states

    def __iter__(self) -> Iterator[tuple[int, Tensor, State]]:
        info = get_worker_info()
        stream = ((info.id if info else 0) + self.first) % self.workers
        documents = self.documents(Share(self.share.number + stream, self.share.of))
        if (state := self.states[stream]) is not None:
            documents.go_to(state)
        for signal, after in packed(documents):
            yield stream, signal, after


def packed(documents: Documents) -> Iterator[tuple[Tensor, State]]:
    """Batches ``[B, length, L]``, and where the documents stand after each.

    Rows take documents by first fit; a batch ends with the first document that no row has room for.
    """
    options, vocabulary = documents.options, documents.vocabulary
    most = 1 if options.packing == "single" else options.length
    rows: list[list[Tensor]] = []
    state = documents.state()
    while (ids := documents.next()) is not None:
        row = next((r for r in rows if len(r) < most and sum(map(len, r)) + len(ids) <= options.length), None)
        if row is None and len(rows) == options.batch_size:
            yield _padded(rows, options.length, vocabulary), state
            rows = []
        if row is None:
            rows.append(row := [])
        row.append(ids)
        state = documents.state()
    if rows:
        yield _padded(rows, options.length, vocabulary), state


def _padded(rows: Sequence[Sequence[Tensor]], length: int, vocabulary: Vocabulary) -> Tensor:
    out = torch.full((len(rows), length, vocabulary.lanes), vocabulary.pad)
    for target, row in zip(out, rows, strict=True):
        ids = torch.cat(list(row))
        target[: len(ids)] = ids
    return out
