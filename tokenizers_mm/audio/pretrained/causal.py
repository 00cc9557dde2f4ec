"""Exact streaming through the causal convolutions of ``transformers``' SEANet codecs (EnCodec, Mimi and their relatives).

The library's layers pad each call anew, so pieces differ from the whole. Here each layer's context lives in the stream's state
instead: a convolution remembers its last inputs, a transposed convolution the part of its output that later inputs add to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.conv import StreamState, remember
from tokenizers_mm.nn.onednn import PackedConv1d, PackedConvTranspose1d, packed


def run(layers: Iterable[nn.Module], x: Tensor, state: StreamState) -> Tensor:
    """The next piece of a stream through convolutions, residual units and pointwise layers in turn.

    Args:
        layers: Modules of a SEANet encoder or decoder; convolutions zero-padded or edge-padded at the start of the stream.
        x: ``[B, C, n]``; n a multiple of the strides to come, at least 1.
        state: What the layers remember, updated.
    """
    for layer in layers:
        x = _step(layer, x, state)
    return x


def _step(layer: Any, x: Tensor, state: StreamState) -> Tensor:
    if hasattr(layer, "block"):  # residual unit
        return _step(layer.shortcut, x, state) + run(layer.block, x, state)
    conv = getattr(layer, "conv", None)
    if isinstance(conv, nn.ConvTranspose1d):
        return overlap_add(layer, conv, x, state)
    if isinstance(conv, nn.Conv1d):
        context = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1 - conv.stride[0]
        if layer.pad_mode == "replicate" and layer not in state:
            state[layer] = x[..., :1].expand(-1, -1, context)
        x = remember(layer, x, context, state)
        return packed(conv, conv, x, PackedConv1d)(x)
    return layer(x)  # an activation or an identity


def overlap_add(layer: nn.Module, conv: nn.ConvTranspose1d, x: Tensor, state: StreamState) -> Tensor:
    """A transposed convolution's samples that no later input changes, ``[B, C, n] -> [B, C', n * stride]``.

    Those that the last inputs have begun wait in the state, under ``layer``, without bias.
    """
    stride = conv.stride[0]
    whole = packed(conv, conv, x, PackedConvTranspose1d) if conv.groups == 1 else conv
    y = F.conv_transpose1d(x, conv.weight, stride=stride, groups=conv.groups) if whole is conv else whole(x)
    begun = state.get(layer)
    if isinstance(begun, Tensor):
        y[..., : begun.shape[-1]] += begun
    final = x.shape[-1] * stride
    state[layer] = y[..., final:].clone()  # a view would keep all of y alive
    return y[..., :final] if conv.bias is None else y[..., :final] + conv.bias[:, None]
