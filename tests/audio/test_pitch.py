"""The pitch tracker on signals whose pitch is known."""

import math

import pytest
import torch
from torch import Tensor

from tokenizers_mm.audio.pitch import track_pitch

RATE = 16000
T = torch.arange(RATE) / RATE


def harmonic(f0: float, partials: range) -> Tensor:
    return 0.1 * sum(torch.sin(2 * math.pi * f0 * k * T) / k for k in partials)


@pytest.mark.parametrize("f0", [55, 110, 220, 333.3, 440, 540])
@pytest.mark.parametrize(
    "partials", [range(1, 2), range(1, 9), range(2, 6)], ids=["sine", "harmonic", "no-fundamental"]
)
def test_steady_tones_are_found_without_octave_errors(f0: float, partials: range):
    track = track_pitch(harmonic(f0, partials), RATE)
    inner = slice(5, -5)
    assert track.voiced[inner].all()
    assert (1200 * torch.log2(track.f0[inner] / f0)).abs().max() < 3
    assert track.periodicity[inner].min() > 0.98


def test_a_glide_is_followed_in_noise():
    f0 = 120 * 2 ** (1.2 * T)
    phase = 2 * math.pi * torch.cumsum(f0, 0) / RATE
    x = 0.1 * sum(torch.sin(k * phase) / k for k in range(1, 6))
    x += 0.02 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    track = track_pitch(x, RATE)
    cents = 1200 * torch.log2(track.f0[:-1] / f0[::160])
    assert track.voiced[5:-5].all()
    assert cents[5:-5].abs().max() < 25


def test_noise_and_silence_are_unvoiced():
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert track_pitch(noise, RATE).voiced.float().mean() < 0.02
    silent = track_pitch(torch.zeros(RATE), RATE)
    assert not silent.voiced.any()
    assert (silent.periodicity == 0).all()
    assert silent.f0.isfinite().all()
    assert not track_pitch(1e-4 * harmonic(200, range(1, 5)), RATE).voiced.any()


def test_hum_in_a_pause_is_not_speech():
    x = harmonic(200, range(1, 6))
    x[RATE // 2 :] = 0.002 * torch.sin(2 * math.pi * 60 * T[RATE // 2 :])
    track = track_pitch(x, RATE)
    assert track.voiced[5:45].all()
    assert not track.voiced[55:-5].any()


@pytest.mark.parametrize("samples", [1, 159, 160, 5000])
def test_one_frame_per_hop_and_one_more(samples: int):
    track = track_pitch(torch.zeros(samples), RATE)
    assert len(track.f0) == len(track.periodicity) == len(track.voiced) == samples // 160 + 1


def test_long_signals_are_analysed_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch):
    x = harmonic(150, range(1, 6))
    whole = track_pitch(x, RATE)
    monkeypatch.setattr("tokenizers_mm.audio.pitch.BLOCK", 7)
    torch.testing.assert_close(track_pitch(x, RATE).f0, whole.f0)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"mono signal \[N\], got \[1, 16000\]"):
        track_pitch(torch.zeros(1, RATE), RATE)
    with pytest.raises(ValueError, match="fmax"):
        track_pitch(torch.zeros(100), 1000)
