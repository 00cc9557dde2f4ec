"""Condition: a change of the signal before a codec gets it (noise, another level), and how a wing declares it.

A wing's ``conditions.py`` holds ``CONDITIONS: dict[str, Condition]``. Reconstructions are compared with the changed signal: the
question is how well a codec keeps what it is given, not whether it undoes the change.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenizers_mm.signals import Signal
from tokenizers_mm.tokens import TokenSpec


@dataclass(frozen=True)
class Condition:
    """One change of a signal.

    Args:
        name: Title in tables.
        definition: What exactly is done, in one sentence; stored with every result.
        function: Takes the signal ``[C, ...]``, its spec and a generator, returns a signal of the same shape.
    """

    name: str
    definition: str
    function: Callable[[Signal, TokenSpec, torch.Generator], Signal]

    def apply(self, signal: Signal, spec: TokenSpec, item: str) -> Signal:
        """The changed signal; chance depends on the item's name alone, so every run and codec gets the same.

        Args:
            signal: ``[C, ...]``.
            spec: Gives the sample rate.
            item: Name of the item.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(item.encode()))
        return self.function(signal, spec, generator)


CLEAN = Condition("clean", "The signal as it is.", lambda signal, spec, generator: signal)


def add_noise(signal: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """``signal`` plus ``noise`` scaled to a signal-to-noise ratio over the whole item; silence stays silent.

    Args:
        signal: Any shape.
        noise: The same shape.
        snr_db: Wanted ratio of powers in dB.
    """
    power, of_noise = (x.double().square().mean() for x in (signal, noise))
    gain = (power / of_noise.clamp(min=1e-30) * 10 ** (-snr_db / 10)).sqrt()
    return signal + gain.to(signal.dtype) * noise


def choose(conditions: Mapping[str, Condition], names: Iterable[str]) -> dict[str, Condition]:
    """The named conditions in the order given; ``clean`` is every wing's.

    Raises:
        ValueError: If a name is unknown.
    """
    known = {"clean": CLEAN, **conditions}
    names = list(names)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown conditions {unknown}: expected some of {sorted(known)}")
    return {name: known[name] for name in names}
