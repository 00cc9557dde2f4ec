"""Reconstruction losses on waveforms, which serve as distances in evaluation too.

Each is called as ``loss(estimate, reference)`` on audio ``[B, C, N]`` in [-1, 1], every channel a signal of its own,
and returns a scalar that is 0 for equal signals. Spectra are float32 whatever the precision of training; signals
shorter than a window are extended with zeros.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

from tokenizers_mm.nn.conv import pad1d


class WaveformLoss(nn.Module):
    """Mean absolute difference of the samples."""

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        _check_pair(estimate, reference)
        return F.l1_loss(estimate, reference)


class MelLoss(nn.Module):
    """Mean absolute difference of natural-log mel magnitudes, on which Vocos and WavTokenizer train (with weight 45).

    Args:
        sample_rate: Rate of the signals in Hz.
        n_fft: Window length in samples (periodic Hann).
        hop_length: Samples between frames.
        n_mels: Filters, on the HTK scale from 0 Hz to half the sample rate, each with a peak of 1.
        floor: Magnitudes below it count as it.
    """

    window: Tensor
    bank: Tensor

    def __init__(
        self, sample_rate: int, n_fft: int = 1024, hop_length: int = 256, n_mels: int = 100, floor: float = 1e-7
    ) -> None:
        super().__init__()
        _check_positive(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels, floor=floor)
        self.hop_length, self.floor = hop_length, floor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        bank = melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, None, "htk")
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        _check_pair(estimate, reference)
        return F.l1_loss(self.log_mel(estimate), self.log_mel(reference))

    def log_mel(self, x: Tensor) -> Tensor:
        """``[B, C, N] -> [B * C, frames, n_mels]``, natural logarithm."""
        return log_mel(x, self.window, self.hop_length, self.bank, self.floor)


class MultiScaleMelLoss(nn.Module):
    """DAC's multi-scale mel distance: differences of log10 mel magnitudes, summed over windows (DAC's weight is 15).

    Source: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN", 2023.

    Args:
        sample_rate: Rate of the signals in Hz.
        windows: Window lengths in samples (periodic Hann), the hop a quarter of each.
        n_mels: Filters for each window, on Slaney's scale from 0 Hz to half the sample rate, each of unit area.
        floor: Magnitudes below it count as it.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048),
        n_mels: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320),
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        if len(windows) != len(n_mels):
            raise ValueError(f"windows and n_mels must be as many, got {len(windows)} and {len(n_mels)}")
        _check_windows(windows)
        _check_positive(sample_rate=sample_rate, n_mels=min(n_mels), floor=floor)
        self.windows, self.floor = tuple(windows), floor
        for n_fft, mels in zip(windows, n_mels, strict=True):
            bank = melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, mels, sample_rate, "slaney", "slaney")
            self.register_buffer(f"bank_{n_fft}", bank, persistent=False)
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        _check_pair(estimate, reference)
        return torch.stack([self._distance(n, estimate, reference) for n in self.windows]).sum()

    def _distance(self, n_fft: int, estimate: Tensor, reference: Tensor) -> Tensor:
        window, bank = self.get_buffer(f"window_{n_fft}"), self.get_buffer(f"bank_{n_fft}")
        a, b = (log_mel(x, window, n_fft // 4, bank, self.floor) for x in (estimate, reference))
        return F.l1_loss(a, b) / math.log(10)


class CompressedMelLoss(nn.Module):
    """Differences of mel magnitudes under two compressions, averaged over windows: logarithm plus a power law.

    The logarithm weighs faint and loud parts alike; the power law, close to loudness, adds weight to what is heard, which
    gives small models intelligible speech sooner.

    Args:
        sample_rate: Rate of the signals in Hz.
        windows: Window lengths in samples (periodic Hann), the hop a quarter of each.
        n_mels: Filters for each window, on the HTK scale from 0 Hz to half the sample rate, each with a peak of 1.
        exponent: Of the power law.
        power_weight: Weight of the power law's difference beside the natural logarithm's.
        floor: Magnitudes below it count as it.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: tuple[int, ...] = (256, 512, 1024, 2048),
        n_mels: tuple[int, ...] = (40, 80, 100, 100),
        exponent: float = 0.3,
        power_weight: float = 3.0,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        if len(windows) != len(n_mels):
            raise ValueError(f"windows and n_mels must be as many, got {len(windows)} and {len(n_mels)}")
        _check_windows(windows)
        _check_positive(exponent=exponent)
        self.exponent, self.power_weight = exponent, power_weight
        self.scales = nn.ModuleList(
            MelLoss(sample_rate, n_fft, n_fft // 4, mels, floor) for n_fft, mels in zip(windows, n_mels, strict=True)
        )

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        _check_pair(estimate, reference)
        return torch.stack([self._distance(cast(MelLoss, scale), estimate, reference) for scale in self.scales]).mean()

    def _distance(self, scale: MelLoss, estimate: Tensor, reference: Tensor) -> Tensor:
        a, b = scale.log_mel(estimate), scale.log_mel(reference)
        powers = F.l1_loss((self.exponent * a).exp(), (self.exponent * b).exp())
        return F.l1_loss(a, b) + self.power_weight * powers


class MultiResolutionSTFTLoss(nn.Module):
    """Distance of magnitude spectra over several resolutions.

    ``"dac"`` sums, over resolutions, the mean difference of ``log10(magnitude^2)`` and of magnitudes (DAC).
    ``"convergence"`` averages, over resolutions, the norm of the difference relative to the reference's, per item, plus
    the mean difference of natural-log magnitudes (Yamamoto et al., "Parallel WaveGAN", 2020).

    Args:
        windows: Window lengths in samples (periodic Hann), the hop a quarter of each.
        terms: Which definition.
        floor: Magnitudes below it count as it, in logarithms and in the norm that divides.
    """

    def __init__(
        self,
        windows: tuple[int, ...] = (2048, 512),
        terms: Literal["dac", "convergence"] = "dac",
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        if terms not in ("dac", "convergence"):
            raise ValueError(f"terms must be 'dac' or 'convergence', got {terms!r}")
        _check_windows(windows)
        _check_positive(floor=floor)
        self.windows, self.terms, self.floor = tuple(windows), terms, floor
        for n_fft in windows:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        _check_pair(estimate, reference)
        distances = torch.stack([self._distance(n, estimate, reference) for n in self.windows])
        return distances.sum() if self.terms == "dac" else distances.mean()

    def _distance(self, n_fft: int, estimate: Tensor, reference: Tensor) -> Tensor:
        window = self.get_buffer(f"window_{n_fft}")
        a, b = (magnitude(x, window, n_fft // 4) for x in (estimate, reference))
        log_a, log_b = (m.clamp(min=self.floor) for m in (a, b))
        if self.terms == "dac":
            return 2 * F.l1_loss(log_a.log10(), log_b.log10()) + F.l1_loss(a, b)
        error, norm = (torch.linalg.vector_norm(m, dim=(1, 2)) for m in (a - b, b))
        return (error / norm.clamp(min=self.floor)).mean() + F.l1_loss(log_a.log(), log_b.log())


def magnitude(x: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Magnitude spectrogram.

    Args:
        x: Audio ``[B, C, N]``.
        window: Window ``[n_fft]``.
        hop_length: Samples between frames.

    Returns:
        ``[B * C, F, frames]`` float32, frames centred on multiples of the hop, ends reflected.
    """
    with torch.autocast(x.device.type, enabled=False):
        n_fft = len(window)
        padded = pad1d(x.float(), n_fft // 2, n_fft // 2, "reflect").flatten(0, 1)
        return torch.stft(padded, n_fft, hop_length, window=window, center=False, return_complex=True).abs()


def log_mel(x: Tensor, window: Tensor, hop_length: int, bank: Tensor, floor: float) -> Tensor:
    """Natural logarithm of the mel magnitudes of audio.

    Args:
        x: Audio ``[B, C, N]``.
        window: Window ``[n_fft]``.
        hop_length: Samples between frames.
        bank: Filters ``[F, n_mels]``.
        floor: Magnitudes below it count as it.

    Returns:
        ``[B * C, frames, n_mels]`` float32.
    """
    spectrum = magnitude(x, window, hop_length)
    with torch.autocast(x.device.type, enabled=False):
        return (spectrum.mT @ bank).clamp(min=floor).log()


def _check_pair(estimate: Tensor, reference: Tensor) -> None:
    if estimate.shape != reference.shape or estimate.ndim != 3 or estimate.numel() == 0:
        raise ValueError(
            "estimate and reference must be audio [B, C, N] of one shape, "
            f"got {list(estimate.shape)} and {list(reference.shape)}"
        )


def _check_windows(windows: tuple[int, ...]) -> None:
    if not windows or min(windows) < 4 or len(set(windows)) < len(windows):
        raise ValueError(f"windows must be distinct lengths of at least 4 samples, got {windows}")


def _check_positive(**sizes: float) -> None:
    for name, value in sizes.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
