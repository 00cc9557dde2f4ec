from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from tokenizers_mm.audio.losses import MelLoss, MultiResolutionSTFTLoss, MultiScaleMelLoss, WaveformLoss

LOSSES = {
    "waveform": WaveformLoss(),
    "mel": MelLoss(16000, 256, 64, 20),
    "multi_scale_mel": MultiScaleMelLoss(16000, (32, 128, 512), (5, 20, 40)),
    "stft_dac": MultiResolutionSTFTLoss((256, 64)),
    "stft_convergence": MultiResolutionSTFTLoss((256, 64), "convergence"),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    n = torch.arange(6000) / 24000
    reference = 0.4 * torch.sin(2 * math.pi * (200 + 3000 * n) * n) * torch.linspace(0, 1, 6000)
    reference = torch.stack([reference, 0.1 * torch.randn(6000)])[:, None]
    return (0.8 * reference + 0.01 * torch.randn(2, 1, 6000)), reference


def numpy_magnitude(x: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """``[F, frames]`` of one signal, frame by frame."""
    padded = np.pad(x, n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    starts = range(0, len(padded) - n_fft + 1, hop)
    return np.stack([np.abs(np.fft.rfft(padded[s : s + n_fft] * window)) for s in starts], axis=1)


def slaney_bank(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """``[n_mels, F]`` triangles of unit area on Slaney's scale: linear to 1 kHz, then 27 steps per factor 6.4."""

    def to_mel(hz: float) -> float:
        return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    def to_hz(mel: float) -> float:
        return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    edges = [to_hz(m) for m in np.linspace(0, to_mel(sample_rate / 2), n_mels + 2)]
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    bank = np.zeros((n_mels, len(bins)))
    for i in range(n_mels):
        low, centre, high = edges[i : i + 3]
        triangle = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
        bank[i] = np.maximum(triangle, 0) * 2 / (high - low)
    return bank


def test_mel_equals_torchaudio(pair: tuple[Tensor, Tensor]) -> None:
    estimate, reference = pair
    transform = MelSpectrogram(24000, n_fft=1024, hop_length=256, n_mels=100, power=1, center=True)

    def log_mel(x: Tensor) -> Tensor:
        return transform(x).clamp(min=1e-7).log()

    wanted = (log_mel(estimate) - log_mel(reference)).abs().mean()
    torch.testing.assert_close(MelLoss(24000)(estimate, reference), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sample_rate", [16000, 24000, 44100])
def test_multi_scale_mel_equals_dacs_definition(pair: tuple[Tensor, Tensor], sample_rate: int) -> None:
    wanted = 0.0
    for n_fft, n_mels in zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True):
        bank = slaney_bank(sample_rate, n_fft, n_mels)
        logs = [
            [
                np.log10(np.maximum(bank @ numpy_magnitude(x[0].double().numpy(), n_fft, n_fft // 4), 1e-5))
                for x in batch
            ]
            for batch in pair
        ]
        wanted += np.abs(np.subtract(*logs)).mean()
    assert float(MultiScaleMelLoss(sample_rate)(*pair)) == pytest.approx(wanted, rel=2e-3)


def test_stft_equals_dacs_definition(pair: tuple[Tensor, Tensor]) -> None:
    wanted = 0.0
    for n_fft in (2048, 512):
        a, b = (np.stack([numpy_magnitude(x[0].double().numpy(), n_fft, n_fft // 4) for x in batch]) for batch in pair)
        log_a, log_b = (np.log10(np.maximum(m, 1e-5) ** 2) for m in (a, b))
        wanted += np.abs(log_a - log_b).mean() + np.abs(a - b).mean()
    assert float(MultiResolutionSTFTLoss()(*pair)) == pytest.approx(wanted, rel=1e-3)


def test_spectral_convergence_of_a_scaled_signal_is_its_relative_error(pair: tuple[Tensor, Tensor]) -> None:
    _, reference = pair
    loss = MultiResolutionSTFTLoss((256, 64), "convergence", floor=1e-12)(0.75 * reference[1:], reference[1:])
    assert float(loss) == pytest.approx(0.25 - math.log(0.75), rel=1e-3)


@every_loss
def test_zero_on_identity_and_positive_otherwise(loss: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    estimate, reference = pair
    assert float(loss(reference, reference)) == 0
    assert loss(estimate, reference).ndim == 0
    assert float(loss(estimate, reference)) > 0


@every_loss
def test_grows_with_noise(loss: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    reference = pair[1]
    noise = torch.randn_like(reference)
    little, more, much = (float(loss(reference + level * noise, reference)) for level in (0.001, 0.01, 0.1))
    assert little < more < much


@every_loss
def test_batch_is_the_mean_of_its_items(loss: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    estimate, reference = pair
    items = [loss(estimate[i : i + 1], reference[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(loss(estimate, reference), torch.stack(items).mean(), rtol=1e-4, atol=1e-6)


@every_loss
def test_channels_count_as_items(loss: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    estimate, reference = pair
    stereo = loss(estimate.transpose(0, 1), reference.transpose(0, 1))
    torch.testing.assert_close(stereo, loss(estimate, reference))


@every_loss
@pytest.mark.parametrize(
    "kind", ["silence against noise", "noise against silence", "silence against silence", "identity"]
)
def test_gradients_are_finite_on_silence_and_identity(loss: nn.Module, kind: str) -> None:
    noise, silence = torch.randn(1, 1, 1000), torch.zeros(1, 1, 1000)
    estimate, reference = {
        "silence against noise": (silence, noise),
        "noise against silence": (noise, silence),
        "silence against silence": (silence, silence),
        "identity": (noise, noise),
    }[kind]
    estimate = estimate.clone().requires_grad_()
    loss(estimate, reference).backward()
    assert torch.isfinite(estimate.grad).all()


@every_loss
@pytest.mark.parametrize("length", [1, 2, 17, 255])
def test_signals_shorter_than_a_window_work(loss: nn.Module, length: int) -> None:
    x = torch.randn(1, 1, length)
    assert torch.isfinite(loss(x, -0.5 * x))


@every_loss
def test_no_state_and_the_same_value_under_autocast(loss: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    assert not loss.state_dict()
    assert not list(loss.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(*pair), loss.float()(*pair))


@every_loss
def test_a_small_step_down_the_gradient_lowers_the_loss(loss: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    estimate, reference = pair[0].clone().requires_grad_(), pair[1]
    before = loss(estimate, reference)
    (gradient,) = torch.autograd.grad(before, estimate)
    step = 1e-3 * before.detach() / gradient.square().sum()
    assert loss(estimate - step * gradient, reference) < before * (1 - 1e-4)


@every_loss
def test_signals_of_different_shapes_are_refused(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"\[B, C, N\]"):
        loss(torch.zeros(2, 1, 100), torch.zeros(1, 1, 100))
    with pytest.raises(ValueError, match=r"\[B, C, N\]"):
        loss(torch.zeros(100), torch.zeros(100))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MelLoss(0), "sample_rate"),
        (lambda: MultiScaleMelLoss(16000, (32,), (5, 10)), "n_mels"),
        (lambda: MultiResolutionSTFTLoss(()), "windows"),
        (lambda: MultiResolutionSTFTLoss((512, 512)), "windows"),
        (lambda: MultiResolutionSTFTLoss(terms="auraloss"), "terms"),
    ],
)
def test_bad_arguments_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
