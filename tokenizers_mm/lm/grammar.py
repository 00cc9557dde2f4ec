"""What may stand where: for whole documents, as training needs it, and step by step, as generation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.plan import BETWEEN, BOS, EMPTY, EOS, FORCED, LABEL, PAD, ROW, Plan
from tokenizers_mm.lm.vocabulary import Vocabulary


@dataclass(frozen=True)
class Annotation:
    """What a model has to know of rows of documents besides their ids.

    Args:
        kinds: int64 ``[B, S, L]``, of each cell, given all before it (see ``Vocabulary.choices``).
        positions: int64 ``[B, S, 2]``, row and column; of all that is no image the two are the same.
        documents: int64 ``[B, S]``, number of its document in the row; -1 for padding.
        source: int64 ``[B, S]``, which step of the row a model reads in place of each (see :class:`~tokenizers_mm.lm.plan.Plan`);
            None if the vocabulary has no scales that are predicted at once, so that each reads itself.
        group: int64 ``[B, S]``, non-decreasing: steps of one group see each other; None as well.
    """

    kinds: Tensor
    positions: Tensor
    documents: Tensor
    source: Tensor | None = None
    group: Tensor | None = None

    def read(self, ids: Tensor) -> Tensor:
        """What a model reads of rows ``[B, S, L]``: each step, or that which stands for it."""
        return ids if self.source is None else ids.gather(1, self.source[..., None].expand_as(ids))


def annotate(vocabulary: Vocabulary, ids: Tensor) -> Annotation:
    """Kinds, positions and documents of rows ``[B, S, L]`` of one or several documents, padded on either side.

    Raises:
        ValueError: If a row is none, or its last document breaks off within tags.
    """
    device, ids = ids.device, ids.cpu()
    kinds = torch.full_like(ids, FORCED)
    positions = ids.new_zeros(*ids.shape[:2], 2)
    documents = ids.new_full(ids.shape[:2], -1)
    source, group = torch.arange(ids.shape[1]).repeat(2, len(ids), 1)
    for row in range(len(ids)):
        first = ids[row, :, 0]
        starts = (first == BOS).nonzero()[:, 0].tolist()
        if bool((first[: starts[0] if starts else None] != PAD).any()):
            raise ValueError(f"row {row} must begin with a document or padding, got {int(first[0])}")
        for number, (a, b) in enumerate(zip(starts, [*starts[1:], len(first)], strict=True)):
            b = a + int((first[a:b] != PAD).sum())
            kinds[row, a:b], positions[row, a:b], order = _document(vocabulary, ids[row, a:b])
            source[row, a:b], group[row, a:b] = a + order
            documents[row, a:b] = number
    found = Annotation(kinds.to(device), positions.to(device), documents.to(device))
    if not vocabulary.longest_scale:
        return found
    return replace(found, source=source.to(device), group=group.to(device))


def _document(vocabulary: Vocabulary, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Kinds, positions, and sources and groups ``[2, S]`` of one document, which may break off."""
    kinds = torch.full_like(ids, FORCED)
    at = len(vocabulary.opening())
    positions = torch.arange(len(ids))[:, None].repeat(1, 2)
    order = torch.arange(len(ids)).repeat(2, 1)
    place = at
    for plan, part in vocabulary.plans(ids):
        n = len(part)
        kinds[at : at + n], positions[at : at + n] = plan.kinds[:n], place + plan.positions[:n]
        kinds[at, 0] = BETWEEN
        if plan.source is not None and plan.group is not None:
            order[:, at : at + n] = at + torch.stack([plan.source, plan.group])[:, :n]
        at, place = at + n, place + plan.extent
    if at < len(ids):
        kinds[at, 0], positions[at] = BETWEEN, place
    return kinds, positions, order


class Cursor:
    """Where a document that is being written stands, and what may come next.

    Attributes:
        position: Row and column of the last step.
        done: Whether the document has ended.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.done, self.position = vocabulary, False, (0, 0)
        self._steps, self._origin = 0, 0  # written so far; where the segment begins
        self._stream: int | None = None
        self._plan: Plan | None = None
        self._last: Plan | None = None
        self._inside, self._final, self._width = 0, False, 0

    @property
    def stream(self) -> str | None:
        """Stream of the item that is being written."""
        return None if self._stream is None else self.vocabulary.streams[self._stream].name

    @property
    def plan(self) -> Plan:
        """Of the item that is being written or was last; while its size is not known, of a larger one.

        Raises:
            ValueError: If there was none.
        """
        if self._last is None:
            raise ValueError("no item has begun")
        return self._last

    def kind(self, lane: int, written: Sequence[int] = ()) -> int:
        """Kind of a cell of the next step, given the ids in the lanes before it."""
        if self._plan is not None:
            return int(self._planned(written).kinds[self._inside, lane])
        if self.done or lane or not self._steps:
            return FORCED
        return LABEL if self._steps == 1 and self.vocabulary.classes else BETWEEN

    def allowed(self, lane: int, written: Sequence[int] = ()) -> Choice:
        """Ids that may stand in a cell of the next step, given those in the lanes before it."""
        if (kind := self.kind(lane, written)) != FORCED:
            return self.vocabulary.choices[kind]
        if self._plan is not None:
            return Choice((int(self._planned(written).ids[self._inside, lane]),))
        return Choice((PAD if self.done else EMPTY if lane else BOS,))

    def _planned(self, written: Sequence[int]) -> Plan:
        """The plan of the item, given what of the next step is written."""
        assert self._plan is not None
        return self._sized() if not self._final and self.vocabulary.end(self.stream or "") in written else self._plan

    def reads(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Which written steps a model reads to predict what comes, of a scale all at once, and their row and column for it."""
        if self._plan is None or self._plan.source is None:
            return [self._steps - 1], [self.position]
        steps = self._plan.pass_from(self._inside - 1)
        begin = self._steps - self._inside
        return (begin + self._plan.source[steps]).tolist(), [self._place(s) for s in range(steps.start, steps.stop)]

    def push(self, ids: Sequence[int]) -> None:
        """Write a step.

        Raises:
            ValueError: If one of the ids may not stand there.
        """
        for lane, id_ in enumerate(ids):
            if id_ not in self.allowed(lane, ids[:lane]):
                raise ValueError(f"id {id_} may not stand in lane {lane} of step {self._steps}")
        if self.done:
            return
        self._steps += 1
        if self._plan is not None:
            self._advance(ids)
            return
        self.position = self._origin, self._origin
        if self._steps <= len(self.vocabulary.opening()):
            self._origin += 1
        elif ids[0] == EOS:
            self.done = True
        else:
            self._stream = self.vocabulary.begins(ids[0])
            self._inside, self._width = 1, 0
            self._final = self.vocabulary.streams[self._stream].closed
            self._plan = self._last = self._current()
            self.position = self._place(0)

    def _advance(self, ids: Sequence[int]) -> None:
        """One step further in a segment."""
        assert self._stream is not None
        assert self._plan is not None
        stream = self.vocabulary.streams[self._stream]
        if not self._final and self.vocabulary.end(stream.name) in ids:
            self._plan, self._final = self._sized(), True
        elif stream.marks_rows and not self._width and ids[0] == ROW:
            self._width = (self._inside - 1) // stream.columns
        self.position = self._place(self._inside)
        self._inside += 1
        self._last = self._plan
        if not self._final:
            self._plan = self._last = self._current()
        elif self._inside >= len(self._plan.ids):
            self._origin += self._plan.extent
            self._plan = self._stream = None

    def _place(self, step: int) -> tuple[int, int]:
        """Row and column of a step of the segment."""
        assert self._plan is not None
        row, column = self._plan.positions[step].tolist()
        return self._origin + row, self._origin + column

    def _sized(self) -> Plan:
        """The plan of an item that ends with the next step."""
        assert self._stream is not None
        stream, body = self.vocabulary.streams[self._stream], self._inside - 1  # steps of codes and marks so far
        if stream.marks_rows:
            return self.vocabulary.plan(stream.name, (body // (self._width * stream.columns + 1), self._width))
        return self.vocabulary.plan(stream.name, stream.open_shape(stream.frames_before(body)))

    def _current(self) -> Plan:
        """The plan of the item, as long as its size is not known that of a larger one."""
        assert self._stream is not None
        stream = self.vocabulary.streams[self._stream]
        if stream.closed:
            return self.vocabulary.plan(stream.name, stream.fixed_shape)
        most = 64
        while most < self._inside + 2:
            most *= 2
        if stream.marks_rows:
            return self.vocabulary.plan(stream.name, (most, self._width) if self._width else (1, most))
        return self.vocabulary.plan(stream.name, stream.open_shape(most))
