"""oneDNN's operators in evaluation: the same numbers as PyTorch's, of the weights that a layer has now."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.audio import WavTokenizer
from tokenizers_mm.nn import onednn, seanet
from tokenizers_mm.nn.conv import PaddedConv1d
from tokenizers_mm.nn.onednn import PackedConv1d, PackedConvTranspose1d, packed
from tokenizers_mm.nn.seanet import ResidualLSTM, SEANetEncoder

pytestmark = pytest.mark.filterwarnings("ignore:TF32")  # of mkldnn.flags
needs_onednn = pytest.mark.skipif(not onednn.AVAILABLE, reason="this build of PyTorch has no such operators")


def plain(module: nn.Module, *inputs: Tensor) -> Tensor:
    """PyTorch's own operators: with gradients there is no other way."""
    with torch.enable_grad():
        return module(*inputs).detach()


@needs_onednn
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    channels=st.sampled_from([(1, 3), (4, 4), (5, 2), (32, 16)]),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    causal=st.booleans(),
    norm=st.sampled_from(["weight_norm", "none"]),
    pad_mode=st.sampled_from(["reflect", "constant"]),
    grouped=st.booleans(),
)
def test_packed_convolution_equals_pytorchs(n, channels, kernel, stride, dilation, causal, norm, pad_mode, grouped):
    if (kernel - 1) * dilation + 1 < stride:
        return
    channels, groups = ((channels[0],) * 2, channels[0]) if grouped else (channels, 1)
    layer = PaddedConv1d(
        *channels,
        kernel,
        stride=stride,
        dilation=dilation,
        groups=groups,
        causal=causal,
        norm=norm,
        pad_mode=pad_mode,
    ).eval()
    x = torch.randn(2, channels[0], n)
    with torch.no_grad():
        for layout in (x, x.mT.contiguous().mT):
            torch.testing.assert_close(layer(layout), plain(layer, x), rtol=1e-4, atol=1e-5)
    assert layer._packed is not None


@needs_onednn
@pytest.mark.parametrize("kind", [onednn.Linear, onednn.LinearGELU])
def test_linear_layers_equal_pytorchs(kind) -> None:
    layer, x = kind(12, 7), torch.randn(2, 5, 12)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-6)


@needs_onednn
@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), batch=st.integers(1, 3))
def test_packed_lstm_equals_pytorchs_and_goes_on_in_pieces(sizes, batch):
    layer = ResidualLSTM(8, 2).eval()
    x, state = torch.randn(batch, 8, sum(sizes)), {}
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-6)
        pieces = torch.cat([layer(piece, state) for piece in x.split(sizes, dim=-1)], dim=-1)
        torch.testing.assert_close(pieces, layer(x), rtol=1e-5, atol=1e-6)


def optimise(conv: PaddedConv1d) -> PaddedConv1d:
    optimizer = torch.optim.SGD(conv.parameters(), 0.5)
    with torch.enable_grad():
        conv(torch.randn(1, 4, 9)).square().mean().backward()
    optimizer.step()
    return conv


def load(conv: PaddedConv1d, *, assign: bool) -> PaddedConv1d:
    conv.load_state_dict({key: 2 * value for key, value in conv.state_dict().items()}, assign=assign)
    return conv


def replace(conv: PaddedConv1d) -> PaddedConv1d:
    conv.conv.bias = nn.Parameter(conv.conv.bias.detach() + 1)
    return conv


def write_data(conv: PaddedConv1d) -> PaddedConv1d:
    conv.conv.bias.data += 1
    return conv.eval()


def train_a_copy(conv: PaddedConv1d) -> PaddedConv1d:
    return optimise(copy.deepcopy(conv))


CHANGES: dict[str, Callable[[PaddedConv1d], PaddedConv1d]] = {
    "an optimiser's step in evaluation mode": optimise,
    "training and back": lambda conv: optimise(conv.train()).eval(),
    "load_state_dict": lambda conv: load(conv, assign=False),
    "load_state_dict(assign=True)": lambda conv: load(conv, assign=True),
    "half precision and back": lambda conv: conv.half().float(),
    "another parameter": replace,
    "values through .data, then eval()": write_data,
    "a copy's training": train_a_copy,
}


@needs_onednn
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("norm", ["weight_norm", "none"])
def test_packed_weights_are_never_stale(change, norm) -> None:
    conv = PaddedConv1d(4, 4, 3, norm=norm).eval()
    x = torch.randn(1, 4, 9)
    with torch.no_grad():
        before = conv(x)
        changed = change(conv)
        assert not torch.equal(changed(x), before)
        torch.testing.assert_close(changed(x), plain(changed, x), rtol=1e-4, atol=1e-5)


@needs_onednn
def test_a_copy_keeps_its_own_weights() -> None:
    conv = PaddedConv1d(4, 4, 3, norm="weight_norm").eval()
    x = torch.randn(1, 4, 9)
    with torch.no_grad():
        before = conv(x)
        other = copy.deepcopy(conv)
        optimise(conv)
        assert torch.equal(other(x), before)


@needs_onednn
def test_packing_leaves_no_trace_in_what_is_saved() -> None:
    conv = PaddedConv1d(4, 4, 3).eval()
    keys = list(conv.state_dict())
    with torch.no_grad():
        y = conv(torch.ones(1, 4, 9))
    assert list(conv.state_dict()) == keys
    file = io.BytesIO()
    torch.save(conv, file)
    file.seek(0)
    with torch.no_grad():
        assert torch.equal(torch.load(file, weights_only=False)(torch.ones(1, 4, 9)), y)


@needs_onednn
def test_weights_that_count_no_changes_are_not_packed() -> None:
    with torch.inference_mode():
        conv = PaddedConv1d(4, 4, 3).eval()
        x = torch.randn(1, 4, 9)
        before = conv(x)
        conv.conv.bias += 1
        torch.testing.assert_close(conv(x), before + 1)
    assert conv._packed is None


def test_gradients_autocast_and_other_types_take_pytorchs_way() -> None:
    x = torch.ones(1)
    assert not onednn.usable(x)
    with torch.no_grad():
        assert not onednn.usable(x.double())
        assert not onednn.usable(x[:0])
        with torch.autocast("cpu", torch.bfloat16):
            assert not onednn.usable(x)
        with torch.backends.mkldnn.flags(enabled=False):
            assert not onednn.usable(x)


@needs_onednn
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 700), batch=st.integers(1, 3), causal=st.booleans(), tile=st.sampled_from([6, 12, 60, 1000]))
def test_encoding_in_tiles_equals_the_whole(n, batch, causal, tile):
    torch.manual_seed(0)
    encoder = SEANetEncoder(dim=8, n_filters=4, strides=(2, 3, 2), residual_layers=2, causal=causal).eval()
    encoder._tile = tile
    x = torch.randn(batch, 1, n)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), plain(encoder, x), rtol=1e-4, atol=1e-5)


def test_tiles_are_whole_hops_of_bounded_size() -> None:
    with torch.device("meta"):
        encoder = SEANetEncoder(strides=(4, 5, 5, 6))
    assert encoder._tile % (4 * 5 * 5) == 0
    assert encoder._tile * 32 <= seanet.TILE


@needs_onednn
@pytest.mark.parametrize("encoder", ["seanet", "stft"])
def test_a_codec_gives_the_tokens_and_the_signal_that_pytorch_gives(encoder) -> None:
    torch.manual_seed(0)
    config = {
        "strides": (2, 4, 5, 8),
        "n_filters": 4,
        "encoder_dim": 32,
        "dim": 32,
        "intermediate_dim": 64,
        "layers": 2,
    }
    codec = WavTokenizer(**config, encoder=encoder, quantizer={"kind": "vq", "codebook_size": 64}).eval()
    x = F.pad(0.1 * torch.randn(2, 1, 8000), (0, 100))
    tokens, wave = codec.encode(x), codec.reconstruct(x)
    with torch.backends.mkldnn.flags(enabled=False):
        assert codec.encode(x) == tokens
        torch.testing.assert_close(codec.decode(tokens), wave, rtol=1e-4, atol=1e-5)


@needs_onednn
@given(
    steps=st.integers(1, 300),
    taps=st.integers(1, 8),
    stride=st.integers(1, 4),
    batch=st.integers(1, 2),
    channels=st.sampled_from([1, 6]),
)
@settings(max_examples=40, deadline=None)
def test_packed_transposed_convolutions_equal_plain(
    steps: int, taps: int, stride: int, batch: int, channels: int
) -> None:
    torch.manual_seed(steps)
    layer = nn.ConvTranspose1d(channels, 5, taps, stride, bias=False).eval()
    x = torch.randn(batch, channels, steps)
    with torch.no_grad():
        found, wanted = packed(layer, layer, x, PackedConvTranspose1d)(x), layer(x)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@needs_onednn
@given(steps=st.integers(1, 300), taps=st.integers(1, 7), stride=st.integers(1, 4), dilation=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_packed_convolutions_equal_plain_over_few_steps_and_many(
    steps: int, taps: int, stride: int, dilation: int
) -> None:
    torch.manual_seed(steps)
    layer = nn.Conv1d(4, 6, taps, stride, dilation=dilation).eval()
    x = torch.randn(2, 4, (taps - 1) * dilation + 1 + (steps - 1) * stride)
    with torch.no_grad():
        found, wanted = packed(layer, layer, x, PackedConv1d)(x), layer(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_a_foreign_layer_keeps_its_packing_out_of_copies_and_notices_new_weights() -> None:
    layer = nn.ConvTranspose1d(3, 4, 4, 2).eval()
    x = torch.randn(1, 3, 5)
    with torch.no_grad():
        packed(layer, layer, x, PackedConvTranspose1d)
        twin = copy.deepcopy(layer)
        assert torch.equal(twin(x), layer(x))
        layer.weight.mul_(2)
        bare = packed(layer, layer, x, PackedConvTranspose1d)(x) + layer.bias[:, None]
        torch.testing.assert_close(bare, layer(x))
        assert not torch.equal(twin(x), layer(x))
