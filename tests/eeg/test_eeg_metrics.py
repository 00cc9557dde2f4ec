"""Metrics of EEG against SciPy and against what is known beforehand; baselines by the bytes they write; conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as sp
from torch import Tensor

from tokenizers_mm.eeg.baselines import BASELINES
from tokenizers_mm.eeg.conditions import CONDITIONS
from tokenizers_mm.eeg.metrics import METRICS, compute
from tokenizers_mm.eeg.spectra import BANDS, band_power, density, magnitudes
from tokenizers_mm.tokens import TokenSpec

RATE = 200
SPEC = TokenSpec("eeg", (4,), axes=("channel", "time"), hop=(1, 100), sample_rate=RATE, channels=0)


def rhythm(hertz: float, microvolts: float = 30.0, seconds: float = 10.0) -> Tensor:
    return microvolts * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)


def background(channels: int = 3, samples: int = 2000) -> Tensor:
    x = torch.randn(channels, samples, generator=torch.Generator().manual_seed(1)).cumsum(dim=1)
    return 10 * (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True) + rhythm(10, 20, samples / RATE)


def test_power_density_is_scipys() -> None:
    x = background()
    ours, frequencies = density(x.double(), RATE, 2.0)
    theirs = sp.welch(x.double().numpy(), RATE, "hann", 400, 200, detrend="constant", scaling="density")
    np.testing.assert_allclose(frequencies.numpy(), theirs[0])
    np.testing.assert_allclose(ours.mean(dim=2).numpy(), theirs[1], rtol=1e-6)


def test_band_power_of_a_sine_is_half_its_amplitude_squared() -> None:
    power, frequencies = density(rhythm(10)[None].double(), RATE, 2.0)
    found = {name: float(band_power(power, frequencies, *band).mean()) for name, band in BANDS.items()}
    assert found["alpha"] == pytest.approx(450, rel=1e-3)
    assert sum(found.values()) == pytest.approx(450, rel=1e-3)


@pytest.mark.parametrize(("samples", "steps"), [(1000, 9), (2000, 19), (6000, 59)])
def test_magnitudes_have_the_published_frames_and_bins(samples: int, steps: int) -> None:
    x = background(2, samples)
    ours = magnitudes(x, RATE, 1.0)
    assert ours.shape == (2, 100, steps)
    frame = x[1, 300:500].numpy() * sp.get_window("hann", 200, fftbins=True)
    np.testing.assert_allclose(ours[1, :, 3].numpy(), np.abs(np.fft.rfft(frame))[:100], rtol=1e-3, atol=1e-2)


def test_a_copy_has_no_error_and_an_unlike_signal_has() -> None:
    x = background()
    copy, other = compute(x, x.clone(), SPEC), compute(x, background().flip(1), SPEC)
    for key, metric in METRICS.items():
        if key == "snr":
            assert copy[key] is None
            assert "exactly" in copy.reasons[key]
        elif metric.better == "lower":
            assert copy[key] == pytest.approx(0, abs=1e-6)
            assert other[key] > 0  # type: ignore[operator]
        else:
            assert copy[key] == pytest.approx(1)
            assert other[key] < 1  # type: ignore[operator]


@given(gain=st.floats(0.1, 0.9))
@settings(max_examples=10, deadline=None)
def test_values_that_are_known_beforehand(gain: float) -> None:
    x = background()
    scores = compute(x, gain * x, SPEC, ["correlation", "snr", "alpha_kept", "band_alpha", "band_delta"])
    assert scores["correlation"] == pytest.approx(1)
    assert scores["snr"] == pytest.approx(-20 * np.log10(1 - gain), abs=1e-3)
    assert scores["alpha_kept"] == pytest.approx(gain**2, rel=1e-3)
    assert scores["band_alpha"] == pytest.approx(-20 * np.log10(gain), rel=1e-2)
    assert scores["band_delta"] == pytest.approx(-20 * np.log10(gain), rel=1e-2)


def test_an_error_shows_in_its_band_alone() -> None:
    x = background(1)
    scores = compute(x, x + rhythm(20, 15), SPEC)
    bands = {name: scores[f"band_{name}"] for name in BANDS}
    assert bands["beta"] > 10  # type: ignore[operator]
    assert max(bands["delta"], bands["theta"], bands["alpha"]) < 0.1  # type: ignore[type-var, operator]


def test_spectra_do_not_care_about_phase_and_waveforms_do() -> None:
    x, y = rhythm(10)[None], rhythm(10).roll(5)[None]  # a quarter of a period
    scores = compute(x, y, SPEC)
    assert scores["bands"] < 0.5  # type: ignore[operator]
    assert scores["alpha_kept"] > 0.98  # type: ignore[operator]
    assert abs(scores["correlation"]) < 0.05  # type: ignore[arg-type]


def test_what_cannot_be_measured_is_none_with_a_reason() -> None:
    x = background()
    flat = compute(torch.zeros(2, 2000), torch.zeros(2, 2000), SPEC)
    assert set(flat.values()) == {None}
    assert "flat" in flat.reasons["lsd"]
    half = x.clone()
    half[0] = 3.0  # an unplugged electrode takes no part
    assert compute(half, half.clone(), SPEC)["correlation"] == pytest.approx(1)
    short = compute(x[:, :300], x[:, :300] + 1, SPEC)
    assert short["bands"] is None
    assert "shorter than 2 s" in short.reasons["bands"]
    assert short["correlation"] == pytest.approx(1)
    slow = compute(x, x + 1, TokenSpec("eeg", (4,), sample_rate=64, channels=0))
    assert slow["band_gamma"] is None
    assert "ends below 45 Hz" in slow.reasons["band_gamma"]
    nan = compute(x, torch.full_like(x, float("nan")), SPEC)
    assert set(nan.values()) == {None}
    with pytest.raises(ValueError, match="two signals"):
        compute(x, x[:, 1:], SPEC)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_decode_from_their_bytes_alone(name: str) -> None:
    x = background(10, 1777)
    x[3] = 0
    data, y = BASELINES[name](x, SPEC)
    assert y.shape == x.shape
    assert torch.equal(BASELINES[name].decode(bytes(data), SPEC), y)
    scores = compute(x, y, SPEC, ["correlation", "snr"])
    assert scores["correlation"] > 0.5  # type: ignore[operator]
    if name in ("pcm16", "flac"):
        assert float((x - y).abs().max()) <= 0.0501


def test_finer_steps_cost_more_and_lose_less() -> None:
    x = background(8, 4000)
    coded = [BASELINES[f"dct-{step}"](x, SPEC) for step in ("0.5", "1", "2", "4", "8")]
    sizes = [len(data) for data, _ in coded]
    snr = [compute(x, y, SPEC, ["snr"])["snr"] for _, y in coded]
    assert sizes == sorted(sizes, reverse=True)
    assert snr == sorted(snr, reverse=True)  # type: ignore[type-var]


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_change_the_signal_the_same_way_every_time(name: str) -> None:
    x = background()
    y = CONDITIONS[name].apply(x, SPEC, "a.edf")
    assert y.shape == x.shape
    assert not torch.equal(x, y)
    assert torch.equal(y, CONDITIONS[name].apply(x, SPEC, "a.edf"))
    if name == "mains":
        power, frequencies = density((y - x).double(), RATE, 2.0)
        assert frequencies[power.mean(dim=(0, 2)).argmax()] == 50
