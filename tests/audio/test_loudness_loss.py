"""The loudness loss ranks degradations as PESQ does, and its gradient is always finite."""

from __future__ import annotations

import pytest
import torch
from pesq import pesq
from scipy.stats import spearmanr

from tokenizers_mm.audio.files import read
from tokenizers_mm.audio.loudness_loss import LoudnessDisturbanceLoss
from tokenizers_mm.registry import data_path
from tokenizers_mm.tokens import TokenSpec

RATE = 16000


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    spec = TokenSpec("audio", (2,), hop=(1,), sample_rate=RATE)
    return read(data_path("eval") / "samples" / "en-1.ogg", spec)[None]


@pytest.fixture(scope="module")
def loss() -> LoudnessDisturbanceLoss:
    return LoudnessDisturbanceLoss(RATE)


def degraded(x: torch.Tensor) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator) * x.std()
    spectrum, hz = torch.fft.rfft(x), torch.linspace(0, RATE / 2, x.shape[-1] // 2 + 1)
    narrow = [torch.fft.irfft(spectrum * (hz < edge), n=x.shape[-1]) for edge in (500, 1500, 4000)]
    return [x, *(x + level * noise for level in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)), *narrow]


def test_it_ranks_degradations_as_pesq_does(speech: torch.Tensor, loss: LoudnessDisturbanceLoss) -> None:
    estimates = degraded(speech)
    ours = [float(loss(estimate, speech)) for estimate in estimates]
    scores = [pesq(RATE, speech[0, 0].numpy(), estimate[0, 0].numpy(), "wb") for estimate in estimates]
    assert spearmanr(ours, scores).statistic < -0.9


def test_equal_signals_and_equal_up_to_level_cost_nothing(speech: torch.Tensor, loss: LoudnessDisturbanceLoss) -> None:
    assert float(loss(speech, speech)) < 1e-4
    assert float(loss(0.3 * speech, speech)) < 1e-3


def test_added_sound_costs_more_than_missing_sound(speech: torch.Tensor, loss: LoudnessDisturbanceLoss) -> None:
    tone = 0.1 * torch.sin(2 * torch.pi * 2500 * torch.arange(speech.shape[-1]) / RATE)
    assert float(loss(speech + tone, speech)) > float(loss(speech, speech + tone))


@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 1e3])
def test_gradients_are_finite(loss: LoudnessDisturbanceLoss, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = scale * torch.randn(2, 1, 4000, generator=generator)
    estimate = torch.zeros_like(reference).requires_grad_()
    loss(estimate, reference).backward()
    assert torch.isfinite(estimate.grad).all()


def test_low_precision_training_computes_it_in_float32(speech: torch.Tensor, loss: LoudnessDisturbanceLoss) -> None:
    noisy = speech + 0.01
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(noisy, speech)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, loss(noisy, speech))


def test_sizes_are_checked(loss: LoudnessDisturbanceLoss) -> None:
    with pytest.raises(ValueError, match="at least 512 samples"):
        loss(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100))
    with pytest.raises(ValueError, match="sample_rate"):
        LoudnessDisturbanceLoss(0)
