"""Baseline: a classical coder in the same table as the codecs, and how a wing declares it.

A wing's ``baselines.py`` holds ``BASELINES: dict[str, Baseline]``. A baseline's rate is that of the bytes it really
writes, and its reconstruction is decoded from those bytes and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tokenizers_mm.signals import Signal
from tokenizers_mm.tokens import TokenSpec

B = TypeVar("B")


def _available(spec: TokenSpec) -> str | None:
    return None


@dataclass(frozen=True)
class Baseline:
    """One classical coder at one setting.

    Args:
        name: Title in tables.
        definition: What exactly is run, in one sentence; stored with every result.
        encode: Turns a signal ``[C, ...]`` with the rate and channels of a spec into a file's bytes.
        decode: Turns these bytes into the signal again, at the rate of the spec.
        unavailable: Why it cannot run here on signals of that spec, or None if it can.
        payload: Bytes without the container's headers.
    """

    name: str
    definition: str
    encode: Callable[[Signal, TokenSpec], bytes]
    decode: Callable[[bytes, TokenSpec], Signal]
    unavailable: Callable[[TokenSpec], str | None] = _available
    payload: Callable[[bytes], int] = len

    def __call__(self, signal: Signal, spec: TokenSpec) -> tuple[bytes, Signal]:
        """The bytes of a signal, and what they decode to."""
        data = self.encode(signal, spec)
        return data, self.decode(data, spec)


def choose(baselines: Mapping[str, B], names: Iterable[str]) -> dict[str, B]:
    """The named baselines in the order given.

    Raises:
        ValueError: If a name is unknown.
    """
    names = list(names)
    if unknown := [name for name in names if name not in baselines]:
        raise ValueError(f"unknown baselines {unknown}: expected some of {sorted(baselines)}")
    return {name: baselines[name] for name in names}
