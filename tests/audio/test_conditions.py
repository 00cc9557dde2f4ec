"""Conditions: the change that their definition states, the same in every run."""

import math
from itertools import pairwise

import pytest
import torch

from tokenizers_mm.audio.conditions import CONDITIONS
from tokenizers_mm.evaluation.condition import CLEAN, choose
from tokenizers_mm.tokens import TokenSpec

SPEC = TokenSpec("audio", (64,), hop=(320,), sample_rate=16000, channels=0)
X = 0.1 * torch.randn(2, 32000, generator=torch.Generator().manual_seed(0))


def tone(hertz: float, rate: int = 16000) -> torch.Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(2 * rate) / rate)[None]


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_shape_stays_and_chance_is_the_items(name: str):
    first, second, other = (CONDITIONS[name].apply(X, SPEC, item) for item in ("a.wav", "a.wav", "b.wav"))
    assert first.shape == X.shape
    assert torch.equal(first, second)
    assert not torch.equal(first, X)
    assert torch.equal(first, other) == (name != "noisy")
    assert CONDITIONS[name].apply(torch.zeros(1, 1000), SPEC, "silence").abs().max() == 0


def test_noise_has_its_level_and_colour():
    noise = CONDITIONS["noisy"].apply(X, SPEC, "a.wav") - X
    assert 10 * math.log10(float(X.square().mean() / noise.square().mean())) == pytest.approx(15, abs=0.01)
    power = torch.fft.rfft(noise[0]).abs().square()
    octaves = [float(power[n : 2 * n].mean()) for n in (500, 1000, 2000, 4000)]
    for low, high in pairwise(octaves):
        assert 10 * math.log10(low / high) == pytest.approx(3, abs=1)


def test_quiet_is_twenty_decibels():
    assert torch.allclose(CONDITIONS["quiet"].apply(X, SPEC, "a"), X / 10)


@pytest.mark.parametrize(("hertz", "kept"), [(60, False), (1000, True), (2000, True), (5000, False), (7000, False)])
def test_a_telephone_passes_its_band(hertz: float, kept: bool):
    x = tone(hertz)
    gain = float(CONDITIONS["telephone"].apply(x, SPEC, "a").square().mean() / x.square().mean())
    assert (gain > 0.8) if kept else (gain < 0.05)


def test_unknown_conditions_are_refused():
    assert choose(CONDITIONS, ["quiet", "clean"]) == {"quiet": CONDITIONS["quiet"], "clean": CLEAN}
    with pytest.raises(ValueError, match=r"unknown conditions \['loud'\]: expected some of \['clean', "):
        choose(CONDITIONS, ["loud"])
