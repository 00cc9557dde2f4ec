"""A signal from the magnitudes of its short-time spectra: Griffin and Lim, "Signal Estimation from Modified Short-Time Fourier
Transform", 1984, with the momentum of Perraudin et al., "A fast Griffin-Lim algorithm", 2013.

Frames lie as TFM-Tokenizer's do, the first at the first sample and none beyond the signal, which no inverse of PyTorch's takes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def frame(x: Tensor, n_fft: int, hop: int) -> Tensor:
    """Frames ``[..., L, n_fft]`` of signals ``[..., N]`` under a periodic Hann window; frame t starts at sample ``t * hop``."""
    return x.unfold(-1, n_fft, hop) * torch.hann_window(n_fft, dtype=x.dtype, device=x.device)


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """The signal ``[M, (L - 1) * hop + n_fft]`` whose windowed frames come nearest to ``[M, L, n_fft]`` in squares."""
    steps, n_fft = frames.shape[1:]
    window = torch.hann_window(n_fft, dtype=frames.dtype, device=frames.device)
    size = (1, (steps - 1) * hop + n_fft)

    def add(pieces: Tensor) -> Tensor:
        return F.fold(pieces.mT, size, (1, n_fft), stride=(1, hop))[:, 0, 0]

    envelope = add(window.square().expand(1, steps, -1))
    return add(frames * window) / envelope.clamp(min=1e-3)  # at both ends of a signal the window lets nothing through


def with_phase(magnitude: Tensor, phase: Tensor, hop: int) -> Tensor:
    """Signals ``[M, N]`` of magnitudes ``[M, L, n_fft / 2 + 1]`` with given phases in radians."""
    n_fft = 2 * (magnitude.shape[-1] - 1)
    return overlap_add(torch.fft.irfft(torch.polar(magnitude, phase), n_fft), hop)


def griffin_lim(magnitude: Tensor, hop: int, *, iterations: int = 50, momentum: float = 0.99, seed: int = 0) -> Tensor:
    """Signals whose short-time magnitudes are near to those given; the same for the same magnitudes, whatever the batch.

    Args:
        magnitude: ``[M, L, n_fft / 2 + 1]``, of frames as :func:`frame` cuts them.
        hop: Samples between frames.
        iterations: Projections; each is an inverse transform and a transform.
        momentum: 0 for the method of 1984, near 1 for the fast one.
        seed: Of the phases to begin with, which all items share.

    Returns:
        ``[M, (L - 1) * hop + n_fft]``.
    """
    n_fft = 2 * (magnitude.shape[-1] - 1)
    start = torch.rand(magnitude.shape[1:], generator=torch.Generator().manual_seed(seed)) * 2 * torch.pi
    angles = torch.polar(torch.ones_like(start), start).to(magnitude.device)
    previous = torch.zeros_like(angles)
    for _ in range(iterations):
        signal = overlap_add(torch.fft.irfft(magnitude * angles, n_fft), hop)
        rebuilt = torch.fft.rfft(frame(signal, n_fft, hop))
        angles = rebuilt - momentum / (1 + momentum) * previous
        angles = angles / angles.abs().clamp(min=1e-16)
        previous = rebuilt
    return overlap_add(torch.fft.irfft(magnitude * angles, n_fft), hop)
