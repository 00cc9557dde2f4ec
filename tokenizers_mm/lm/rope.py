"""Rotary positions along one axis or two: queries and keys turn by angles that grow with their place.

Su et al., "RoFormer", 2021; of grids with one half of a head for rows and one for columns, as in Sun et al., "Autoregressive
Model Beats Diffusion: Llama for Scalable Image Generation", 2024. Tables are made once a forward pass and shared by all layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

RopeLayout = Literal["halves", "pairs"]
CondRope = Literal["identity", "zero"]


class Table(NamedTuple):
    """Cosines and signed sines ``[B or 1, 1, L, D]`` for the features of a head."""

    cos: Tensor
    sin: Tensor
    layout: RopeLayout


@dataclass(frozen=True)
class Rope:
    """How places become angles.

    Args:
        width: Of a head, D; a multiple of twice the axes.
        base: Of the wavelengths.
        scaling: Llama 3.1's stretching of long wavelengths: ``factor``, ``low_freq_factor``, ``high_freq_factor`` and
            ``original_max_position_embeddings``.
        layout: Whether feature i turns with ``i + D / 2`` (as in Llama's converted weights) or with its neighbour (LlamaGen's).
        axes: 1, or 2 for rows and columns: the first half of the angles is the row's.
        cond_rope: What a step at a negative place becomes: ``"identity"``, not turned, or ``"zero"``, zero queries and keys, as
            LlamaGen's weights expect.

    Raises:
        ValueError: If a width or choice is out of range.
    """

    width: int
    base: float = 10000.0
    scaling: Mapping[str, float] | None = None
    layout: RopeLayout = "halves"
    axes: int = 1
    cond_rope: CondRope = "identity"

    def __post_init__(self) -> None:
        if self.axes not in (1, 2) or self.width % (2 * self.axes):
            raise ValueError(
                f"width of a head must be a multiple of twice the axes, 1 or 2; got {self.width} and {self.axes}"
            )
        if self.layout not in get_args(RopeLayout) or self.cond_rope not in get_args(CondRope):
            raise ValueError(
                f"layout must be one of {get_args(RopeLayout)} and cond_rope one of {get_args(CondRope)}, got "
                f"{self.layout!r} and {self.cond_rope!r}"
            )

    def table(self, positions: Tensor) -> Table:
        """For steps at ``positions [B, L]``, or ``[B, L, axes]``.

        A text's place in a network of two axes is both its row and its column (Wang et al., "Qwen2-VL", 2024).

        Raises:
            ValueError: If positions have other axes.
        """
        if positions.ndim == 2:
            positions = positions[..., None].expand(-1, -1, self.axes)
        if positions.ndim != 3 or positions.shape[-1] != self.axes:
            raise ValueError(f"positions must be [B, L] or [B, L, {self.axes}], got {list(positions.shape)}")
        angles = (positions.clamp(min=0)[..., None].float() * self._frequencies(positions.device)).flatten(-2)
        cos, sin = angles.cos(), angles.sin()
        if self.cond_rope == "zero":
            outside = positions[..., :1] < 0
            cos, sin = cos.masked_fill(outside, 0), sin.masked_fill(outside, 0)
        if self.layout == "halves":
            cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
        else:
            cos, sin = torch.stack([cos, cos], dim=-1).flatten(-2), torch.stack([-sin, sin], dim=-1).flatten(-2)
        return Table(cos[:, None], sin[:, None], self.layout)

    def _frequencies(self, device: torch.device) -> Tensor:
        """Of one axis, ``[D / 2 / axes]``."""
        count = self.width // 2 // self.axes
        frequencies = self.base ** (-torch.arange(count, device=device, dtype=torch.float32) / count)
        if self.scaling is None:
            return frequencies
        low, high = self.scaling["low_freq_factor"], self.scaling["high_freq_factor"]
        turns = self.scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return frequencies * (keep + (1 - keep) / self.scaling["factor"])


def turn(x: Tensor, table: Table) -> Tensor:
    """Queries or keys ``[B, H, L, D]`` turned, in float32."""
    y = x.float()
    pairs = y.unflatten(-1, (2, -1) if table.layout == "halves" else (-1, 2))
    partner = pairs.flip(-2 if table.layout == "halves" else -1).flatten(-2)
    return torch.addcmul(y * table.cos, partner, table.sin).to(x.dtype)


def rotate(x: Tensor, positions: Tensor, base: float, scaling: Mapping[str, float] | None = None) -> Tensor:
    """Turn ``x [B, H, L, D]`` at ``positions [B, L]``, halves against each other: for single layers."""
    return turn(x, Rope(x.shape[-1], base, scaling).table(positions))
