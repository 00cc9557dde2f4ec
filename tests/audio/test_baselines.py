"""Classical coders: real bytes, a reconstruction that comes from them, in time with the original, and a reason when absent."""

import math
import shutil

import pytest
import torch
from torch import Tensor

from tokenizers_mm.audio.baselines import BASELINES
from tokenizers_mm.audio.metrics import compute
from tokenizers_mm.tokens import TokenSpec

CODEC2 = [name for name in BASELINES if name.startswith("codec2")]
needs_codec2 = pytest.mark.skipif(shutil.which("c2enc") is None, reason="Debian's package codec2 is not installed")


def spec(rate: int = 16000, channels: int = 1) -> TokenSpec:
    return TokenSpec("audio", (64,), hop=(320,), sample_rate=rate, channels=channels)


def voiced(rate: int = 16000, seconds: float = 2.5, channels: int = 1) -> Tensor:
    """A gliding voice-like tone in syllables, ``[C, N]``."""
    t = torch.arange(int(seconds * rate)) / rate
    phase = 2 * math.pi * torch.cumsum(130 + 20 * torch.sin(2 * math.pi * 0.7 * t), 0) / rate
    x = sum(torch.sin(k * phase) / k for k in range(1, 20))
    x = 0.2 * x * torch.sin(2 * math.pi * 2 * t).clamp(min=0)
    return x.expand(channels, -1).clone()


@pytest.mark.parametrize("rate", [16000, 22050, 24000, 44100])
def test_opus_follows_the_rate_it_is_asked_for_and_more_bits_sound_better(rate: int):
    x = voiced(rate)
    rates, scores = [], []
    for kbps in (6, 12, 24, 64):
        baseline = BASELINES[f"opus-{kbps}"]
        data, y = baseline(x, spec(rate))
        assert len(data) > baseline.payload(data) > 0
        assert abs(y.shape[1] - x.shape[1]) <= 2
        rates.append(8 * baseline.payload(data) / (x.shape[1] / rate) / 1000)
        scores.append(compute(x, y, spec(rate), ["mel"])["mel"])
        assert rates[-1] < 1.6 * kbps
    assert rates == sorted(rates)
    assert scores == sorted(scores, reverse=True)


def test_opus_is_in_time_with_the_original():
    x = voiced()
    _, y = BASELINES["opus-64"](x, spec())
    n = min(x.shape[1], y.shape[1])
    lags = {lag: float((x[0, 500 : n - 500] * y[0, 500 + lag : n - 500 + lag]).sum()) for lag in range(-200, 201, 4)}
    assert max(lags, key=lags.__getitem__) == 0
    assert y.shape == x.shape


def test_opus_payload_is_what_the_packets_hold():
    """Counted independently: pages without their headers, minus the two header packets."""
    data, _ = BASELINES["opus-12"](voiced(), spec())
    total = sum(len(page) - 23 - page[22] for page in data.split(b"OggS")[1:])
    head = data.index(b"OpusHead")
    tags = data.index(b"OpusTags")
    head_page, tags_page = (data.rindex(b"OggS", 0, at) for at in (head, tags))
    sizes = [sum(data[page + 27 : page + 27 + data[page + 26]]) for page in (head_page, tags_page)]
    assert BASELINES["opus-12"].payload(data) == total - sum(sizes)


def test_stereo_shares_the_bitrate():
    x = voiced(48000, channels=2)
    data, y = BASELINES["opus-24"](x, spec(48000, 2))
    assert y.shape == x.shape
    assert 8 * BASELINES["opus-24"].payload(data) / 2500 < 40
    with pytest.raises(ValueError, match="outside of what Opus takes for 2 channels"):
        BASELINES["opus-6"](x, spec(48000, 2))


def test_pcm_is_exact_to_half_a_step():
    x = voiced(22050, channels=2)
    data, y = BASELINES["pcm16"](x, spec(22050, 2))
    assert BASELINES["pcm16"].payload(data) == 2 * x.numel()
    assert float((x - y).abs().max()) <= 0.5 / 32768 + 1e-9


@needs_codec2
@pytest.mark.parametrize("name", CODEC2)
def test_codec2_costs_its_mode_and_is_in_time(name: str):
    x, rate = voiced(), int(name.split("-")[1])
    data, y = BASELINES[name](x, spec())
    assert 8 * len(data) / 2.5 == pytest.approx(rate, rel=0.05)
    assert y.shape[1] >= x.shape[1]
    envelopes = [v[0, : x.shape[1]].square().unfold(0, 160, 80).mean(-1).sqrt() for v in (x, y)]
    lags = {lag: float((envelopes[0][10:-10] * envelopes[1].roll(-lag)[10:-10]).sum()) for lag in range(-9, 10)}
    assert abs(max(lags, key=lags.__getitem__)) <= 2  # of 5 ms


def test_codec2_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    reason = BASELINES["codec2-1200"].unavailable(spec())
    assert reason is not None
    assert "c2enc and c2dec" in reason


@needs_codec2
def test_codec2_takes_mono_only():
    assert "mono" in str(BASELINES["codec2-1200"].unavailable(spec(channels=2)))
    assert BASELINES["codec2-1200"].unavailable(spec()) is None
