"""Signals from magnitudes: exact where phases are known, more consistent the longer phases are retrieved."""

from __future__ import annotations

import pytest
import torch

from tokenizers_mm.nn.phase_retrieval import frame, griffin_lim, overlap_add, with_phase


def waves(n: int, items: int = 3) -> torch.Tensor:
    t, pitch = torch.arange(n) / 200, torch.tensor([[3.0], [10.0], [21.0]])[:items]
    return torch.sin(2 * torch.pi * pitch * t) + 0.3 * torch.randn(items, n)


def inconsistency(wave: torch.Tensor, magnitude: torch.Tensor) -> float:
    """Norm of the difference of magnitudes by that of the magnitudes."""
    rebuilt = torch.fft.rfft(frame(wave, 200, 100)).abs()
    return float((rebuilt - magnitude).norm() / magnitude.norm())


@pytest.mark.parametrize("steps", [1, 2, 9, 19])
def test_known_phases_give_the_signal_back(steps: int) -> None:
    x = waves(100 * (steps + 1))
    spectra = torch.fft.rfft(frame(x, 200, 100))
    found = with_phase(spectra.abs(), spectra.angle(), 100)
    assert found.shape == x.shape
    torch.testing.assert_close(
        found[:, 12:-12], x[:, 12:-12], atol=1e-4, rtol=1e-4
    )  # the window is near 0 at both ends
    torch.testing.assert_close(overlap_add(frame(x, 200, 100), 100)[:, 12:-12], x[:, 12:-12], atol=1e-4, rtol=1e-4)


def test_retrieval_makes_magnitudes_more_consistent_and_keeps_the_length() -> None:
    magnitude = torch.fft.rfft(frame(waves(2000), 200, 100)).abs()
    found = {n: griffin_lim(magnitude, 100, iterations=n) for n in (0, 5, 50)}
    assert {wave.shape for wave in found.values()} == {(3, 2000)}
    errors = {n: inconsistency(wave, magnitude) for n, wave in found.items()}
    assert errors[50] < 0.6 * errors[0]
    assert errors[50] < errors[5] < errors[0]


def test_momentum_is_faster_than_the_plain_method() -> None:
    magnitude = torch.fft.rfft(frame(waves(2000), 200, 100)).abs()
    plain, fast = (griffin_lim(magnitude, 100, iterations=50, momentum=m) for m in (0.0, 0.99))
    assert inconsistency(fast, magnitude) < inconsistency(plain, magnitude)


def test_an_item_does_not_depend_on_the_others_and_silence_is_silent() -> None:
    magnitude = torch.fft.rfft(frame(waves(1000), 200, 100)).abs()
    together = griffin_lim(magnitude, 100, iterations=10)
    torch.testing.assert_close(together[1:2], griffin_lim(magnitude[1:2], 100, iterations=10), atol=1e-4, rtol=1e-4)
    assert not griffin_lim(torch.zeros_like(magnitude), 100, iterations=3).any()
