"""What every pattern is: where the codes of a grid ``[B, T, Q]`` stand in a sequence ``[B, S, L]``, and the ways between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the codes of one grid of T frames stand in its sequence.

    Args:
        step: int64 ``[T, Q]``, the step of each code.
        lane: int64 ``[T, Q]``, its lane.
        frame: int64 ``[S, L]``, the frame of each cell's code; -1 where there is none.
        column: int64 ``[S, L]``, the column of each cell's code, whose vocabulary is the one allowed there; -1 for none.
        group: int64 ``[S]``, the pass that predicts each step, non-decreasing: steps of one pass do not see each other.
    """

    step: Tensor
    lane: Tensor
    frame: Tensor
    column: Tensor
    group: Tensor


@dataclass(frozen=True)
class Sequence:
    """A batch of grids in a pattern's order.

    Args:
        ids: int64 ``[B, S, L]``: codes, ``special`` in cells without one, ``pad`` past an item's end.
        mask: bool ``[B, S, L]``: the cells that hold a code, which are the ones that a loss counts.
        lengths: int64 ``[B]``, each item's steps.
    """

    ids: Tensor
    mask: Tensor
    lengths: Tensor


class Pattern(ABC):
    """An order of the codes of a grid; a subclass says where each stands (:meth:`places`), the rest follows from that.

    Attributes:
        columns: Q, the columns of the grid.
        open_ended: True where a code's place does not depend on how many frames follow: a model can generate without knowing the
            length in advance.
    """

    columns: int
    open_ended: ClassVar[bool] = True

    @property
    def lanes(self) -> int:
        """L, the codes that one step of the sequence can hold."""
        return int(self.places(1)[1].max()) + 1

    @abstractmethod
    def places(self, frames: int) -> tuple[Tensor, Tensor]:
        """Step and lane of each code of a grid of ``frames`` frames, int64 ``[T, Q]`` each."""

    def groups(self, steps: int) -> Tensor:
        """The pass that predicts each step of a sequence, int64 ``[S]``."""
        return torch.arange(steps)

    def check(self, frames: int) -> None:
        """Raise ``ValueError`` if no grid has that many frames."""
        if frames < 0:
            raise ValueError(f"frames must be at least 0, got {frames}")

    def layout(self, frames: int) -> Layout:
        """Where the codes of ``frames`` frames stand; the one source that training and generation share.

        Raises:
            ValueError: If no grid of this pattern has that many frames.
        """
        steps = self.steps(frames)
        step, lane = self.places(frames)
        frame, column = (torch.full((steps, self.lanes), -1) for _ in range(2))
        frame[step, lane] = torch.arange(frames)[:, None].expand_as(step)
        column[step, lane] = torch.arange(self.columns).expand_as(step)
        return Layout(step, lane, frame, column, self.groups(steps))

    def steps(self, frames: int) -> int:
        """S, the steps of the sequence of a grid of ``frames`` frames; ``ValueError`` if there is no such grid."""
        self.check(frames)
        return int(self.places(frames)[0].max()) + 1 if frames else 0

    def sequence(self, ids: Tensor, lengths: Tensor | None = None, *, special: int, pad: int | None = None) -> Sequence:
        """Codes in this pattern's order.

        Args:
            ids: int64 ``[B, T, Q]``.
            lengths: Frames of each item, ``[B]``; by default all T. What lies past them is not read.
            special: Id of cells without a code; no code may equal it (the codebook's size will do, or a negative number).
            pad: Id of steps past an item's end; by default ``special``.

        Returns:
            The sequences, each the one that its item alone would give, padded to the longest.

        Raises:
            ValueError: If shapes or lengths do not fit, or a code equals ``special`` or ``pad``.
        """
        if ids.ndim != 3 or ids.shape[2] != self.columns:
            raise ValueError(f"ids must be [B, T, {self.columns}], got {list(ids.shape)}")
        lengths = _checked_lengths(lengths, len(ids), ids.shape[1])
        pad = special if pad is None else pad
        real = torch.arange(ids.shape[1])[None] < lengths[:, None]
        taken = ids[real.to(ids.device)]
        if bool(((taken == special) | (taken == pad)).any()):
            raise ValueError(
                f"special {special} and pad {pad} must differ from every code, but a code equals one of them"
            )
        layouts = {n: self.layout(n) for n in lengths.unique().tolist()}
        sizes = torch.tensor([len(layouts[n].group) for n in lengths.tolist()], dtype=torch.long)
        out = ids.new_full((len(ids), int(sizes.max()) if len(sizes) else 0, self.lanes), pad)
        mask = torch.zeros_like(out, dtype=torch.bool)
        for n, layout in layouts.items():
            rows = (lengths == n).nonzero()
            out[rows[:, 0], : len(layout.group)] = special
            cells = rows[..., None], layout.step[None], layout.lane[None]
            out[cells], mask[cells] = ids[rows[:, 0], :n], True
        return Sequence(out, mask, sizes.to(ids.device))

    def grid(self, sequence: Tensor, *, special: int, pad: int | None = None) -> tuple[Tensor, Tensor]:
        """Inverse of :meth:`sequence`, from the ids alone.

        Args:
            sequence: int64 ``[B, S, L]``.
            special, pad: As they were given to :meth:`sequence`.

        Returns:
            The codes, int64 ``[B, T, Q]`` with 0 past each item's end, and the frames of each item, int64 ``[B]``.

        Raises:
            ValueError: If an item's codes do not stand where this pattern puts them.
        """
        if sequence.ndim != 3 or sequence.shape[2] != self.lanes:
            raise ValueError(f"sequence must be [B, S, {self.lanes}], got {list(sequence.shape)}")
        mask = (sequence != special) & (sequence != (special if pad is None else pad))
        counts = mask.sum(dim=(1, 2)).cpu()
        lengths = counts // self.columns
        for i, (count, n) in enumerate(zip(counts.tolist(), lengths.tolist(), strict=True)):
            wanted = self.layout(n).column >= 0 if count == n * self.columns else None
            have = mask[i].cpu()
            if wanted is None or len(wanted) > len(have) or not have.equal(_padded(wanted, len(have))):
                name = type(self).__name__
                raise ValueError(
                    f"item {i} is no sequence of {name}: its {count} codes stand elsewhere than it puts them"
                )
        return self.gather(sequence, lengths), lengths.to(sequence.device)

    def gather(self, values: Tensor, lengths: Tensor) -> Tensor:
        """What belongs to the cells of a sequence (ids, logits, losses) as a grid.

        Args:
            values: ``[B, S, L, ...]``, aligned with the sequence.
            lengths: Frames of each item, ``[B]``.

        Returns:
            ``[B, T, Q, ...]``, zero past each item's end.

        Raises:
            ValueError: If the sequence is too short for the lengths.
        """
        if values.ndim < 3 or values.shape[2] != self.lanes:
            raise ValueError(f"values must be [B, S, {self.lanes}, ...], got {list(values.shape)}")
        lengths = _checked_lengths(lengths, len(values), None)
        longest = int(lengths.max()) if len(lengths) else 0
        out = values.new_zeros(len(values), longest, self.columns, *values.shape[3:])
        for n in lengths.unique().tolist():
            layout, rows = self.layout(n), (lengths == n).nonzero()
            if len(layout.group) > values.shape[1]:
                raise ValueError(f"{n} frames take {len(layout.group)} steps, got a sequence of {values.shape[1]}")
            out[rows[:, 0], :n] = values[rows[..., None], layout.step[None], layout.lane[None]]
        return out


def _padded(mask: Tensor, steps: int) -> Tensor:
    return torch.cat([mask, mask.new_zeros(steps - len(mask), mask.shape[1])])


def _checked_lengths(lengths: Tensor | None, batch: int, most: int | None) -> Tensor:
    if lengths is None:
        return torch.full((batch,), most or 0, dtype=torch.long)
    lengths = torch.as_tensor(lengths).cpu()
    if lengths.is_floating_point() or lengths.shape != (batch,):
        raise ValueError(f"lengths must be {batch} whole numbers, got {lengths.dtype} {list(lengths.shape)}")
    if bool((lengths < 0).any()) or (most is not None and bool((lengths > most).any())):
        raise ValueError(f"lengths must be 0 to {most}, got {lengths.tolist()}")
    return lengths.long()
