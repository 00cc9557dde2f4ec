"""Keys and values of past steps: :class:`Cache` for rows that advance together, :class:`Slots` for rows each at its own pace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Cache:
    """Keys and values of every layer for up to ``capacity`` steps, allocated once.

    Args:
        keys: Per layer ``[B, H, capacity, D]``.
        values: Per layer, likewise.
        valid: Which steps are real, bool ``[B, capacity]``.
        length: Steps written so far.
    """

    keys: list[Tensor]
    values: list[Tensor]
    valid: Tensor
    length: int = 0

    @property
    def capacity(self) -> int:
        """Steps that fit."""
        return self.valid.shape[1]

    def repeat(self, times: int) -> Cache:
        """Each row ``times`` times, one after the other: several continuations of one prompt."""
        keys, values = ([t.repeat_interleave(times, dim=0) for t in tensors] for tensors in (self.keys, self.values))
        return Cache(keys, values, self.valid.repeat_interleave(times, dim=0), self.length)

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``[B, H, L, D]`` to a layer's; returns all of them."""
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


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
