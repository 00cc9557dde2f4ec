from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.nn.conv import PaddedConv1d, StreamState
from tokenizers_mm.nn.seanet import SEANetEncoder


def tiny(**kwargs) -> SEANetEncoder:
    torch.manual_seed(0)
    return SEANetEncoder(**{"dim": 12, "n_filters": 4, "strides": (2, 3), "residual_layers": 2, **kwargs}).eval()


@pytest.mark.parametrize(("strides", "parameters"), [((4, 5, 5, 6), 8_303_104), ((2, 4, 5, 8), 8_802_816)])
def test_published_sizes(strides, parameters):
    with torch.device("meta"):
        encoder = SEANetEncoder(strides=strides)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder.hop == math.prod(strides)


@pytest.mark.parametrize(
    ("strides", "frames"), [((4, 5, 5, 6), [40, 40, 41, 1, 1]), ((2, 4, 5, 8), [75, 75, 76, 1, 1])]
)
def test_frames_are_samples_over_hop_rounded_up(strides, frames):
    encoder = SEANetEncoder(dim=8, n_filters=2, strides=strides).eval()
    with torch.no_grad():
        lengths = [encoder(torch.randn(1, 1, n)).shape[-1] for n in (24000, 23999, 24001, 100, 1)]
    assert lengths == frames


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 50),
    kernel=st.integers(1, 9),
    stride=st.integers(1, 6),
    dilation=st.integers(1, 3),
    causal=st.booleans(),
)
def test_padding_follows_the_published_rule(n, kernel, stride, dilation, causal):
    span = (kernel - 1) * dilation + 1
    if span < stride:
        return
    layer = PaddedConv1d(1, 1, kernel, stride=stride, dilation=dilation, causal=causal, pad_mode="reflect")
    x = torch.randn(1, 1, n)
    total = span - stride
    extra = (math.ceil((n - span + total) / stride + 1) - 1) * stride + (span - total) - n
    right = 0 if causal else total // 2
    left = total - right
    samples = x[0, 0].tolist()
    if causal:
        padded = [0.0] * left + samples + [0.0] * extra
    else:
        right += extra
        short = max(max(left, right) - n + 1, 0)
        samples += [0.0] * short
        padded = samples[1 : left + 1][::-1] + samples + samples[len(samples) - 1 - right : len(samples) - 1][::-1]
        padded = padded[: len(padded) - short]
    weight, bias = layer.conv.weight[0, 0].tolist(), layer.conv.bias.item()
    steps = (len(padded) - span) // stride + 1
    want = [bias + sum(w * padded[i * stride + j * dilation] for j, w in enumerate(weight)) for i in range(steps)]
    assert steps == math.ceil(n / stride)
    torch.testing.assert_close(layer(x)[0, 0], torch.tensor(want), rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(hops=st.lists(st.integers(1, 5), min_size=1, max_size=6), missing=st.integers(0, 5), seed=st.integers(0, 1000))
def test_causal_pieces_equal_the_whole(hops, missing, seed):
    encoder, state = tiny(causal=True), StreamState()
    x = torch.randn(2, 1, sum(hops) * encoder.hop, generator=torch.Generator().manual_seed(seed))
    x[..., x.shape[-1] - missing :] = 0  # a stream pads its last hop with zeros
    with torch.no_grad():
        pieces = x.split([h * encoder.hop for h in hops], dim=-1)
        got = torch.cat([encoder(piece, state) for piece in pieces], dim=-1)
        torch.testing.assert_close(got, encoder(x[..., : x.shape[-1] - missing]), rtol=1e-4, atol=1e-5)


def test_causal_encoder_never_sees_the_future_and_the_published_one_does():
    x = torch.randn(1, 1, 60)
    changed = x.clone()
    changed[..., 36:] += 1
    with torch.no_grad():
        causal, published = tiny(causal=True), tiny()
        assert torch.equal(causal(x)[..., :6], causal(changed)[..., :6])
        assert not torch.allclose(published(x)[..., :6], published(changed)[..., :6])


def test_stream_state_is_bounded():
    encoder = tiny(causal=True)
    state: StreamState = {}

    def stored() -> int:
        tensors = [t for value in state.values() for t in (value if isinstance(value, tuple) else (value,))]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    sizes = []
    with torch.no_grad():
        for _ in range(4):
            encoder(torch.randn(1, 1, 60), state)
            sizes.append(stored())
    assert len(set(sizes)) == 1


def test_gradients_reach_every_parameter():
    encoder = tiny()
    encoder(torch.randn(2, 1, 48)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="causal=True"):
        tiny()(torch.zeros(1, 1, 6), {})
    with pytest.raises(ValueError, match="multiple of 6 samples in a stream, got 7"):
        tiny(causal=True)(torch.zeros(1, 1, 7), {})
    with pytest.raises(ValueError, match="strides"):
        SEANetEncoder(strides=())
    with pytest.raises(ValueError, match="n_filters"):
        SEANetEncoder(n_filters=3)
