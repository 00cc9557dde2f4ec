"""Linear-phase FIR filters for EEG: band-pass and notch, whole signals or consecutive pieces that join to the same samples.

Windowed-sinc design (Hamming), transition widths as MNE-Python chooses them (Widmann, Schroeger, Maess, "Digital filter design
for electrophysiological data", 2015); the delay is taken out: nothing shifts in time. Unlike MNE's, one filter does it all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_NOTCH = 1.0  # Hz from the notch's middle to where it lets through again
_LENGTH = 3.3  # taps of a Hamming window times its transition width over the rate


def kernel(rate: float, band: tuple[float | None, float | None] = (None, None), notch: float | None = None) -> Tensor:
    """Taps of a symmetric filter, of odd number; one tap of 1 where nothing is to be filtered.

    Limits at or above half of the rate filter nothing and are left out: there is nothing there.

    Args:
        rate: Of the signal in Hz.
        band: Lowest and highest frequency to keep in Hz, None for no limit.
        notch: Mains frequency in Hz; its multiples go too.

    Returns:
        float64 ``[2 * half + 1]``.

    Raises:
        ValueError: If frequencies are not positive or not ascending.
    """
    check(band, notch)
    return _kernel(rate, *band, notch)


def check(band: tuple[float | None, float | None], notch: float | None) -> None:
    """Refuse limits that no rate makes sense of.

    Raises:
        ValueError: If frequencies are not positive or not ascending.
    """
    low, high = band
    if any(f is not None and not (math.isfinite(f) and f > 0) for f in (*band, notch)):
        raise ValueError(f"band and notch must be positive frequencies in Hz, got {band} and {notch}")
    if low is not None and high is not None and low >= high:
        raise ValueError(f"band must go from a lower to a higher frequency, got {low:g} to {high:g} Hz")


@lru_cache(maxsize=32)
def _kernel(rate: float, low: float | None, high: float | None, notch: float | None) -> Tensor:
    nyquist, taps = rate / 2, np.ones(1)
    if low is not None and low >= nyquist:
        raise ValueError(f"band begins at {low:g} Hz, but a signal at {rate:g} Hz ends at {nyquist:g} Hz")
    if low is not None:
        width = min(max(0.25 * low, 2.0), low)
        taps = np.convolve(taps, _highpass(rate, low - width / 2, width))
    if high is not None and high < nyquist:
        width = min(max(0.25 * high, 2.0), nyquist - high)
        taps = np.convolve(taps, _lowpass(rate, high + width / 2, width))
    for harmonic in np.arange(notch, nyquist, notch) if notch is not None else ():
        if harmonic + _NOTCH < nyquist and harmonic > _NOTCH and harmonic < (high or nyquist) * 1.25:
            taps = np.convolve(taps, _bandstop(rate, harmonic))
    return torch.from_numpy(taps)


def _lowpass(rate: float, cutoff: float, width: float) -> np.ndarray:
    half = max(1, math.ceil(_LENGTH * rate / width / 2))
    n = np.arange(-half, half + 1)
    taps = np.sinc(2 * cutoff / rate * n) * np.hamming(2 * half + 1)
    return taps / taps.sum()


def _highpass(rate: float, cutoff: float, width: float) -> np.ndarray:
    return _minus(_lowpass(rate, cutoff, width))


def _bandstop(rate: float, frequency: float) -> np.ndarray:
    """Lets through what is more than :data:`_NOTCH` away from ``frequency``."""
    envelope = _lowpass(rate, _NOTCH / 2, _NOTCH)
    n = np.arange(len(envelope)) - len(envelope) // 2
    return _minus(2 * envelope * np.cos(2 * np.pi * frequency / rate * n))


def _minus(taps: np.ndarray) -> np.ndarray:
    """A unit impulse minus a filter: passes what the filter stops."""
    taps = -taps
    taps[len(taps) // 2] += 1
    return taps


def apply(x: Tensor, taps: Tensor) -> Tensor:
    """A signal through a symmetric filter, delay taken out; beyond its ends it goes on as its own point reflection.

    Args:
        x: float32 ``[C, N]``.
        taps: From :func:`kernel`.

    Returns:
        float32 ``[C, N]``.
    """
    return torch.cat(list(applied(iter([x]), taps)), dim=1)


def applied(pieces: Iterator[Tensor], taps: Tensor) -> Iterator[Tensor]:
    """Consecutive pieces ``[C, n]`` through a symmetric filter; joined, they are what :func:`apply` gives of the whole."""
    half = len(taps) // 2
    if half == 0:
        yield from pieces
        return
    buffer, begun = None, False
    for piece in pieces:
        buffer = piece if buffer is None else torch.cat([buffer, piece], dim=1)
        if not begun and buffer.shape[1] > half:
            buffer, begun = torch.cat([_reflected(buffer, half, start=True), buffer], dim=1), True
        if begun and buffer.shape[1] > 4 * half:
            yield _convolved(buffer, taps)
            buffer = buffer[:, -2 * half :].clone()
    if buffer is None:
        return
    start = buffer.new_zeros(len(buffer), 0) if begun else _reflected(buffer, half, start=True)
    yield _convolved(torch.cat([start, buffer, _reflected(buffer, half, start=False)], dim=1), taps)


def _reflected(x: Tensor, count: int, *, start: bool) -> Tensor:
    """``count`` samples before (or after) a signal: its point reflection at that end, then its last value again and again."""
    x = x if start else x.flip(1)
    count_real = min(count, x.shape[1] - 1)
    mirror = 2 * x[:, :1] - x[:, 1 : count_real + 1].flip(1)
    edge = (mirror if count_real else x)[:, :1]
    before = torch.cat([edge.expand(-1, count - count_real), mirror], dim=1)
    return before if start else before.flip(1)


def _convolved(x: Tensor, taps: Tensor) -> Tensor:
    """The part of a convolution that needs nothing beyond the ends, in float64 by FFT."""
    size = _fast_length(x.shape[1])
    spectrum = torch.fft.rfft(x.double(), size) * torch.fft.rfft(taps, size)
    return torch.fft.irfft(spectrum, size)[:, len(taps) - 1 : x.shape[1]].to(x.dtype)


def _fast_length(n: int) -> int:
    from scipy.fft import next_fast_len

    return next_fast_len(n, real=True)
