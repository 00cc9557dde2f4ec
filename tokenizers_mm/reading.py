"""Options of a modality's file reader by name, as ``mmtok ... --read NAME=VALUE`` and suites give them.

A wing whose files are read with options has ``reading(options) -> dict`` in its ``files.py``: keyword arguments of its ``read``
and ``blocks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers_mm import registry


def reading(modality: str, options: Mapping[str, object] | None) -> dict[str, Any]:
    """Arguments for a wing's ``files.read`` and ``files.blocks``.

    Raises:
        ValueError: If the wing's files are read without options, or it refuses one.
    """
    if not options:
        return {}
    parse = getattr(registry.wing(modality, "files"), "reading", None)
    if parse is None:
        raise ValueError(f"{modality} files are read without options, got {', '.join(options)}")
    return parse(options)
