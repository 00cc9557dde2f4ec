"""Signals: what a codec encodes several of. Tensors, and strings where the modality is text; here is what both have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Signal: TypeAlias = Any
"""A tensor ``[C, ...]``, or a string: what a wing's ``files.read`` gives and its codecs, baselines and metrics take."""


def batched(signals: Sequence[Signal], device: torch.device | str = "cpu") -> tuple[Any, Tensor]:
    """Signals as one batch, and their lengths: what ``Codec.encode`` takes.

    Args:
        signals: Strings, or tensors ``[C, ...]`` that differ at most in their last extent.
        device: Where tensors go.

    Returns:
        A list of strings, or a tensor zero-padded at the end; samples (UTF-8 bytes of strings) of each, int64 ``[B]``.
    """
    lengths = torch.tensor([extents(signal)[-1] for signal in signals])
    if isinstance(signals[0], str):
        return list(signals), lengths
    batch = torch.zeros(len(signals), *signals[0].shape[:-1], int(lengths.max()))
    for row, signal in zip(batch, signals, strict=True):
        row[..., : signal.shape[-1]] = signal
    return batch.to(device), lengths


def extents(signal: Signal) -> tuple[int, ...]:
    """Samples along each axis; of a string its UTF-8 bytes."""
    return (len(signal.encode("utf-8")),) if isinstance(signal, str) else tuple(signal.shape)


def fitted(found: Signal, signal: Signal) -> Signal:
    """What a coder made of a signal, cut or zero-padded to its last extent, on the CPU; a string is what it is."""
    if isinstance(signal, str):
        return found
    n = min(signal.shape[-1], found.shape[-1])
    out = found.new_zeros(signal.shape, device="cpu")
    out[..., :n] = found[..., :n]
    return out


def portable(signal: Signal) -> np.ndarray | str:
    """A signal for another process."""
    return signal if isinstance(signal, str) else signal.numpy()


def unpacked(signal: np.ndarray | str) -> Signal:
    """Inverse of :func:`portable`."""
    return signal if isinstance(signal, str) else torch.from_numpy(signal)
