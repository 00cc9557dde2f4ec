"""Writer: one row of what a language model writes. What is given stands, what the format says is not drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.grammar import Cursor
from tokenizers_mm.lm.plan import EMPTY, FORCED, PAD, Plan
from tokenizers_mm.lm.vocabulary import Vocabulary
from tokenizers_mm.tokens import Tokens

Part = tuple[str, Tokens]
"""A stream's name, and one item of it."""


@dataclass(frozen=True)
class Order:
    """What a row is to be.

    Args:
        stream: Whose item is to be written; None for whatever comes until the document ends.
        label: Of the document.
        before: Items that stand before.
        prompt: The item's beginning, if it is given.
        shape: Of its grid; None where the model ends it, or where all of the stream's are alike.
    """

    stream: str | None = None
    label: int | str | None = None
    before: Sequence[Part] = ()
    prompt: Tokens | None = None
    shape: tuple[int, ...] | None = None


class Writer:
    """What may come next in a row, given what it is to be and what is written.

    Raises:
        ValueError: If the order does not fit the vocabulary or itself.
    """

    def __init__(self, vocabulary: Vocabulary, order: Order) -> None:
        self.vocabulary, self.cursor = vocabulary, Cursor(vocabulary)
        self.written: list[list[int]] = []
        self._given: dict[tuple[int, int], int] = {}  # ids that stand in cells of the item, by step and lane
        self._given_steps = 0
        self._plan: Plan | None = None
        self._begin: int | None = None  # step of the item's tag
        for step in vocabulary.beginning(order.before, order.label).tolist():
            self.push(step)
        if order.stream is not None:
            self._take(order.stream, order)
        while not self.done and all(len(self.allowed(lane)) == 1 for lane in range(vocabulary.lanes)):
            self.push([self.allowed(lane).first for lane in range(vocabulary.lanes)])

    def _take(self, stream: str, order: Order) -> None:
        """Begin the item that is ordered."""
        source = self.vocabulary.stream(stream)
        shape = source.fixed_shape if order.shape is None and source.closed else order.shape
        if shape is not None:
            source.frames(shape)
            self._plan = self.vocabulary.plan(stream, shape)
        if order.prompt is not None:
            frames = source.beginning(order.prompt, shape)
            plan = self._plan or self.vocabulary.plan(stream, source.open_shape(len(frames)))
            steps, lanes = plan.step[: len(frames)].flatten().tolist(), plan.lane[: len(frames)].flatten().tolist()
            ids = (frames + self.vocabulary.offsets(stream)).flatten().tolist()
            self._given = dict(zip(zip(steps, lanes, strict=True), ids, strict=True))
            self._given_steps = max(steps, default=0)
        self._begin = len(self.written)
        self.push([self.vocabulary.begin(stream), *[EMPTY] * (self.vocabulary.lanes - 1)])

    @property
    def done(self) -> bool:
        """Whether what was ordered is written; of scales, all codes."""
        if self._begin is None or self.cursor.done:
            return self.cursor.done
        return self.cursor.stream is None or (self._plan is not None and self.phase > len(self._plan.step))

    @property
    def phase(self) -> int:
        """Steps that an item of scales has so far, where one is ordered: rows of one phase begin their scales together."""
        if self._plan is None or self._plan.group is None or self._begin is None:
            return 0
        return len(self.written) - self._begin

    @property
    def coming(self) -> int:
        """Kind of the first cell of the next step."""
        return FORCED if self.done else self.cursor.kind(0)

    @property
    def frames(self) -> int:
        """Whole frames of the item that is ordered."""
        if self._begin is None:
            return 0
        plan = self._plan or self.cursor.plan
        return int((plan.step.amax(dim=1) < len(self.written) - self._begin).sum())

    def allowed(self, lane: int, written: Sequence[int] = ()) -> Choice:
        """Ids that may stand in a cell of the next step, given those in the lanes before it."""
        if self.done:
            return Choice((PAD,))
        choice = self.cursor.allowed(lane, written)
        if self._begin is None:
            return choice
        step = len(self.written) - self._begin
        if (step, lane) in self._given:
            return Choice((self._given[step, lane],))
        if self._plan is None:  # no end among what is given
            return Choice(codes=choice.codes) if len(choice.codes) and step <= self._given_steps else choice
        code = self._plan.ids[step, lane] == EMPTY and self._plan.kinds[step, lane] != FORCED
        return Choice(codes=choice.codes) if code else Choice((int(self._plan.ids[step, lane]),))

    def reads(self) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """Steps that a model reads to predict what comes, and where it takes them to be; see :meth:`Cursor.reads`."""
        steps, positions = self.cursor.reads()
        return [self.written[step] for step in steps], positions

    def push(self, step: Sequence[int]) -> None:
        """Write a step."""
        self.cursor.push(step)
        self.written.append(list(step))

    @property
    def parts(self) -> list[Part]:
        """All items of the row."""
        return self.vocabulary.segments(torch.tensor(self.written))
