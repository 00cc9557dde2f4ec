"""What EEG goes through before a codec meets it: mains hum, muscle noise, a high-resistance electrode, another gain."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tokenizers_mm.evaluation.condition import Condition, add_noise
from tokenizers_mm.tokens import TokenSpec

MAINS = 50.0  # Hz
MUSCLE = 20.0  # Hz from where it reaches to the end of the band


def _mains(signal: Tensor, spec: TokenSpec, generator: torch.Generator) -> Tensor:
    rate = _rate(spec, 2 * MAINS)
    phase = 2 * math.pi * torch.rand(len(signal), 1, generator=generator)
    hum = torch.sin(2 * math.pi * MAINS / rate * torch.arange(signal.shape[-1]) + phase)
    return torch.stack([add_noise(channel, wave, 0.0) for channel, wave in zip(signal, hum, strict=True)])


def _muscle(signal: Tensor, spec: TokenSpec, generator: torch.Generator) -> Tensor:
    rate = _rate(spec, 2 * MUSCLE)
    spectrum = torch.fft.rfft(torch.randn(signal.shape, generator=generator))
    spectrum[..., torch.fft.rfftfreq(signal.shape[-1], 1 / rate) < MUSCLE] = 0
    return add_noise(signal, torch.fft.irfft(spectrum, n=signal.shape[-1]), 5.0)


def _dead(signal: Tensor, spec: TokenSpec, generator: torch.Generator) -> Tensor:
    flat = int(torch.randint(len(signal), (1,), generator=generator))
    changed = signal.clone()
    changed[flat] = 0
    return changed


def _gain(factor: float) -> Callable[[Tensor, TokenSpec, torch.Generator], Tensor]:
    return lambda signal, spec, generator: signal * factor


def _rate(spec: TokenSpec, least: float) -> float:
    if spec.sample_rate is None or spec.sample_rate < least:
        raise ValueError(f"this condition needs at least {least:g} Hz, got {spec.sample_rate}")
    return spec.sample_rate


CONDITIONS: dict[str, Condition] = {
    "mains": Condition("mains hum", "A 50 Hz sine as strong as the signal in each channel.", _mains),
    "muscle": Condition("muscle noise", "White noise above 20 Hz added at 5 dB signal-to-noise ratio.", _muscle),
    "dead": Condition("dead electrode", "One channel, drawn by the item's name, is zero throughout.", _dead),
    "half": Condition("half the gain", "All samples divided by 2.", _gain(0.5)),
}
