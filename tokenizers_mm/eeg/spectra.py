"""Spectra of EEG: power density in windows, power of the rhythms' bands, magnitude spectrograms."""

from __future__ import annotations

import torch
from torch import Tensor

BANDS: dict[str, tuple[float, float]] = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 45.0),
}
"""Hz; gamma ends below mains."""


def density(x: Tensor, rate: float, seconds: float) -> tuple[Tensor, Tensor]:
    """Power density in Hann windows, half a window apart, each without its mean.

    Args:
        x: Float ``[C, N]`` in microvolts; N at least one window.
        rate: Hz.
        seconds: Length of a window.

    Returns:
        Microvolts squared per Hz ``[C, F, T]``, one-sided, and frequencies in Hz ``[F]``.
    """
    size = round(seconds * rate)
    window = torch.hann_window(size, dtype=x.dtype, device=x.device)
    frames = x.unfold(1, size, max(1, size // 2))  # C, T, size
    frames = frames - frames.mean(dim=2, keepdim=True)
    power = torch.fft.rfft(frames * window).abs().square() / (rate * window.square().sum())
    power[..., 1 : (size + 1) // 2] *= 2
    return power.transpose(1, 2), torch.fft.rfftfreq(size, 1 / rate, dtype=x.dtype, device=x.device)


def band_power(power: Tensor, frequencies: Tensor, low: float, high: float) -> Tensor:
    """Power from ``low`` to below ``high`` Hz, microvolts squared ``[C, T]``, of densities ``[C, F, T]``."""
    inside = (frequencies >= low) & (frequencies < high)
    return power[:, inside].sum(dim=1) * float(frequencies[1] - frequencies[0])


def magnitudes(x: Tensor, rate: float, seconds: float) -> Tensor:
    """Magnitude spectrogram ``[C, F, T]``: periodic Hann, half a window apart, no padding, Nyquist bin dropped."""
    size = round(seconds * rate)
    window = torch.hann_window(size, dtype=x.dtype, device=x.device)
    spectrum = torch.stft(x, size, max(1, size // 2), window=window, center=False, return_complex=True)
    return spectrum.abs()[:, : size // 2]
