"""EnCodec's causal layers of ``transformers``, run piece by piece and over items of unequal lengths, exactly as over one signal.

Both have to repeat what the layers do at a signal's two ends: they mirror its first steps to the left, and the last ones to the
right where a strided convolution lacks samples; a signal no longer than that padding is first extended by zeros. So nothing
comes out of a convolution before the steps that it mirrors are there, and a stream starts with a delay (:func:`startup`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecLSTM,
    EncodecResnetBlock,
)

from tokenizers_mm.audio.pretrained.causal import overlap_add
from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.nn.onednn import PackedConv1d, PackedLSTM, packed


def stream(layers: nn.ModuleList, x: Tensor, state: StreamState, *, last: bool = False) -> Tensor:
    """What a stack of causal layers makes final of the next piece of a signal.

    Args:
        layers: Those of an encoder or a decoder.
        x: The piece ``[B, C, n]``, any n.
        state: What the layers remember, updated in place; an empty dict starts a stream.
        last: Whether the signal ends here.

    Returns:
        ``[B, D, k]``. All of a stream's results joined equal the layers' output over the whole signal.
    """
    for layer in layers:
        if isinstance(layer, EncodecConv1d):
            x = _stream_conv(layer, x, state, last)
        elif isinstance(layer, EncodecConvTranspose1d):
            x = overlap_add(layer, layer.conv, x, state) if x.shape[-1] else _nothing(layer, x)
        elif isinstance(layer, EncodecLSTM):
            x = _stream_lstm(layer, x, state)
        elif isinstance(layer, EncodecResnetBlock):
            x = _stream_block(layer, x, state, last)
        else:
            x = layer(x)
    return x


def ragged(layers: nn.ModuleList, x: Tensor, lengths: list[int]) -> Tensor:
    """The output of an encoder's causal layers over signals of unequal lengths, each as if it were alone.

    Args:
        layers: Those of an encoder, or of a block inside it.
        x: Signals ``[B, C, N]``.
        lengths: Valid samples of each.

    Returns:
        ``[B, D, ceil(N / hop)]``, valid up to ``ceil(length / hop)`` steps of each item.
    """
    for layer in layers:
        if isinstance(layer, EncodecResnetBlock):
            x = layer.shortcut(x) + ragged(layer.block, x, lengths)
        elif isinstance(layer, EncodecConv1d):
            stride = layer.conv.stride[0]
            x = layer(_extend(x, lengths, _padding(layer), stride))
            lengths = [-(-n // stride) for n in lengths]
        else:
            x = layer(x)
    return x


def startup(layers: nn.ModuleList, steps: int = 1) -> int:
    """How many steps must go into a stream before the first ``steps`` come out."""
    for layer in reversed(layers):
        if isinstance(layer, EncodecResnetBlock):
            steps = startup(layer.block, steps)
        elif isinstance(layer, EncodecConvTranspose1d):
            steps = -(-steps // layer.conv.stride[0])
        elif isinstance(layer, EncodecConv1d):
            steps = max(steps * layer.conv.stride[0], _padding(layer) + 1)
    return steps


def _padding(layer: EncodecConv1d) -> int:
    conv = layer.conv
    return (conv.kernel_size[0] - 1) * conv.dilation[0] + 1 - conv.stride[0]


def _nothing(layer: EncodecConv1d | EncodecConvTranspose1d, x: Tensor) -> Tensor:
    return x.new_zeros(len(x), layer.conv.out_channels, 0)


def _stream_conv(layer: EncodecConv1d, x: Tensor, state: StreamState, last: bool) -> Tensor:
    """``state[layer.conv]`` holds the steps that wait for the start, ``state[layer]`` the context after it."""
    padding, stride = _padding(layer), layer.conv.stride[0]
    past = state.get(layer)
    if past is None:
        x = _join(state.pop(layer.conv, None), x)
        if last:
            return layer(x) if x.shape[-1] else _nothing(layer, x)
        if x.shape[-1] <= padding:
            state[layer.conv] = x
            return _nothing(layer, x)
        x = layer._pad1d(x, (padding, 0), layer.pad_mode)
    else:
        x = _join(past, x)
    if last:
        x = layer._pad1d(x, (0, -(x.shape[-1] - padding) % stride), layer.pad_mode)
    used = (x.shape[-1] - padding) // stride * stride
    state[layer] = x[..., used:].clone()  # a view would keep all of x alive
    if not used:
        return _nothing(layer, x)
    x = x[..., : used + padding]
    return packed(layer.conv, layer.conv, x, PackedConv1d)(x)


def _stream_lstm(layer: EncodecLSTM, x: Tensor, state: StreamState) -> Tensor:
    if not x.shape[-1]:
        return x
    steps = x.permute(2, 0, 1)
    hidden, state[layer] = packed(layer.lstm, layer.lstm, x, PackedLSTM)(steps, state.get(layer))
    return (hidden + steps).permute(1, 2, 0)


def _stream_block(layer: EncodecResnetBlock, x: Tensor, state: StreamState, last: bool) -> Tensor:
    """The shortcut's steps wait for those that the convolutions beside it hold back."""
    y = stream(layer.block, x, state, last=last)
    x = _join(state.get(layer), x)
    ready = y.shape[-1]
    state[layer] = x[..., ready:].clone()
    return layer.shortcut(x[..., :ready]) + y if ready else y


def _join(past: Tensor | tuple[Tensor, ...] | None, x: Tensor) -> Tensor:
    return torch.cat([past, x], dim=-1) if isinstance(past, Tensor) else x


def _extend(x: Tensor, lengths: list[int], padding: int, stride: int) -> Tensor:
    """What a convolution sees past each item's end, written there: its mirrored last steps, or zeros for a short item."""
    if not padding:
        return x
    x = nn.functional.pad(x, (0, math.ceil(x.shape[-1] / stride) * stride - x.shape[-1]))
    for row, n in zip(x, lengths, strict=True):
        missing = -n % stride
        if n <= padding:
            row[..., n:] = 0
        elif missing:
            row[..., n : n + missing] = row[..., n - 1 - missing : n - 1].flip(-1)
    return x
