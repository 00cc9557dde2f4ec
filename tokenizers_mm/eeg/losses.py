"""Reconstruction losses on EEG, which serve as distances in evaluation too.

Each is called as ``loss(estimate, reference)`` on signals ``[B, C, N]`` in microvolts, every channel a signal of its own, and
returns a scalar that is 0 for equal signals. EEG falls off steeply with frequency, so what a plain difference of samples leaves
out are the faster rhythms; the spectral loss weighs every frequency by its own level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.eeg.spectra import BANDS, band_power, density

_BAND_SECONDS = 2.0  # as the metrics: a bin every half Hz


class RelativeWaveformLoss(nn.Module):
    """Mean squared difference of the samples by the power of the channel: 1 less the share of power that is explained.

    Args:
        floor: Microvolts (RMS) below which a channel counts as that loud, so that flat channels stay finite.
    """

    def __init__(self, floor: float = 5.0) -> None:
        super().__init__()
        _check_positive("floor", floor)
        self.floor = floor

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        _check_pair(estimate, reference)
        power = reference.var(dim=-1, correction=0) + self.floor**2
        return ((estimate - reference).square().mean(dim=-1) / power).mean()


class LogSpectralLoss(nn.Module):
    """Mean absolute difference of log power spectra over windows of several lengths, every frequency bin alike.

    Args:
        windows: Window lengths in samples (periodic Hann), the hop a quarter of each.
        floor: Microvolts per bin below which magnitudes count as it; near the noise of an amplifier.
    """

    def __init__(self, windows: tuple[int, ...] = (50, 100, 200, 400), floor: float = 0.2) -> None:
        super().__init__()
        _check_positive("floor", floor)
        if not windows or min(windows) < 4:
            raise ValueError(f"windows must be lengths of at least 4 samples, got {tuple(windows)}")
        self.windows, self.floor = tuple(windows), floor
        for n_fft in windows:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        _check_pair(estimate, reference)
        return torch.stack([F.l1_loss(self._log(estimate, n), self._log(reference, n)) for n in self.windows]).mean()

    def _log(self, x: Tensor, n_fft: int) -> Tensor:
        """Natural logarithm of the power of each bin, whose floor bends it smoothly."""
        x = F.pad(x.float().flatten(0, 1), (0, max(0, n_fft - x.shape[-1])))
        frames = x.unfold(-1, n_fft, max(1, n_fft // 4)) * self.get_buffer(f"window_{n_fft}")
        power = torch.view_as_real(torch.fft.rfft(frames, norm="forward") * 2).square().sum(dim=-1)
        return (power + self.floor**2).log()


class BandPowerLoss(nn.Module):
    """Mean absolute difference of the log power of the rhythms' bands (delta to gamma), over 2 s windows a second apart.

    Squared error keeps of a rhythm only what it can predict, so that its power shrinks; this loss asks for the whole of it.

    Args:
        sample_rate: Hz.
        floor: Microvolts squared per Hz below which densities count as it.

    Raises:
        ValueError: If ``floor`` is not positive or ``sample_rate`` is below twice the highest band.
    """

    def __init__(self, sample_rate: int = 200, floor: float = 0.01) -> None:
        super().__init__()
        _check_positive("floor", floor)
        highest = max(high for _, high in BANDS.values())
        if sample_rate < 2 * highest:
            raise ValueError(f"sample_rate must be at least {2 * highest:g} Hz, got {sample_rate}")
        self.sample_rate, self.floor = sample_rate, floor

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        _check_pair(estimate, reference)
        return F.l1_loss(self._log(estimate), self._log(reference))

    def _log(self, x: Tensor) -> Tensor:
        x = F.pad(x.float().flatten(0, 1), (0, max(0, round(_BAND_SECONDS * self.sample_rate) - x.shape[-1])))
        power, frequencies = density(x, self.sample_rate, _BAND_SECONDS)
        bands = [band_power(power, frequencies, low, high) + self.floor * (high - low) for low, high in BANDS.values()]
        return torch.stack(bands).log()


def _check_pair(estimate: Tensor, reference: Tensor) -> None:
    if estimate.shape != reference.shape or estimate.ndim != 3:
        raise ValueError(
            f"estimate and reference must be equal shapes [B, C, N], got {list(estimate.shape)} and {list(reference.shape)}"
        )


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
