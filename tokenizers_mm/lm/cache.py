"""Keys and values of past steps: :class:`Cache` for continuations, :class:`Slots` for rows that advance each on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class Cache:
    """Keys and values of every layer for up to ``capacity`` steps, allocated once and written by index.

    Rows advance together, and may be taken back each by its own count (:meth:`rollback`). What is behind a row's end stays
    there unseen until it is written over, so that this costs nothing.

    Args:
        layers: Of the transformer.
        shape: ``(B, H, capacity, D)``.
        like: A tensor of the wanted type and device.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self.keys, self.values = ([like.new_zeros(shape) for _ in range(layers)] for _ in range(2))
        self.batch, self.capacity = shape[0], shape[2]
        self.length = 0
        """Steps of the longest row, padding among them."""
        self.lengths: Tensor | None = None
        """Steps of each row, int ``[B]``; None while they are all ``length``."""
        self.start: Tensor | None = None
        """Steps of padding at the beginning of each row, int ``[B]``; None while there is none."""

    def upcoming(self, steps: int) -> Tensor:
        """Where the next steps of rows will stand, int ``[B or 1, steps]``."""
        new = torch.arange(steps, device=self.keys[0].device)[None]
        return new + (self.length if self.lengths is None else self.lengths[:, None])

    def take(self, steps: int) -> CacheAt:
        """Room for the next steps of all rows.

        Raises:
            ValueError: If they don't fit.
        """
        end = self.length + steps
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.batch} rows of {self.capacity} steps, got {end} steps")
        found = CacheAt(self, self.upcoming(steps), end, even=self.lengths is None)
        self.length, self.lengths = end, None if self.lengths is None else self.lengths + steps
        return found

    def rollback(self, steps: int | Tensor) -> None:
        """Forget the last steps of every row, or of each its own number, int ``[B]`` (which the host waits for).

        Raises:
            ValueError: If a row doesn't have so many.
        """
        if isinstance(steps, int):
            if self.lengths is None and self.start is None and 0 <= steps <= self.length:
                self.length -= steps
                return
            steps = torch.full((self.batch,), steps, device=self.keys[0].device)
        if steps.shape != (self.batch,):
            raise ValueError(f"steps must be a number or one for each of {self.batch} rows, got {list(steps.shape)}")
        lengths = (self.length if self.lengths is None else self.lengths) - steps
        floor = torch.zeros_like(lengths) if self.start is None else self.start
        low, high, spare, least = torch.stack(
            [lengths.min(), lengths.max(), (lengths - floor).min(), steps.min()]
        ).tolist()
        if spare < 0 or least < 0:
            raise ValueError(f"steps must be from 0 to what each row holds, got {steps.tolist()}")
        self.length, self.lengths = high, None if low == high else lengths

    def reset(self) -> None:
        """Forget everything."""
        self.length, self.lengths, self.start = 0, None, None

    def fork(self) -> Cache:
        """A copy that goes its own way."""
        return self._each(torch.clone)

    def repeat(self, times: int) -> Cache:
        """Each row ``times`` times, one after the other: several continuations of one prompt."""
        return self._each(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def reorder(self, rows: Tensor) -> Cache:
        """Rows ``[n]`` of this one, which may be fewer or repeat: beams, survivors."""
        return self._each(lambda tensor: tensor.index_select(0, rows))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Cache:
        """Another with every tensor changed along its rows."""
        other = Cache.__new__(Cache)
        other.keys, other.values = ([change(t) for t in tensors] for tensors in (self.keys, self.values))
        other.batch, other.capacity, other.length = len(other.keys[0]), self.capacity, self.length
        other.lengths, other.start = (None if t is None else change(t) for t in (self.lengths, self.start))
        return other


@dataclass
class CacheAt:
    """The columns of a :class:`Cache` that one forward pass writes.

    Args:
        cache: Whose.
        columns: int ``[B or 1, L]``.
        end: One after the last column of the longest row.
        even: Whether all rows write the same columns.
    """

    cache: Cache
    columns: Tensor
    end: int
    even: bool

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put ``[B, H, L, D]`` into a layer; returns all that may be seen of it."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if self.even:
            new = slice(self.end - k.shape[2], self.end)
            keys[:, :, new] = k
            values[:, :, new] = v
        else:
            at = (torch.arange(len(k), device=k.device)[:, None], slice(None), self.columns)
            keys[at] = k.transpose(1, 2).to(keys.dtype)
            values[at] = v.transpose(1, 2).to(values.dtype)
        return keys[:, :, : self.end], values[:, :, : self.end]


class Slots:
    """Keys and values addressed by position: some rows may advance while others wait, and positions may be written anew.

    A ring: position p has slot ``p % capacity``. One slot more takes what padding writes.

    Args:
        layers: Of the transformer.
        shape: ``(B, H, capacity, D)``.
        like: A tensor of the wanted type and device.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int], like: Tensor) -> None:
        batch, heads, self.capacity, width = shape
        room = (batch, heads, self.capacity + 1, width)
        self.keys, self.values = ([like.new_zeros(room) for _ in range(layers)] for _ in range(2))
        self.positions = torch.full((batch, self.capacity + 1), -1, dtype=torch.int64, device=like.device)

    def at(self, rows: Tensor, positions: Tensor) -> SlotsAt:
        """The part of some rows, about to be written at ``positions [n, L]``; -1 is padding."""
        slots = torch.where(positions < 0, self.capacity, positions % self.capacity)
        self.positions[rows[:, None], slots] = positions
        return SlotsAt(self, rows, slots)

    def forget(self, row: int, first: int) -> None:
        """Drop positions from ``first`` on."""
        self.positions[row].masked_fill_(self.positions[row] >= first, -1)


@dataclass
class SlotsAt:
    """Rows of :class:`Slots`, with the slots that this forward pass writes."""

    cache: Slots
    rows: Tensor
    slots: Tensor

    @property
    def positions(self) -> Tensor:
        """Of the rows' keys, ``[n, capacity + 1]``; -1 where there is none."""
        return self.cache.positions[self.rows]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put ``[n, H, L, D]`` into their slots; returns all keys and values of the rows."""
        at = (self.rows[:, None], slice(None), self.slots)
        self.cache.keys[layer][at] = k.transpose(1, 2)
        self.cache.values[layer][at] = v.transpose(1, 2)
        return self.cache.keys[layer][self.rows], self.cache.values[layer][self.rows]
