"""Patterns: the orders in which a language model reads and writes a grid of codes ``[B, T, Q]``.

A pattern says at which **step** and in which **lane** of a sequence ``[B, S, L]`` each code stands. Every code stands in
exactly one cell, so a sequence gives back its grid and its length, whatever that is. Cells without a code (a delayed lane before
its first code) hold a ``special`` id. There is no start token: a model that predicts a step from those before it adds its own.

==============================  ========================================  ===========  ====================================
pattern (T frames, Q columns)   step of the code (t, q)                   steps S      used by
==============================  ========================================  ===========  ====================================
``Parallel``                    t                                         T            baseline; depth transformers
``Delay``                       t + d_q                                   T + max d    MusicGen
``CoarseFirst``                 t for q = 0, else T + t + d_q             2T + max d   MusicGen's and SoundStorm's first pass
``Flatten``                     t * Q + q, in one lane                    T * Q        AudioLM
``Flatten(groups_of=...)``       t * groups + group of q                   T * groups   q = 0 alone, then the others together
``GroupMajor``                  g columns of all t, then the next g       T * Q        MusicLM
``Interleave``                  t * Q + place of q in time, in one lane   T * Q        speech models on SNAC
``MultiScale``                  t; a whole scale is one pass              T            VAR
==============================  ========================================  ===========  ====================================

Copet et al., "Simple and Controllable Music Generation" (2023), describes the first four; Tian et al., "Visual Autoregressive
Modeling" (2024), the last.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from torch import Tensor

from tokenizers_mm.lm.pattern import Pattern
from tokenizers_mm.spec import TokenSpec


@dataclass(frozen=True)
class Parallel(Pattern):
    """All columns of a frame in one step."""

    columns: int

    def __post_init__(self) -> None:
        _positive("columns", self.columns)

    def places(self, frames: int) -> tuple[Tensor, Tensor]:
        t, q = _cells(frames, self.columns)
        return t, q


@dataclass(frozen=True)
class Delay(Pattern):
    """Column q lags d_q steps behind, so that a step sees the coarser codes of its frame.

    Args:
        columns: Q.
        delays: d_q of each column; by default q.
    """

    columns: int
    delays: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _positive("columns", self.columns)
        object.__setattr__(self, "delays", _delays(self.delays or range(self.columns), self.columns))

    def places(self, frames: int) -> tuple[Tensor, Tensor]:
        t, q = _cells(frames, self.columns)
        return t + torch.tensor(self.delays), q


@dataclass(frozen=True)
class CoarseFirst(Pattern):
    """The first column of all frames, then the others together; the length must be known before the second pass.

    Args:
        columns: Q.
        delays: Lags of the columns from the second on, in the second pass; by default none.
    """

    columns: int
    delays: tuple[int, ...] = ()
    open_ended: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("columns", self.columns)
        object.__setattr__(self, "delays", _delays(self.delays or [0] * (self.columns - 1), self.columns - 1))

    def places(self, frames: int) -> tuple[Tensor, Tensor]:
        t, q = _cells(frames, self.columns)
        return t + torch.tensor([0, *(frames + d for d in self.delays)]), q


@dataclass(frozen=True)
class Flatten(Pattern):
    """Frame by frame, column by column.

    Args:
        columns: Q.
        groups_of: Group of each column, from 0 without gaps, non-decreasing: columns of one group share a step, each in its
            lane. By default every column is a group, and there is one lane.
    """

    columns: int
    groups_of: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _positive("columns", self.columns)
        groups = tuple(self.groups_of) or tuple(range(self.columns))
        steady = len(groups) == self.columns and groups[0] == 0
        if not steady or any(b - a not in (0, 1) for a, b in pairwise(groups)):
            raise ValueError(
                f"groups_of must give each of {self.columns} columns a group, rising from 0 by 0 or 1, got {groups}"
            )
        object.__setattr__(self, "groups_of", groups)

    def places(self, frames: int) -> tuple[Tensor, Tensor]:
        t, _ = _cells(frames, self.columns)
        lanes = torch.tensor([q - self.groups_of.index(group) for q, group in enumerate(self.groups_of)])
        return t * (self.groups_of[-1] + 1) + torch.tensor(self.groups_of), lanes.expand_as(t)


@dataclass(frozen=True)
class GroupMajor(Pattern):
    """Columns in groups of ``size``: a group of all frames, frame by frame, before the next group; one lane.

    ``GroupMajor(Q, 1)`` is column by column.
    """

    columns: int
    size: int = 1
    open_ended: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _positive("columns", self.columns)
        _positive("size", self.size)

    def places(self, frames: int) -> tuple[Tensor, Tensor]:
        t, q = _cells(frames, self.columns)
        first = q // self.size * self.size
        width = (self.columns - first).clamp(max=self.size)  # the last group may be narrower
        return first * frames + t * width + (q - first), torch.zeros_like(t)


@dataclass(frozen=True)
class Interleave(Pattern):
    """The columns of a hierarchical codec's frame in the order of time, coarse before fine where they start together; one lane.

    SNAC's 1 + 2 + 4 codes, ``levels = (0, 1, 1, 2, 2, 2, 2)``, come as c0, c1[0], c2[0], c2[1], c1[1], c2[2], c2[3].

    Args:
        levels: Level of each column, non-decreasing; the columns of a level divide the frame's time evenly.
    """

    levels: tuple[int, ...]
    columns: int = field(init=False)

    def __post_init__(self) -> None:
        levels = tuple(self.levels)
        if not levels or list(levels) != sorted(levels):
            raise ValueError(f"levels must be non-decreasing numbers, one per column, got {levels}")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "columns", len(levels))

    @property
    def order(self) -> tuple[int, ...]:
        """Columns in the order in which they are written."""

        def start(q: int) -> tuple[Fraction, int]:
            level = self.levels[q]
            return Fraction(q - self.levels.index(level), self.levels.count(level)), level

        return tuple(sorted(range(self.columns), key=start))

    def places(self, frames: int) -> tuple[Tensor, Tensor]:
        t, _ = _cells(frames, self.columns)
        return t * self.columns + torch.tensor(self.order).argsort(), torch.zeros_like(t)


@dataclass(frozen=True)
class MultiScale(Pattern):
    """Scale after scale, coarse first; all steps of a scale are predicted in one pass from the scales before it.

    Args:
        scales: Steps of each scale. A grid holds whole scales: the first few, or all.
        columns: Q, each in its lane.
    """

    scales: tuple[int, ...]
    columns: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or any(steps < 1 for steps in self.scales):
            raise ValueError(f"scales must hold positive step counts, got {self.scales}")
        _positive("columns", self.columns)

    def check(self, frames: int) -> None:
        allowed = (0, *accumulate(self.scales))
        if frames not in allowed:
            raise ValueError(f"frames must be those of whole scales, one of {allowed}, got {frames}")

    def places(self, frames: int) -> tuple[Tensor, Tensor]:
        t, q = _cells(frames, self.columns)
        return t, q

    def groups(self, steps: int) -> Tensor:
        return torch.arange(len(self.scales)).repeat_interleave(torch.tensor(self.scales))[:steps]


PATTERNS = ("parallel", "flatten", "delay", "coarse-first", "interleave", "multi-scale")


def pattern_for(spec: TokenSpec, name: str) -> Pattern:
    """The pattern of that name for a codec's tokens.

    Args:
        spec: What the tokens are.
        name: One of :data:`PATTERNS`.

    Raises:
        ValueError: If there is no such pattern, or the tokens have no scales where it needs them.
    """
    if name == "multi-scale":
        return MultiScale(spec.scales, spec.num_codebooks)
    if name == "interleave":
        return Interleave(spec.levels)
    flat: dict[str, type[Parallel] | type[Flatten] | type[Delay] | type[CoarseFirst]] = {
        "parallel": Parallel,
        "flatten": Flatten,
        "delay": Delay,
        "coarse-first": CoarseFirst,
    }
    if name not in flat:
        raise ValueError(f"name must be one of {', '.join(PATTERNS)}, got {name!r}")
    return flat[name](spec.num_codebooks)


def level_sequences(ids: Tensor, levels: Items[int]) -> list[Tensor]:
    """The columns of a hierarchical codec as the field stores them: one sequence per level.

    Args:
        ids: int64 ``[B, T, Q]``.
        levels: Level of each column.

    Returns:
        Per level int64 ``[B, T * r]``, r the level's columns.
    """
    columns = torch.tensor(tuple(levels))
    return [ids[..., columns == level].flatten(1) for level in columns.unique()]


def from_level_sequences(sequences: Items[Tensor], levels: Items[int]) -> tuple[Tensor, Tensor]:
    """Inverse of :func:`level_sequences`, for sequences of any length.

    Args:
        sequences: Per level int64 ``[B, n]``.
        levels: Level of each column.

    Returns:
        ids ``[B, T, Q]``, the last frame filled with 0, and how many codes each level has, int64 ``[levels]``: where to cut what
        :func:`level_sequences` gives.

    Raises:
        ValueError: If there are not as many sequences as levels.
    """
    columns = tuple(levels)
    rates = [columns.count(level) for level in sorted(set(columns))]
    if len(sequences) != len(rates):
        raise ValueError(f"sequences must be one per level, {len(rates)}, got {len(sequences)}")
    counts = [s.shape[1] for s in sequences]
    frames = max(-(-n // rate) for n, rate in zip(counts, rates, strict=True))
    parts = [
        torch.nn.functional.pad(s, (0, frames * rate - n)).unflatten(1, (frames, rate))
        for s, n, rate in zip(sequences, counts, rates, strict=True)
    ]
    return torch.cat(parts, dim=2), torch.tensor(counts)


def _cells(frames: int, columns: int) -> tuple[Tensor, Tensor]:
    """Frame and column of each code of a grid, ``[T, Q]`` each."""
    t, q = torch.meshgrid(torch.arange(frames), torch.arange(columns), indexing="ij")
    return t, q


def _delays(delays: Items[int] | range, count: int) -> tuple[int, ...]:
    if len(delays) != count or any(d < 0 for d in delays):
        raise ValueError(f"delays must be {count} numbers from 0, got {tuple(delays)}")
    return tuple(delays)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
