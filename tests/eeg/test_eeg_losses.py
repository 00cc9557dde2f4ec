"""The loss on band power: what it sees, what it does not, and bad input."""

from __future__ import annotations

import math

import pytest
import torch

from tokenizers_mm.eeg.losses import BandPowerLoss

RATE = 200


def noise(seed: int) -> torch.Tensor:
    return 20 * torch.randn(2, 3, 5 * RATE, generator=torch.Generator().manual_seed(seed))


def test_power_counts_and_neither_sign_nor_offset_does() -> None:
    loss, x = BandPowerLoss(RATE), noise(0)
    assert float(loss(x, x)) == 0
    assert float(loss(-x, x)) == pytest.approx(0, abs=1e-5)
    assert float(loss(x + 100, x)) == pytest.approx(0, abs=1e-3)
    # half of the amplitude is a quarter of the power in every band
    assert float(loss(x / 2, x)) == pytest.approx(math.log(4), rel=0.01)


def test_one_lost_rhythm_of_five_is_a_fifth_of_its_level() -> None:
    t = torch.arange(4 * RATE) / RATE
    rhythms = [torch.sin(2 * torch.pi * f * t) for f in (2.0, 6.0, 10.0, 20.0, 38.0)]
    x, without = 30 * sum(rhythms)[None, None], 30 * (sum(rhythms) - 0.9 * rhythms[2])[None, None]
    assert float(BandPowerLoss(RATE)(without, x)) == pytest.approx(math.log(100) / 5, rel=0.1)


def test_its_gradient_restores_power() -> None:
    x = noise(1)
    estimate = (x / 2).requires_grad_()
    BandPowerLoss(RATE)(estimate, x).backward()
    assert estimate.grad is not None
    assert float((estimate.grad * x).sum()) < 0
    flat = torch.zeros_like(x, requires_grad=True)
    BandPowerLoss(RATE)(flat, x).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())


@pytest.mark.parametrize(
    ("options", "words"), [({"sample_rate": 80}, "at least 90 Hz, got 80"), ({"floor": 0.0}, "floor must be positive")]
)
def test_bad_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BandPowerLoss(**options)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        BandPowerLoss()(torch.zeros(1, 2, 400), torch.zeros(1, 1, 400))
