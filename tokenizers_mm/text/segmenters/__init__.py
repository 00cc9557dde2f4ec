"""Segmenters: names, and :func:`segmenter`, which makes one from its name and options."""

from __future__ import annotations

import importlib
import re
from typing import Any

from tokenizers_mm.text.segmenters.base import Segmentation, Segmenter, SegmentStream

__all__ = ["NAMES", "SegmentStream", "Segmentation", "Segmenter", "segmenter"]

_HOMES = {
    "uax29": ("uax29", "UAX29"),
    "whitespace": ("rules", "Whitespace"),
    "fixed": ("rules", "Fixed"),
    "spacelike": ("rules", "SpaceLike"),
    "entropy": ("entropy", "Entropy"),
    "learned": ("learned", "Learned"),
    "bpe": ("subword", "Subword"),
}
NAMES = tuple(_HOMES)
"""What :func:`segmenter` takes; ``"fixed-4"`` is ``"fixed"`` with ``size=4``."""


def segmenter(name: str, **options: Any) -> Segmenter:
    """A segmenter.

    Args:
        name: One of :data:`NAMES`, or ``"fixed-K"``.
        options: Arguments of its class, such as ``max_bytes``.

    Raises:
        ValueError: If there is none of that name, or it refuses an option's value.
        TypeError: If it does not take an option.
    """
    if fixed := re.fullmatch(r"fixed-(\d+)", name):
        name, options = "fixed", {"size": int(fixed[1]), **options}
    if name not in _HOMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)} or fixed-K such as fixed-4, got {name!r}")
    module, cls = _HOMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), cls)(**options)
