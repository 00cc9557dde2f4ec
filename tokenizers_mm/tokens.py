"""Tokens: a batch of discrete token grids, and TokenSpec: what one codec's tokens are.

Every codec of every modality speaks these two types. How each maps onto them:

============================  =========================  ===============================================================
signal and codec              ``axes``                   notes
============================  =========================  ===============================================================
audio, one codebook           ``("time",)``              WavTokenizer: ``codebook_sizes=(4096,)``
audio, residual codebooks     ``("time",)``              the Q columns of a step; ``scalable="columns"``
audio, SNAC 1+2+4             ``("time",)``              7 columns per coarse step, ``levels=(0, 1, 1, 2, 2, 2, 2)``
image, 2-D grid               ``("height", "width")``    row-major; ``hop=(16, 16)``
image, VAR's ten scales       ``("scale",)``             680 steps of one column, ``scales=(1, 4, 9, ... 256)``,
                                                         ``scalable="scales"``
image, 1-D (TiTok)            ``("rank",)``              32 steps for any size, ``scales=(32,)``;
                                                         ``scalable="steps"`` where any prefix decodes
EEG                           ``("channel", "time")``    ``hop=(1, 200)``: one row of tokens per electrode
time series                   ``("channel", "time")``    scales (mean, deviation) travel in ``side``, columns' names in
                                                         ``names``, timestamps as a regular clock in ``side["clock"]``
text, bytes or subwords       ``("token",)``             ``hop=None``: the length depends on the content
text, words of bytes          ``("token",)``             ``side["word_lengths"]`` ``[B, W]``
text, dynamic vocabulary      ``("token",)``             ``shared["vocabulary"]``: one table for the whole batch
============================  =========================  ===============================================================
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

import torch
from einops import rearrange
from torch import Tensor

from tokenizers_mm.labels import CLOCK, check_names
from tokenizers_mm.spec import TokenSpec

if TYPE_CHECKING:
    from tokenizers_mm.bitstream import IdCoder

__all__ = ["TokenSpec", "Tokens"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of token grids.

    Args:
        ids: int64 ``[B, T, Q]``; item b's grid, flattened row-major, fills its first ``lengths[b]`` steps, the rest: 0.
        spec: What these ids mean.
        shapes: int64 ``[B, A]``, each item's grid (A axes); by default every item fills all T steps of a 1-axis grid.
        side: Named per-item tensors ``[B, ...]`` that decode needs besides ids. ``side["size"]`` ``[B, D]`` holds the
            original signal's samples along its last D dimensions, so that decode returns exactly those; ``side["clock"]``
            int64 ``[B, 2]``, where there are timestamps, the nanoseconds from 1970-01-01 UTC to the first sample and from
            each to the next.
        shared: Named tensors that belong to the batch as a whole (a dynamic vocabulary).
        names: Of the channels of every item, where they are known.

    Raises:
        TypeError: If ids are not an integer tensor, side or shared hold something else than tensors, or names no strings.
        ValueError: If shapes do not fit together or an id is outside its codebook.
    """

    ids: Tensor
    spec: TokenSpec
    shapes: Tensor = None  # type: ignore[assignment]  # filled in __post_init__
    side: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        ids, spec, axes = self.ids, self.spec, len(self.spec.axes)
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"ids must be an integer tensor [B, T, Q], got {getattr(ids, 'dtype', type(ids))}")
        if ids.ndim != 3 or ids.shape[2] != spec.num_codebooks:
            raise ValueError(f"ids must be [B, T, {spec.num_codebooks}], got {list(ids.shape)}")
        object.__setattr__(self, "ids", ids.long())
        shapes = self.shapes
        if shapes is None:
            if axes != 1:
                raise ValueError(f"shapes [B, {axes}] is needed for axes {spec.axes}")
            shapes = torch.full((len(ids), 1), ids.shape[1], dtype=torch.long, device=ids.device)
        shapes = torch.as_tensor(shapes, dtype=torch.long, device=ids.device)
        if shapes.shape != (len(ids), axes):
            raise ValueError(f"shapes must be [{len(ids)}, {axes}], got {list(shapes.shape)}")
        object.__setattr__(self, "shapes", shapes)
        huge = shapes.float().prod(dim=-1) > 2**62  # whose integer product would wrap around
        if (shapes < 0).any() or (self.lengths > ids.shape[1]).any() or huge.any():
            raise ValueError(f"shapes must hold grids of 0 to T={ids.shape[1]} steps, got {shapes.tolist()}")
        for name, value in (*self.side.items(), *self.shared.items()):
            if not isinstance(value, Tensor):
                raise TypeError(f"side and shared must hold tensors, got {type(value)} for {name!r}")
        for name, value in self.side.items():
            if value.ndim < 1 or len(value) != len(ids):
                raise ValueError(f"side[{name!r}] must have {len(ids)} items, got {list(value.shape)}")
        if self.names is not None:
            check_names(self.names, spec, shapes)
        sizes = torch.tensor(spec.codebook_sizes, device=ids.device)
        if bool((self.lengths == ids.shape[1]).all()) and _inside(self.ids, sizes):
            return  # the common case, which needs neither masks nor copies
        mask = self.mask[..., None]
        wrong = mask & ((self.ids < 0) | (self.ids >= sizes))
        if wrong.any():
            item, step, column = (int(i) for i in wrong.nonzero()[0])
            raise ValueError(
                f"ids[{item}, {step}, {column}] must be in [0, {spec.codebook_sizes[column]}), "
                f"got {int(self.ids[item, step, column])}"
            )
        object.__setattr__(self, "ids", self.ids.masked_fill(~mask, 0))

    @property
    def lengths(self) -> Tensor:
        """Steps of each item, int64 ``[B]``."""
        return self.shapes.prod(dim=-1)

    @property
    def mask(self) -> Tensor:
        """Which steps are real, bool ``[B, T]``."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid that holds every item: the largest extent along each axis."""
        return tuple(self.shapes.amax(dim=0).tolist()) if len(self) else (0,) * len(self.spec.axes)

    @property
    def codes(self) -> Tensor:
        """The field's view of ids, ``[B, Q, T]``."""
        return rearrange(self.ids, "b t q -> b q t")

    @property
    def bits(self) -> Tensor:
        """Ideal bits of each item, float64 ``[B]``."""
        return self.lengths.double() * self.spec.bits_per_step

    @property
    def bitrate(self) -> Tensor:
        """Ideal bits per second of each item, float64 ``[B]``.

        Raises:
            ValueError: If the signals have no time axis.
        """
        if self.spec.frame_rate is None or self.spec.sample_rate is None:
            raise ValueError(f"{self.spec.modality} tokens have no time axis, so no bitrate")
        size = self.side.get("size")
        if size is None:
            size = self.shapes.new_tensor([self.spec.samples(steps) for steps in self.shapes[:, -1].tolist()])[:, None]
        seconds = size[:, -1] / self.spec.sample_rate
        return self.bits / seconds.double().clamp(min=1 / self.spec.sample_rate)

    @property
    def device(self) -> torch.device:
        return self.ids.device

    def grid(self, item: int) -> Tensor:
        """Ids of one item in its own grid, ``[*shape, Q]``."""
        shape = self.shapes[item].tolist()
        return self.ids[item, : math.prod(shape)].reshape(*shape, self.ids.shape[-1])

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Tokens]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int] | Tensor) -> Tokens:
        """Some items as a batch of their own, its padding trimmed; an int gives a batch of one."""
        if isinstance(index, SupportsIndex) and not getattr(index, "ndim", 0):
            index = operator.index(index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"item {index} of a batch of {len(self)}")
            index = [index]
        pick = torch.arange(len(self), device=self.device)[index]
        shapes = self.shapes[pick]
        steps = int(shapes.prod(-1).max()) if len(pick) else 0
        return replace(self, ids=self.ids[pick, :steps], shapes=shapes, side={k: v[pick] for k, v in self.side.items()})

    def __eq__(self, other: object) -> bool:
        """Same spec, same grids, same ids, same side information and names; padding does not count."""
        if not isinstance(other, Tokens):
            return NotImplemented
        same_keys = self.side.keys() == other.side.keys() and self.shared.keys() == other.shared.keys()
        return (
            self.spec == other.spec
            and self.names == other.names
            and same_keys
            and torch.equal(self.shapes, other.shapes)
            and all(torch.equal(a, b) for a, b in zip(self._rows(), other._rows(), strict=True))
            and all(_equal_side(value, other.side[key]) for key, value in self.side.items())
            and all(torch.equal(value, other.shared[key]) for key, value in self.shared.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def _rows(self) -> list[Tensor]:
        return [row[:n] for row, n in zip(self.ids, self.lengths.tolist(), strict=True)]

    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on another device."""

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {key: value.to(device) for key, value in tensors.items()}

        return replace(
            self, ids=self.ids.to(device), shapes=self.shapes.to(device), side=move(self.side), shared=move(self.shared)
        )

    def prefix(self, *, columns: int | None = None, steps: int | None = None, scales: int | None = None) -> Tokens:
        """The cheaper tokens that a scalable codec also decodes: first columns, first steps, or first scales.

        Raises:
            ValueError: If the spec does not allow that cut, or the number is out of range.
        """
        given = {k: v for k, v in (("columns", columns), ("steps", steps), ("scales", scales)) if v is not None}
        if len(given) != 1 or (kind := next(iter(given))) != self.spec.scalable:
            raise ValueError(f"this spec is scalable in {self.spec.scalable!r}, got {sorted(given)}")
        if columns is not None:
            return replace(self, ids=self.ids[..., :columns], spec=self.spec.prefix(columns))
        most = len(self.spec.scales) if kind == "scales" else self.ids.shape[1]
        if not 1 <= given[kind] <= most:
            raise ValueError(f"{kind} must be 1 to {most}, got {given[kind]}")
        keep = sum(self.spec.scales[:scales]) if kind == "scales" else given[kind]
        return replace(self, ids=self.ids[:, :keep], shapes=self.shapes.clamp(max=keep))

    def narrow(self, start: int, length: int) -> Tokens:
        """A stretch of the last axis of a batch of one, without side tensors: those are of the whole."""
        grid = self.grid(0).narrow(-2, start, length)
        shapes = self.shapes.new_tensor([grid.shape[:-1]])
        return replace(self, ids=grid.reshape(1, -1, grid.shape[-1]), shapes=shapes, side={})

    @classmethod
    def cat(cls, batches: Sequence[Tokens]) -> Tokens:
        """Batches of one spec as one batch, padded to the longest item.

        What only labels the signals is kept where all agree on it: names if they are the same, clocks if all have one.

        Raises:
            ValueError: If there is nothing to join, specs or side names differ, or ``shared`` tables differ.
        """
        if not batches:
            raise ValueError("batches must hold at least one Tokens, got none")
        if any(CLOCK in b.side for b in batches) and not all(CLOCK in b.side for b in batches):
            batches = [replace(b, side={k: v for k, v in b.side.items() if k != CLOCK}) for b in batches]
        first = batches[0]
        for other in batches[1:]:
            if other.spec != first.spec:
                raise ValueError(f"cannot join tokens of different specs: {first.spec} and {other.spec}")
            if other.side.keys() != first.side.keys() or other.shared.keys() != first.shared.keys():
                raise ValueError(f"cannot join side {sorted(first.side)} with {sorted(other.side)}")
            if not all(torch.equal(value, other.shared[key]) for key, value in first.shared.items()):
                raise ValueError("cannot join batches whose shared tables differ: their ids mean different things")
        return cls(
            ids=_pad_cat([b.ids for b in batches]),
            spec=first.spec,
            shapes=torch.cat([b.shapes for b in batches]),
            side={key: _pad_cat([b.side[key] for b in batches]) for key in first.side},
            shared=first.shared,
            names=first.names if all(b.names == first.names for b in batches) else None,
        )

    def save(self, path: str | Path, *, codec: str | None = None, lm: str | Path | None = None) -> None:
        """Write a ``.mmt`` file (see :mod:`tokenizers_mm.bitstream`).

        Args:
            path: Where to.
            codec: Name of the codec that made the tokens.
            lm: Name or folder of a language model, to code ids as it predicts them; the file opens where the model is.
        """
        from tokenizers_mm import bitstream

        bitstream.save(self, path, codec=codec, coder=_coder(lm))

    @classmethod
    def load(cls, path: str | Path, *, lm: str | Path | None = None) -> Tokens:
        """Read a ``.mmt`` file; raises ``BitstreamError`` for anything that is not one.

        Args:
            path: The file.
            lm: Name or folder of the language model that coded it, where it did; a model that ships is found by itself.
        """
        from tokenizers_mm import bitstream

        return bitstream.load(path, coder=_coder(lm))

    def __repr__(self) -> str:
        return f"Tokens({self.spec.modality}, {len(self)} x {self.shape}, codebooks {self.spec.codebook_sizes})"


def _coder(lm: str | Path | None) -> IdCoder | None:
    if lm is None:
        return None
    from tokenizers_mm.lm.compression import LMCoder

    return LMCoder.load(lm)


def _inside(ids: Tensor, sizes: Tensor) -> bool:
    """Whether ids ``[B, T, Q]`` are all in their codebooks."""
    if not ids.numel():
        return True
    low, high = torch.aminmax(ids.flatten(0, 1), dim=0)
    return bool((low >= 0).all()) and bool((high < sizes).all())


def _equal_side(a: Tensor, b: Tensor) -> bool:
    """Whether side tensors are equal, zeros aside that joining batches put at the end of dim 1."""
    if min(a.ndim, b.ndim) < 2 or a.dtype != b.dtype or a.shape[2:] != b.shape[2:] or len(a) != len(b):
        return torch.equal(a, b)
    n = min(a.shape[1], b.shape[1])
    return torch.equal(a[:, :n], b[:, :n]) and not a[:, n:].any() and not b[:, n:].any()


def _pad_cat(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along dim 0, zero-padding dim 1 (where there is one) to the longest."""
    if tensors[0].ndim < 2:
        return torch.cat(list(tensors))
    longest = max(t.shape[1] for t in tensors)
    return torch.cat([torch.cat([t, t.new_zeros(len(t), longest - t.shape[1], *t.shape[2:])], dim=1) for t in tensors])
