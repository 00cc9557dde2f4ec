"""Missing samples: NaN in a signal, one bit per sample in ``side["missing"]`` of its tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack_missing(signals: list[Tensor]) -> Tensor:
    """Where each signal is NaN, as bits.

    Args:
        signals: One per item, ``[C, N]`` or of any other shape.

    Returns:
        uint8 ``[B, M]``, eight samples of the flattened signal a byte, first sample in the highest bit; trailing bytes that
        are zero for every item are left out, so that M is 0 where nothing is missing.
    """
    rows = [_packed(signal) for signal in signals]
    packed = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.uint8)
    for target, row in zip(packed, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(packed)


def put_missing(signal: Tensor, packed: Tensor) -> Tensor:
    """A signal with NaN where its bits ``[M]`` say so (see :func:`pack_missing`)."""
    if not packed.any():
        return signal
    bits = np.unpackbits(packed.cpu().numpy(), count=signal.numel())  # absent bytes count as zeros
    missing = torch.from_numpy(bits.astype(bool)).reshape(signal.shape)
    return signal.masked_fill(missing.to(signal.device), float("nan"))


def _packed(signal: Tensor) -> np.ndarray:
    missing = torch.isnan(signal)
    if not missing.any():
        return np.zeros(0, dtype=np.uint8)
    packed = np.packbits(missing.flatten().cpu().numpy())
    return packed[: int(packed.nonzero()[0][-1]) + 1]
