"""Stream: how the tokens of one codec are written in a language model's sequences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.lm.pattern import Pattern
from tokenizers_mm.lm.patterns import pattern_for
from tokenizers_mm.lm.scales import Scales
from tokenizers_mm.tokens import Tokens, TokenSpec

Grid = tuple[int | None, ...]


@dataclass(frozen=True)
class Stream:
    """The tokens of one codec, the order in which they are written and how large their grids are.

    The frames of a grid ``(channel, time)`` are its moments, the codes of all channels side by side as columns; those of an image
    are its cells, row by row.

    Scales of ``"multi-scale"`` are predicted each at once from those before it. No code of the last one is read but the very
    last, so that what follows in a document sees the scales before. An item of only the first few scales ends its document.

    Args:
        name: What it is called in the vocabulary.
        spec: What the tokens are.
        pattern: One of :data:`~tokenizers_mm.lm.patterns.PATTERNS`.
        grid: Extents of every item's grid, None where items differ: ``(16, 16)``, ``(19, None)``. By default nothing is fixed.
            Only the last extent may differ, or all of them; rows then end with a mark of their own.
        codec: Name of the codec's card, or its folder, if it is to be loaded with the model.
        sides: Rows and columns of each scale, or the length of each line, for ``"multi-scale"``; by default squares if every
            scale can be one, else lines.

    Raises:
        ValueError: If the grid or the sides do not fit the tokens or the pattern.
    """

    name: str
    spec: TokenSpec
    pattern: str = "flatten"
    grid: Grid = ()
    codec: str | None = None
    sides: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        axes = len(self.spec.axes)
        grid = tuple(self.grid) or ((sum(self.spec.scales),) if self.spec.scales else (None,) * axes)
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "sides", tuple(tuple(each) for each in self.sides))
        if not self.name.replace("-", "_").isidentifier():
            raise ValueError(f"name must be letters, digits, - and _, got {self.name!r}")
        if len(grid) != axes or any(n is not None and n < 1 for n in grid):
            raise ValueError(f"grid must give a positive extent or None for each of {self.spec.axes}, got {grid}")
        if None in grid[:-1] and any(n is not None for n in grid):
            raise ValueError(f"grid must leave open its last extent, or all, got {grid}")
        if self.pattern == "multi-scale" and grid[0] not in tuple(accumulate(self.spec.scales)):
            raise ValueError(f"grid must hold the first few of scales {self.spec.scales}, got {grid}")
        if self.sides and (self.scales is None or tuple(map(math.prod, self.sides)) != self.spec.scales):
            raise ValueError(f"sides must be those of {self.spec.scales} steps with 'multi-scale', got {self.sides}")
        if None in grid and not self.order.open_ended:
            raise ValueError(f"pattern {self.pattern!r} needs the length beforehand: grid must be fixed, got {grid}")
        if self.marks_rows and (self.order.lanes > 1 or self.spec.axes[-1] == "time"):
            raise ValueError(f"grid must be fixed but for its last extent with pattern {self.pattern!r}, got {grid}")

    @property
    def by_moment(self) -> bool:
        """Whether the codes of all channels stand side by side."""
        return len(self.grid) == 2 and self.spec.axes[-1] == "time"

    @property
    def marks_rows(self) -> bool:
        """Whether rows end with a mark: where items may have grids of any size."""
        return len(self.grid) == 2 and self.grid[0] is None

    @property
    def closed(self) -> bool:
        """Whether all items have the same grid."""
        return None not in self.grid

    @property
    def scales(self) -> Scales | None:
        """The grids of an item that are predicted each at once."""
        if self.pattern != "multi-scale":
            return None
        count = list(accumulate(self.spec.scales)).index(self.grid[0] or 0) + 1
        return Scales(self.sides[:count]) if self.sides else Scales.of(self.spec.scales[:count])

    @property
    def columns(self) -> int:
        """Codes of a frame."""
        rows = self.grid[0] if self.by_moment else 1
        return self.spec.num_codebooks * (rows or 1)

    @property
    def order(self) -> Pattern:
        """Where the codes of the frames stand."""
        if not self.by_moment:
            return pattern_for(self.spec, self.pattern)
        sizes = self.spec.codebook_sizes * (self.columns // self.spec.num_codebooks)
        return pattern_for(TokenSpec(modality=self.spec.modality, codebook_sizes=sizes), self.pattern)

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """The extents of the grid that are fixed."""
        return tuple(n for n in self.grid if n is not None)

    def open_shape(self, frames: int) -> tuple[int, ...]:
        """Shape of a grid of so many frames whose last extent is open."""
        return (*self.fixed_shape, frames)

    def frames_before(self, step: int) -> int:
        """Frames of an item that ends at a step of its sequence: those that have begun before, at least one."""
        steps = self.order.places(step + 1)[0]
        return max(int((steps[:, self.first_column] < step).sum()), 1)

    @property
    def first_column(self) -> int:
        """The column whose code begins a frame; the end of an item stands where another one's would."""
        return int(self.order.places(1)[0][0].argmin())

    def codebook(self, column: int) -> int:
        """The codebook of a frame's column: channels and scales share theirs."""
        return column % self.spec.num_codebooks

    def frames(self, shape: Sequence[int]) -> int:
        """Frames of a grid of that shape.

        Raises:
            ValueError: If the stream has no such grids.
        """
        fits = len(shape) == len(self.grid) and all(
            n >= 1 and (own is None or n == own) for n, own in zip(shape, self.grid, strict=True)
        )
        if not fits and not self.breaks_off(shape):
            raise ValueError(
                f"stream {self.name!r} must have grids {self.grid} of {self.spec.axes}, got {tuple(shape)}"
            )
        return shape[1] if self.by_moment else math.prod(shape)

    def breaks_off(self, shape: Sequence[int]) -> bool:
        """Whether an item of that shape is the first few scales of one, after which nothing can follow in a document."""
        return self.scales is not None and tuple(shape) in [(n,) for n in self.scales.ends[:-1]]

    def codes(self, tokens: Tokens) -> tuple[Tensor, tuple[int, ...]]:
        """Codes of a single item as frames ``[T, columns]``, and the shape of its grid.

        Raises:
            ValueError: If the tokens are another codec's, not one item, or carry a vocabulary of their own.
        """
        if tokens.spec != self.spec:
            raise ValueError(f"stream {self.name!r} holds tokens of {self.spec}, got those of {tokens.spec}")
        if len(tokens) != 1:
            raise ValueError(f"tokens must be one item, got {len(tokens)}")
        if tokens.shared:
            raise ValueError(f"tokens must not bring their own tables, got {sorted(tokens.shared)}")
        shape = tuple(tokens.shapes[0].tolist())
        self.frames(shape)
        grid = tokens.grid(0)
        if self.by_moment:
            return grid.transpose(0, 1).flatten(1), shape
        return grid.flatten(0, -2), shape

    def beginning(self, tokens: Tokens, shape: Sequence[int] | None) -> Tensor:
        """Frames ``[T', columns]`` of the beginning of an item: its first moments, first rows, or whole scales.

        Args:
            tokens: One item.
            shape: Of the whole, if it is known.

        Raises:
            ValueError: If the tokens are not the beginning of such an item.
        """
        if tokens.spec != self.spec or len(tokens) != 1:
            raise ValueError(f"prompt must be one item of {self.spec}, got {len(tokens)} of {tokens.spec}")
        have = tuple(tokens.shapes[0].tolist())
        if self.scales is not None:
            self.frames(have)
        growing = len(have) - 1 if len(have) == 1 or self.by_moment else 0
        whole = have if shape is None else shape
        rest = [(n, m) for axis, (n, m) in enumerate(zip(have, whole, strict=True)) if axis != growing]
        fixed = self.grid[:growing] + self.grid[growing + 1 :]
        if have[growing] > whole[growing] or any(n != m for n, m in rest):
            raise ValueError(f"prompt must be the beginning of a grid {whole}, got {have}")
        if any(own not in (None, n) for (n, _), own in zip(rest, fixed, strict=True)) or (
            self.marks_rows and shape is None
        ):
            raise ValueError(
                f"prompt must fit grids {self.grid}, of a shape that is given where all differ, got {have}"
            )
        grid = tokens.grid(0)
        return grid.transpose(0, 1).flatten(1) if self.by_moment else grid.flatten(0, -2)

    def tokens(self, frames: Tensor, shape: Sequence[int], side: Mapping[str, Tensor] | None = None) -> Tokens:
        """Inverse of :meth:`codes`: one item from its frames ``[T, columns]``."""
        return Tokens(self.grid_of(frames)[None], self.spec, torch.tensor([shape]), side or {})

    def grid_of(self, frames: Tensor) -> Tensor:
        """What belongs to the codes of frames ``[T, columns]`` in the order of tokens, ``[steps, Q]``."""
        if not self.by_moment:
            return frames
        return frames.unflatten(1, (-1, self.spec.num_codebooks)).transpose(0, 1).flatten(0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for JSON."""
        return {
            "name": self.name, "spec": self.spec.to_dict(), "pattern": self.pattern, "grid": list(self.grid),
            "codec": self.codec, **({"sides": [list(each) for each in self.sides]} if self.sides else {}),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Stream:
        """Inverse of :meth:`to_dict`. A mapping without ``spec`` takes that of its ``codec``'s card.

        Raises:
            ValueError: If keys are unknown or both are missing.
        """
        mapping = dict(mapping)
        if unknown := mapping.keys() - {"name", "spec", "pattern", "grid", "codec", "sides"}:
            raise ValueError(f"a stream has name, spec or codec, pattern, grid and sides, got {sorted(unknown)}")
        if mapping.get("spec") is None:
            if mapping.get("codec") is None:
                raise ValueError(f"stream {mapping.get('name')!r} needs a spec or a codec")
            mapping["spec"] = _spec_of(mapping["codec"])
        elif not isinstance(mapping["spec"], TokenSpec):
            mapping["spec"] = TokenSpec.from_dict(mapping["spec"])
        mapping["grid"] = tuple(mapping.get("grid") or ())
        return cls(**mapping)


def _spec_of(codec: str) -> TokenSpec:
    """The tokens of a codec: what its card says, without its weights, or its folder."""
    from tokenizers_mm import registry  # above this package: only to look a name up

    if codec in {card.name for card in registry.list_codecs()}:
        return registry.get_card(codec).spec
    return registry.load(codec).spec
