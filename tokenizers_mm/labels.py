"""Labels: what is known of a signal besides its values, the names of its channels and its clock.

A wing whose files tell these has in its ``files.py`` either ``read_labelled(path, spec, **options) -> (Tensor, Labels)``
beside ``read``, or, where long files are read in blocks, ``labels(path, spec, **options) -> Labels``; its ``write`` then takes
``labels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenizers_mm.spec import TokenSpec

if TYPE_CHECKING:
    from tokenizers_mm.tokens import Tokens

CLOCK = "clock"
"""Name of the side tensor int64 ``[B, 2]`` with each item's clock."""


@dataclass(frozen=True)
class Labels:
    """Names and clock of one signal.

    Args:
        names: Of the channels, in order.
        clock: Nanoseconds from 1970-01-01 UTC to the first sample, and from each sample to the next.
    """

    names: tuple[str, ...] | None = None
    clock: tuple[int, int] | None = None

    @classmethod
    def of(cls, tokens: Tokens) -> Labels:
        """What tokens of one item carry.

        Raises:
            ValueError: If the clock is none.
        """
        if CLOCK not in tokens.side:
            return cls(tokens.names)
        clock = tokens.side[CLOCK]
        if clock.dtype != torch.int64 or clock.shape != (1, 2) or int(clock[0, 1]) < 0:
            raise ValueError(
                f"side[{CLOCK!r}] must be a start and a step of at least 0, int64 [1, 2], "
                f"got {clock.dtype} {list(clock.shape)} {clock.flatten()[:4].tolist()}"
            )
        return cls(tokens.names, (int(clock[0, 0]), int(clock[0, 1])))

    def put(self, tokens: Tokens) -> Tokens:
        """The same tokens, of one item, with these labels."""
        side = tokens.side
        if self.clock is not None:
            side = {**side, CLOCK: torch.tensor([self.clock], device=tokens.device)}
        return replace(tokens, names=self.names, side=side)


def labels_for(files: ModuleType, tokens: Tokens) -> dict[str, Any]:
    """Argument ``labels`` of a wing's ``files.write``: empty where its files tell none."""
    knows = hasattr(files, "read_labelled") or hasattr(files, "labels")
    return {"labels": Labels.of(tokens)} if knows else {}


def check_names(names: Sequence[str], spec: TokenSpec, shapes: Tensor) -> None:
    """Refuse names that are not one per channel of every item.

    Args:
        names: Of the channels.
        spec: Says which axis of the grid the channels are, or how many the signals have.
        shapes: int64 ``[B, A]``, the items' grids.

    Raises:
        TypeError: If they are no tuple of strings.
        ValueError: If there are more or fewer than channels, or one is not valid Unicode.
    """
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a tuple of strings, got {names!r}"[:200])
    counts = {spec.channels} if "channel" not in spec.axes else set(shapes[:, spec.axes.index("channel")].tolist())
    if wrong := sorted(counts - {len(names)}):
        raise ValueError(f"names must name each channel of every item, got {len(names)} for {wrong[0]} channels")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"names must be valid Unicode, got {ascii(name)[:80]}") from None
