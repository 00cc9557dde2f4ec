"""Signals at another rate by windowed sinc (torchaudio's filter), whole or in pieces that join to the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_ZEROS, _ROLLOFF = 6, 0.99  # torchaudio's defaults: zero crossings each side of the sinc, share of the band kept
_TABLE = 2**22  # filters x taps up to which a resampling table is worth its memory


def resample(x: Tensor, from_rate: int, to_rate: int, *, zeros: int = _ZEROS) -> Tensor:
    """The signal at another rate: windowed sinc (torchaudio's), filters cached per pair of rates.

    Args:
        x: Float ``[..., N]``.
        from_rate: Rate of ``x`` in Hz.
        to_rate: Wanted rate in Hz.
        zeros: Zero crossings on each side of the sinc; more keep more of the band below the new limit.

    Returns:
        ``[..., ceil(N * to_rate / from_rate)]``.
    """
    old, new = _ratio(from_rate, to_rate)
    if old == new:
        return x
    if old * new * zeros > _TABLE * _ZEROS:
        return _resample_directly(x, old, new, zeros)
    length = -(-x.shape[-1] * new // old)
    tail = 2 * old + (x.shape[-1] >> 20) * old  # torchaudio rounds the length as float32: give it more, cut exactly
    return _table(old, new, zeros, x.device)(F.pad(x, (0, tail)))[..., :length]


def _ratio(from_rate: int, to_rate: int) -> tuple[int, int]:
    if from_rate < 1 or to_rate < 1:
        raise ValueError(f"rates must be positive, got {from_rate} to {to_rate} Hz")
    divisor = math.gcd(from_rate, to_rate)
    return from_rate // divisor, to_rate // divisor


def reach(old: int, new: int, zeros: int = _ZEROS) -> int:
    """Input samples that one output sample sees on each side, for rates without a common divisor."""
    return math.ceil(zeros * old / (min(old, new) * _ROLLOFF))


@lru_cache(maxsize=32)
def _table(old: int, new: int, zeros: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    from torchaudio.transforms import Resample

    return Resample(old, new, lowpass_filter_width=zeros, rolloff=_ROLLOFF).to(device)


def _resample_directly(x: Tensor, old: int, new: int, zeros: int) -> Tensor:
    """The same filter, its taps worked out sample by sample: a table for 44101:24000 would fill gigabytes."""
    margin, cutoff = reach(old, new, zeros), _ROLLOFF * min(1.0, new / old)
    length = -(-x.shape[-1] * new // old)
    taps = torch.arange(-margin, margin + 1, device=x.device)
    padded = F.pad(x, (margin, margin + 1))
    out = []
    size = max(1, 2**24 // (len(taps) * math.prod(x.shape[:-1])))
    for start in range(0, length, size):
        position = torch.arange(start, min(start + size, length), device=x.device)[:, None] * old
        t = ((taps - (position % new).double() / new) * cutoff).clamp(-zeros, zeros)
        weights = torch.sinc(t) * torch.cos(t * math.pi / (2 * zeros)) ** 2 * cutoff
        out.append((padded[..., position // new + taps + margin] * weights.to(x.dtype)).sum(dim=-1))
    return torch.cat(out, dim=-1)


def resampled(pieces: Iterator[Tensor], from_rate: int, to_rate: int, *, zeros: int = _ZEROS) -> Iterator[Tensor]:
    """Consecutive pieces at another rate, each resampled with enough of its neighbours to hide the border."""
    old, new = _ratio(from_rate, to_rate)
    if old == new:
        yield from pieces
        return
    context = (
        -(-reach(old, new, zeros) // old) * old
    )  # whole periods: each window starts at the phase it has in the whole
    buffer, done = None, 0  # the first `done` samples of the buffer are context only
    for piece in pieces:
        buffer = piece if buffer is None else torch.cat([buffer, piece], dim=1)
        end = (buffer.shape[1] - context) // old * old
        if end <= done:
            continue
        yield resample(buffer[:, : end + context], old, new, zeros=zeros)[:, done // old * new : end // old * new]
        buffer, done = buffer[:, max(0, end - context) :], min(end, context)
    if buffer is not None:
        yield resample(buffer, old, new, zeros=zeros)[:, done // old * new :]


def cut(pieces: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """The same samples in pieces of ``size``."""
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(p.shape[1] for p in waiting) < size:
            continue
        joined = torch.cat(waiting, dim=1)
        whole = joined.shape[1] // size * size
        for block in joined[:, :whole].split(size, dim=1):
            yield block.clone()  # not a view: a kept block must not keep its neighbours
        waiting = [joined[:, whole:]]
    if not waiting:
        return
    rest = torch.cat(waiting, dim=1)
    if rest.shape[1]:
        yield rest
