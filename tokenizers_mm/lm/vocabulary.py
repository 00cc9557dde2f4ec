"""One id space over the tokens of any codecs: documents of several items, what may stand where, and the ways back to tokens.

A document is ``<bos> [label] segment ... <eos>``; a segment is one item of a stream between two tags. Every id belongs to one
codebook of one stream, or is special, so that what the ids mean never depends on where they stand.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.plan import BETWEEN, BOS, EMPTY, EOS, FORCED, LABEL, PAD, ROW, Plan, make_plan
from tokenizers_mm.lm.stream import Stream
from tokenizers_mm.tokens import Tokens

__all__ = ["BETWEEN", "BOS", "EMPTY", "EOS", "FORCED", "LABEL", "PAD", "ROW", "Stream", "Vocabulary"]

_PLANS = 512  # that are kept
_SPECIALS = ("pad", "bos", "eos", "empty", "row")


class Vocabulary:
    """Ids of specials, class labels, tags and codes, in this order.

    Args:
        streams: Whose tokens there are; names, or mappings as of :meth:`Stream.to_dict`.
        classes: Labels that a document may be conditioned on, their number or their names; with any, the second id of every
            document is its label or the one that stands for none.

    Raises:
        ValueError: If there are no streams, or two streams or classes share a name.
    """

    pad = PAD

    def __init__(self, streams: Sequence[Stream | Mapping[str, Any]], classes: int | Sequence[str] = 0) -> None:
        self.streams = tuple(s if isinstance(s, Stream) else Stream.from_dict(s) for s in streams)
        names = [stream.name for stream in self.streams]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"streams must be at least one, each with a name of its own, got {names}")
        self.class_names = () if isinstance(classes, int) else tuple(classes)
        self.classes = classes if isinstance(classes, int) else len(classes)
        if self.classes < 0 or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"classes must be 0 or more, or names that differ, got {classes}")
        self.lanes = max(stream.order.lanes for stream in self.streams)
        at = len(_SPECIALS) + (self.classes + 1 if self.classes else 0)
        self._tags = at
        at += 2 * len(names)
        self._first: list[list[int]] = []  # of each codebook of each stream
        for stream in self.streams:
            first = []
            for size in stream.spec.codebook_sizes:
                first.append(at)
                at += size
            self._first.append(first)
        self.size = at
        self._kinds: dict[tuple[int, int, int], int] = {}
        between = Choice((EOS, *(self.begin(name) for name in names)))
        choices = [Choice(), between, Choice(codes=range(len(_SPECIALS), self._tags))]  # in the order of kinds
        for i, stream in enumerate(self.streams):
            for column, mark in self._cells(i):
                self._kinds[i, column, mark] = len(choices)
                choices.append(Choice((mark,) if mark else (), self.codes(stream.name, stream.codebook(column))))
        self.choices = tuple(choices)
        self.longest_scale = max(max(s.scales.counts) if s.scales else 0 for s in self.streams)
        """Steps of the longest scale that is predicted at once; 0 where all streams come step by step."""
        self._plans: dict[tuple[int, tuple[int, ...]], Plan] = {}

    def _cells(self, i: int) -> Iterator[tuple[int, int]]:
        """Columns of a stream, of each scale its own, with the mark that may stand there instead, 0 for none."""
        stream, end = self.streams[i], self._tags + 2 * i + 1
        scales = 1 if stream.scales is None else len(stream.scales.sides)
        yield from ((column, 0) for column in range(scales * stream.columns))
        if stream.marks_rows:
            yield from ((0, ROW), (0, end))
        elif not stream.closed:
            yield stream.first_column, end

    def index(self, name: str) -> int:
        """Place of a stream.

        Raises:
            ValueError: If there is none of that name.
        """
        names = [stream.name for stream in self.streams]
        if name not in names:
            raise ValueError(f"stream must be one of {', '.join(names)}, got {name!r}")
        return names.index(name)

    def stream(self, name: str) -> Stream:
        """The stream of that name."""
        return self.streams[self.index(name)]

    def begin(self, name: str) -> int:
        """Id of the tag before a stream's items."""
        return self._tags + 2 * self.index(name)

    def begins(self, id_: int) -> int:
        """Place of the stream whose items an id begins.

        Raises:
            ValueError: If it is no tag of a beginning.
        """
        i, odd = divmod(id_ - self._tags, 2)
        if odd or not 0 <= i < len(self.streams):
            raise ValueError(f"ids must have the tag of a stream where an item begins, got {id_}")
        return i

    def end(self, name: str) -> int:
        """Id of the tag after a stream's items."""
        return self.begin(name) + 1

    def label(self, number: int | str | None) -> int:
        """Id of a class, by number or name, or of none.

        Raises:
            ValueError: If there is no such class.
        """
        if isinstance(number, str):
            if number not in self.class_names:
                close = difflib.get_close_matches(number, self.class_names, 3) or self.class_names[:8]
                raise ValueError(
                    f"label must be the name of a class, such as {', '.join(close) or 'none here'}, got {number!r}"
                )
            number = self.class_names.index(number)
        if not self.classes or (number is not None and not 0 <= number < self.classes):
            raise ValueError(f"label must be None or below {self.classes}, the number of classes, got {number}")
        return len(_SPECIALS) + (0 if number is None else 1 + number)

    def codes(self, name: str, codebook: int | None = None) -> range:
        """Ids of a stream's codes, or of one of its codebooks."""
        i = self.index(name)
        sizes, first = self.streams[i].spec.codebook_sizes, self._first[i]
        if codebook is None:
            return range(first[0], first[-1] + sizes[-1])
        return range(first[codebook], first[codebook] + sizes[codebook])

    def modality(self, name: str) -> list[range]:
        """Ids of the codes of all streams of a modality."""
        return [self.codes(stream.name) for stream in self.streams if stream.spec.modality == name]

    def kind(self, name: str, column: int, mark: int = 0) -> int:
        """Number of the kind of cells that hold a code of a column or a mark; ``choices[kind]`` are the ids.

        The columns of a second scale follow those of the first, and so on.
        """
        return self._kinds[self.index(name), column, mark]

    def names(self) -> Iterator[str]:
        """What each id is called."""
        yield from (f"<{name}>" for name in _SPECIALS)
        if self.classes:
            yield from ("<class:none>", *(f"<class:{n}>" for n in range(self.classes)))
        for stream in self.streams:
            yield from (f"<{stream.name}>", f"</{stream.name}>")
        for stream in self.streams:
            for q, size in enumerate(stream.spec.codebook_sizes):
                yield from (f"<{stream.name}:{q}:{code}>" for code in range(size))

    def plan(self, name: str, shape: Sequence[int]) -> Plan:
        """Where what stands in an item of a stream, given the shape of its grid."""
        return self._plan(self.index(name), tuple(shape))

    def _plan(self, i: int, shape: tuple[int, ...]) -> Plan:
        if (i, shape) not in self._plans:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            begin = self._tags + 2 * i
            self._plans[i, shape] = make_plan(
                self.streams[i], shape, self.lanes, begin, begin + 1, lambda column, mark: self._kinds[i, column, mark]
            )
        return self._plans[i, shape]

    def segment(self, name: str, tokens: Tokens) -> Tensor:
        """Ids ``[S, L]`` of one item, tags included.

        Raises:
            ValueError: If the tokens are not one item of that stream.
        """
        i = self.index(name)
        codes, shape = self.streams[i].codes(tokens)
        return self._plan(i, shape).fill(codes + self.offsets(name))

    def offsets(self, name: str) -> Tensor:
        """First id of each column of a stream's frames."""
        i, stream = self.index(name), self.stream(name)
        return torch.tensor([self._first[i][stream.codebook(column)] for column in range(stream.columns)])

    def document(self, segments: Sequence[tuple[str, Tokens]], label: int | str | None = None) -> Tensor:
        """Ids of a document; one whose last item is but the first few of its scales ends with it.

        Args:
            segments: Names of streams, and one item of each.
            label: Of the whole, None for none.

        Returns:
            int64 ``[S, L]``.

        Raises:
            ValueError: If a stream is unknown or tokens are not one item of it, there is no such class, or something follows an
                item that breaks off.
        """
        if segments and self._breaks_off(*segments[-1]):
            return torch.cat([self.beginning(segments[:-1], label), self.segment(*segments[-1])])
        return torch.cat([self.beginning(segments, label), self._step(EOS)])

    def beginning(self, segments: Sequence[tuple[str, Tokens]], label: int | str | None = None) -> Tensor:
        """Ids ``[S, L]`` of a document after which another item may follow; arguments as for :meth:`document`.

        Raises:
            ValueError: As there.
        """
        for name, tokens in segments:
            if self._breaks_off(name, tokens):
                raise ValueError(
                    f"nothing may follow a {name} of {tokens.ids.shape[1]} steps, all its scales must be there"
                )
        return torch.cat([self.opening(label), *(self.segment(name, tokens) for name, tokens in segments)])

    def _breaks_off(self, name: str, tokens: Tokens) -> bool:
        return len(tokens) == 1 and self.stream(name).breaks_off(tokens.shapes[0].tolist())

    def opening(self, label: int | str | None = None) -> Tensor:
        """What every document begins with, ``[1 or 2, L]``."""
        if not self.classes:
            if label is not None:
                raise ValueError(f"label must be None for a vocabulary without classes, got {label}")
            return self._step(BOS)
        return torch.cat([self._step(BOS), self._step(self.label(label))])

    def _step(self, id_: int) -> Tensor:
        step = torch.full((1, self.lanes), EMPTY)
        step[0, 0] = id_
        return step

    def segments(self, ids: Tensor) -> list[tuple[str, Tokens]]:
        """Items of a document ``[S, L]``; of an unfinished last one, the frames or scales that are whole.

        Raises:
            ValueError: If it is no document of this vocabulary, or an unfinished item has a fixed grid.
        """
        out = []
        for name, plan, shape, part in self._parse(ids):
            i = self.index(name)
            stream, offsets = self.streams[i], self.offsets(name)
            whole = int((plan.step.amax(dim=1) < len(part)).sum()) if len(plan.step) else 0
            if stream.scales is not None:
                whole = stream.scales.whole(whole)
            open_ended = not (stream.closed or stream.marks_rows) or stream.breaks_off((whole,))
            if whole < len(plan.step) and not open_ended:
                raise ValueError(f"the last {name} breaks off: {whole} of {len(plan.step)} frames are there")
            codes = part[plan.step[:whole], plan.lane[:whole]] - offsets
            sizes = torch.tensor([stream.spec.codebook_sizes[stream.codebook(c)] for c in range(stream.columns)])
            if bool(((codes < 0) | (codes >= sizes)).any()):
                raise ValueError(f"a {name} has ids of something else among its codes")
            out.append((name, stream.tokens(codes, shape if whole == len(plan.step) else (*shape[:-1], whole))))
        return out

    def plans(self, ids: Tensor) -> Iterator[tuple[Plan, Tensor]]:
        """Plan and ids of each segment of a document ``[S, L]``; the last may break off, its plan is then of a larger item.

        Raises:
            ValueError: If it is no document of this vocabulary.
        """
        return ((plan, part) for _, plan, _, part in self._parse(ids))

    def _parse(self, ids: Tensor) -> Iterator[tuple[str, Plan, tuple[int, ...], Tensor]]:
        """Stream, plan, shape and ids of each segment of a document; the last may break off."""
        ids = ids[: len(ids) - int((ids[:, 0] == PAD).sum())]
        first = ids[:, 0].tolist()
        at = 2 if self.classes else 1
        if not first or first[0] != BOS or (self.classes and first[1:2] and not self._is_label(first[1])):
            raise ValueError(
                f"ids must begin a document, with {BOS}{' and a label' if self.classes else ''}, got {first[:2]}"
            )
        while at < len(first) and first[at] not in (EOS, PAD):
            i = self.begins(first[at])
            shape = self._shape(i, ids[at:])
            plan = self._plan(i, shape)
            part = ids[at : at + len(plan.ids)]
            yield self.streams[i].name, plan, shape, part
            at += len(part)

    def _is_label(self, id_: int) -> bool:
        return len(_SPECIALS) <= id_ < self._tags

    def _shape(self, i: int, ids: Tensor) -> tuple[int, ...]:
        """Shape of the item that begins ids; of an unfinished one, a shape that holds what is there."""
        stream, end = self.streams[i], self._tags + 2 * i + 1
        if stream.closed:
            return stream.fixed_shape
        found = (ids == end).nonzero()
        stop = int(found[0, 0]) if len(found) else None
        if stream.marks_rows:
            body = ids[1:stop, 0]
            marks = (body == ROW).nonzero()[:, 0]
            width = (int(marks[0]) if len(marks) else len(body) + stream.columns) // stream.columns
            height = len(marks) if stop is not None else len(marks) + 1
            return max(height, 1), max(width, 1)
        frames = (
            len(ids) if stop is None else stream.frames_before(stop - 1)
        )  # more than there can be, or those there are
        return stream.open_shape(frames)

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for JSON."""
        return {
            "streams": [stream.to_dict() for stream in self.streams],
            "classes": list(self.class_names) or self.classes,
        }
