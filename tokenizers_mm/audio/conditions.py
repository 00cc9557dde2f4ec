"""What recordings go through before a codec meets them: background noise, a low level, a telephone line."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchaudio.functional as AF
from torch import Tensor

from tokenizers_mm.audio.files import resample
from tokenizers_mm.evaluation.condition import Condition, add_noise
from tokenizers_mm.tokens import TokenSpec

TELEPHONE = (300.0, 3400.0)  # Hz, the band of a narrow-band line (ITU-T G.712)


def _noisy(snr_db: float) -> Callable[[Tensor, TokenSpec, torch.Generator], Tensor]:
    def noisy(signal: Tensor, spec: TokenSpec, generator: torch.Generator) -> Tensor:
        white = torch.randn(signal.shape, generator=generator)
        spectrum = torch.fft.rfft(white)
        pink = spectrum / torch.arange(1, spectrum.shape[-1] + 1).sqrt()  # power falls by 3 dB per octave
        return add_noise(signal, torch.fft.irfft(pink, n=signal.shape[-1]), snr_db)

    return noisy


def _level(gain_db: float) -> Callable[[Tensor, TokenSpec, torch.Generator], Tensor]:
    return lambda signal, spec, generator: signal * 10 ** (gain_db / 20)


def _telephone(signal: Tensor, spec: TokenSpec, generator: torch.Generator) -> Tensor:
    if spec.sample_rate is None or spec.sample_rate < 8000:
        raise ValueError(f"a telephone band needs at least 8000 Hz, got {spec.sample_rate}")
    rate, (low, high) = int(spec.sample_rate), TELEPHONE
    narrow = resample(signal, rate, 8000)
    band = AF.lowpass_biquad(AF.highpass_biquad(narrow, 8000, low), 8000, high)
    return resample(band, 8000, rate)[..., : signal.shape[-1]]


CONDITIONS: dict[str, Condition] = {
    "noisy": Condition("noisy, 15 dB", "Pink noise added at 15 dB signal-to-noise ratio.", _noisy(15)),
    "quiet": Condition("20 dB quieter", "All samples divided by 10.", _level(-20)),
    "telephone": Condition(
        "telephone", "Resampled to 8 kHz and back, second-order filters at 300 and 3400 Hz.", _telephone
    ),
}
