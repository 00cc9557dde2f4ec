"""Plan: the sequence of one item of a stream, but for its codes: tags, marks, which codes stand where, what may stand there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenizers_mm.lm.scales import Scales
from tokenizers_mm.lm.stream import Stream

PAD, BOS, EOS, EMPTY, ROW = range(5)
"""Ids of padding, of a document's begin and end, of a cell without a code, and of the end of a row of an image."""

FORCED, BETWEEN, LABEL = range(3)
"""Kinds of cells: what stands there follows from what stands before, or is given; between segments; a class label."""

Kind = Callable[[int, int], int]
"""The kind of a cell that may hold a code of a column or else, if it is not 0, one mark."""


@dataclass(frozen=True)
class Plan:
    """Where the codes of an item of S steps stand.

    Args:
        ids: int64 ``[S, L]``, with :data:`EMPTY` where codes belong.
        step: int64 ``[T, C]``, of each code.
        lane: Likewise.
        kinds: int64 ``[S, L]``, what may stand in each cell, given those before it.
        positions: int64 ``[S, 2]``, row and column of each step, counted from the item's begin; of scales, of the cell that is
            predicted after it.
        extent: Positions until what follows.
        source: int64 ``[S]``, which step a model reads in place of each, so that no cell of a scale sees another of its own; None
            where it reads each itself.
        group: int64 ``[S]``, non-decreasing: steps of one group, after which the cells of a scale are predicted, see each other;
            None where each sees those before it alone.
    """

    ids: Tensor
    step: Tensor
    lane: Tensor
    kinds: Tensor
    positions: Tensor
    extent: int
    source: Tensor | None = None
    group: Tensor | None = None

    def fill(self, codes: Tensor) -> Tensor:
        """The sequence ``[S, L]`` of codes ``[T, C]``."""
        ids = self.ids.clone()
        ids[self.step, self.lane] = codes
        return ids

    def pass_from(self, first: int) -> slice:
        """The steps of a group from ``first`` on."""
        if self.group is None:
            return slice(first, first + 1)
        return slice(first, int(torch.searchsorted(self.group, self.group[first], right=True)))


def make_plan(stream: Stream, shape: Sequence[int], lanes: int, begin: int, end: int, kind: Kind) -> Plan:
    """The plan of an item with a grid of that shape.

    Args:
        stream: What it belongs to.
        shape: Of the grid.
        lanes: L, of the sequence.
        begin: Id of the tag before it.
        end: Id of the tag after it.
        kind: See :data:`Kind`.
    """
    if stream.marks_rows:
        return _rows(stream, shape, lanes, begin, end, kind)
    if stream.scales is not None:
        return _scales(stream, stream.scales, shape, lanes, begin, end, kind)
    frames = stream.frames(shape)
    order, layout = stream.order, stream.order.layout(frames)
    kinds_of = torch.tensor([FORCED, *(kind(column, 0) for column in range(stream.columns))])
    if stream.closed:
        stop, stop_lane = len(layout.column), 0
    else:  # the end stands where another frame would begin
        step, lane = order.places(frames + 1)
        first = stream.first_column
        stop, stop_lane = int(step[-1, first]), int(lane[-1, first])
    steps = 1 + max(len(layout.column), stop + 1)
    ids, kinds = torch.full((steps, lanes), EMPTY), torch.full((steps, lanes), FORCED)
    ids[0, 0], ids[1 + stop, stop_lane] = begin, end
    kinds[1 : 1 + len(layout.column), : order.lanes] = kinds_of[layout.column + 1]
    if not stream.closed:
        begins = layout.step[1:, first], layout.lane[1:, first]  # an item has a frame at least
        kinds[begins[0] + 1, begins[1]] = kind(first, end)
        kinds[1 + stop, stop_lane] = kind(first, end)
    at = torch.arange(steps)
    positions = torch.stack([at, at], dim=1)
    extent = steps
    if len(shape) == 2 and not stream.by_moment and order.lanes * (steps - 2) == frames * stream.columns:
        frame = layout.frame.amax(dim=1)
        positions[1:-1] = 1 + torch.stack([frame // shape[1], frame % shape[1]], dim=1)
        positions[-1], extent = 1 + max(shape), 2 + max(shape)
    return Plan(ids, layout.step + 1, layout.lane, kinds, positions, extent)


def _scales(stream: Stream, scales: Scales, shape: Sequence[int], lanes: int, begin: int, end: int, kind: Kind) -> Plan:
    """Scale after scale: before each of its cells a model reads the cell's parent, and before those of the first the tag.

    An item of the first few of them has no end.
    """
    cells, columns = sum(scales.counts), stream.columns
    layout = stream.order.layout(cells)
    ids, kinds = torch.full((cells + 2, lanes), EMPTY), torch.full((cells + 2, lanes), FORCED)
    ids[0, 0], ids[-1, 0] = begin, end
    of_scale = [[kind(scale * columns + column, 0) for column in range(columns)] for scale in range(len(scales.sides))]
    kinds[1:-1, :columns] = torch.tensor(of_scale)[layout.group]
    source, group = torch.arange(cells + 2), torch.arange(cells + 2)
    source[:cells], group[:cells] = 1 + scales.parents, scales.starts
    side = max(scales.sides[-1])
    positions = torch.empty(cells + 2, 2, dtype=torch.int64)
    positions[:cells], positions[cells], positions[-1] = 1 + scales.places, 1 + side, 2 + side
    frames = stream.frames(shape)
    steps = slice(cells + 2 if frames == cells else 1 + frames)
    return Plan(
        ids[steps],
        1 + layout.step[:frames],
        layout.lane[:frames],
        kinds[steps],
        positions[steps],
        3 + side,
        source[steps],
        group[steps],
    )


def _rows(stream: Stream, shape: Sequence[int], lanes: int, begin: int, end: int, kind: Kind) -> Plan:
    """Rows one after the other, each with a mark at its end; the first row's decides how long they are."""
    height, width = shape
    columns, long = stream.columns, width * stream.columns + 1
    steps = 2 + height * long
    place = torch.arange(height * long).view(height, long)
    step = 1 + place[:, :-1].reshape(-1, columns)
    ids, kinds = torch.full((steps, lanes), EMPTY), torch.full((steps, lanes), FORCED)
    marks = 1 + place[:, -1]
    ids[0, 0], ids[-1, 0], ids[marks, 0] = begin, end, ROW
    kinds[step.flatten(), 0] = torch.tensor([kind(column, 0) for column in range(columns)]).repeat(height * width)
    kinds[1 + place[0, columns::columns], 0] = kind(0, ROW)
    kinds[marks + 1, 0] = kind(0, end)
    positions = torch.zeros(steps, 2, dtype=torch.int64)
    inside = torch.arange(long) // columns
    positions[1:-1] = 1 + torch.stack(torch.meshgrid(torch.arange(height), inside, indexing="ij"), -1).view(-1, 2)
    extent = 2 + max(height, width + 1)
    positions[-1] = extent - 1
    return Plan(ids, step, torch.zeros_like(step), kinds, positions, extent)
