"""Inference on x86 processors through oneDNN's operators, those that ``torch.compile`` emits, without compiling.

Called the usual way, PyTorch multiplies float32 matrices by MKL, which reaches less than half of oneDNN's rate on processors
that aren't Intel's, and orders signals and weights anew for each convolution and LSTM. The layers here keep features channels
last (``[B, N, C]`` in memory, whatever the order of the axes) and weights folded and packed. The operators have no gradient,
so training never comes here; results differ from PyTorch's own by rounding.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_OPERATORS = (
    "_linear_pointwise",
    "_convolution_pointwise",
    "_convolution_pointwise_",
    "_reorder_convolution_weight",
    "_reorder_linear_weight",
    "_reorder_mkldnn_rnn_layer_weight",
)
AVAILABLE = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()
    and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
)
"""Whether there are oneDNN's operators."""
_LSTM = 2  # the operator's number for it
_FEW_STEPS = 256  # of a convolution
_STRIP_VALUES = 2**20  # that a strip of an image's rows becomes


def usable(x: Tensor) -> bool:
    """Whether oneDNN may stand in for PyTorch: float32 on the CPU, and neither gradient, autocast nor tracing asked for."""
    return bool(
        AVAILABLE
        and torch.backends.mkldnn.enabled
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


# -- layers that need no packing -------------------------------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False, relu: bool = False) -> Tensor:
    """``F.linear``, with ``gelu`` or ``relu`` after it; one oneDNN operator where :func:`usable`."""
    if usable(x):
        activation = "gelu" if gelu else "relu" if relu else "none"
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else F.relu(y) if relu else y


class Linear(nn.Linear):
    """``nn.Linear`` through oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class LinearGELU(nn.Linear):
    """``nn.Linear`` and GELU in one, through oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, gelu=True)


class PointwiseConv1d(nn.Conv1d):
    """``nn.Conv1d`` of one tap, a matrix product through oneDNN."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.mT, self.weight[:, :, 0], self.bias).mT if usable(x) else super().forward(x)


class PointwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of one tap, a matrix product through oneDNN that leaves channels last where they are."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not usable(x):
            return super().forward(x)
        return linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)


class GroupNorm1d(nn.GroupNorm):
    """``nn.GroupNorm`` of ``[B, C, N]`` that leaves channels last where they are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, None])[:, :, 0]


def add_conv2d(total: Tensor, x: Tensor, layer: nn.Conv2d) -> Tensor:
    """``total + layer(x)``; written over ``total``, channels last, in one oneDNN operator where :func:`usable`."""
    if not (usable(x) and usable(total)):
        return total + layer(x)
    total = total.contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    geometry = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
    accumulate = torch.ops.mkldnn._convolution_pointwise_.binary
    return accumulate(total, x, layer.weight, layer.bias, *geometry, "add", 1.0, None, [], None)


def channels_last(x: Tensor) -> Tensor:
    """Maps ``[B, C, H, W]`` as ``[B, H, W, C]``, in this order in memory."""
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def padded_rows(image: Tensor, start: int, end: int, prepare: Callable[[Tensor], Tensor] = lambda rows: rows) -> Tensor:
    """Rows ``start`` to ``end`` of ``[H, W, C]``, made ready, and zeros where they lie beyond it."""
    rows = prepare(image[max(start, 0) : end])
    before, after = max(-start, 0), max(end - len(image), 0)
    return F.pad(rows, (0, 0, 0, 0, before, after)) if before or after else rows


# -- layers whose weights are packed once ----------------------------------------------------------------------------------


class Packed:
    """A layer's weights in oneDNN's own order; knows when the layer has other weights by now.

    Args:
        layer: What to pack.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.sources = tuple(layer.parameters())  # kept, so that no other tensor can take their place in memory
        self.stamp = self._stamp()

    def fits(self, layer: nn.Module) -> bool:
        """Whether the layer's parameters are the same tensors, in the same place, unchanged."""
        same = all(a is b for a, b in zip_longest(layer.parameters(), self.sources))
        return same and self.stamp == self._stamp()

    def _stamp(self) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), tensor._version) for tensor in self.sources]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:  # copies and pickles of its owner pack anew
        return type(None), ()


class PackedConv1d(Packed):
    """A convolution without padding, its weight norm folded: ``[B, C, N] -> [B, C', N']``, channels last in memory.

    Over few steps it is a product of gathered taps: oneDNN's convolution takes a hundred times as long there.
    """

    def __init__(self, layer: nn.Conv1d) -> None:
        super().__init__(layer)
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.stride, self.dilation, self.taps = layer.stride[0], layer.dilation[0], layer.kernel_size[0]
        self.geometry = ([0, 0], [1, self.stride], [1, self.dilation], layer.groups)
        weight = layer.weight.detach()
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight[:, :, None], *self.geometry)
        self.matrix = weight.mT.flatten(1).contiguous() if layer.groups == 1 else None  # [C', taps * C]

    def __call__(self, x: Tensor) -> Tensor:
        steps = (x.shape[-1] - (self.taps - 1) * self.dilation - 1) // self.stride + 1
        if self.matrix is not None and steps < _FEW_STEPS:
            return self._product(x.mT, steps)
        rows = x.mT.contiguous().mT[:, :, None]  # [B, C, 1, N]
        convolve = torch.ops.mkldnn._convolution_pointwise
        return convolve(rows, self.weight, self.bias, *self.geometry, "none", [], "")[:, :, 0]

    def _product(self, rows: Tensor, steps: int) -> Tensor:
        reach = self.stride * (steps - 1) + 1
        taps = [
            rows[:, start : start + reach : self.stride] for start in range(0, self.taps * self.dilation, self.dilation)
        ]
        return linear(torch.cat(taps, dim=-1), cast(Tensor, self.matrix), self.bias).mT


class PackedConvTranspose1d(Packed):
    """A transposed convolution, weight norm folded, bias left out: ``[B, C, N] -> [B, C', (N - 1) * stride + taps]``."""

    def __init__(self, layer: nn.ConvTranspose1d) -> None:
        super().__init__(layer)
        self.stride, self.taps = layer.stride[0], layer.kernel_size[0]
        self.matrix = spreading_matrix(layer)

    def __call__(self, x: Tensor) -> Tensor:
        return spread_rows(x.mT, self.matrix, self.taps, self.stride).mT


def spreading_matrix(layer: nn.ConvTranspose1d) -> Tensor:
    """Weights of a transposed convolution for :func:`spread_rows`, ``[taps * C', C]``."""
    return layer.weight.detach().permute(2, 1, 0).flatten(0, 1).contiguous()


def spread_rows(x: Tensor, matrix: Tensor, taps: int, stride: int) -> Tensor:
    """A transposed convolution with features last, ``[B, N, C] -> [B, (N - 1) * stride + taps, C']``, without a bias.

    One matrix product and a sum of shifted blocks: PyTorch's own takes several times as long over the few steps of a stream.
    """
    batch, steps = x.shape[:2]
    parts = linear(x, matrix, None).unflatten(-1, (taps, -1))  # [B, N, taps, C']
    overlap = -(-taps // stride)
    blocks = x.new_zeros(batch, steps - 1 + overlap, stride, parts.shape[-1])
    for block in range(overlap):
        part = parts[:, :, block * stride : (block + 1) * stride]
        blocks[:, block : block + steps, : part.shape[2]] += part
    return blocks.flatten(1, 2)[:, : (steps - 1) * stride + taps]


class PackedUpsampling2d(Packed):
    """Nearest-neighbour doubling and a 3x3 convolution, as 2x2 convolutions of the small map: four ninths of the products.

    Each pixel of the doubled map sees two by two pixels of the small one, by weights that are sums of the nine; which sums,
    depends on whether its row and column are even or odd. Results differ from the plain order by rounding. Strips of rows keep
    the products from lying whole in memory.
    """

    _GEOMETRY: ClassVar = ([0, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        # [phase, tap, row]: even rows see the row before and their own, odd rows their own and the row after
        taps = layer.weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        weight = torch.einsum("pay,qbx,oiyx->pqoiab", taps, taps, layer.weight.detach()).flatten(0, 2)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), *self._GEOMETRY)
        self.bias = None if layer.bias is None else layer.bias.detach().repeat(4)
        self.out_channels = layer.out_channels

    def __call__(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        out = x.new_empty(batch, height, 2, width, 2, self.out_channels)
        strip = max(1, _STRIP_VALUES // (4 * self.out_channels * width))
        images = channels_last(x)
        for image, doubled in zip(images, out, strict=True):
            for start in range(0, height, strip):
                self._double(
                    padded_rows(image, start - 1, min(start + strip, height) + 1), doubled[start : start + strip]
                )
        return out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def _double(self, rows: Tensor, out: Tensor) -> None:
        """Writes the double of all ``rows [h + 2, W, C]`` but the first and the last: ``[h, 2, W, 2, C']``."""
        convolve = torch.ops.mkldnn._convolution_pointwise
        phases = convolve(rows.permute(2, 0, 1)[None], self.weight, self.bias, *self._GEOMETRY, "none", [], "")
        phases = phases[0].permute(1, 2, 0).unflatten(-1, (2, 2, -1))  # [h + 1, W + 1, 2, 2, C']
        for p in range(2):
            for q in range(2):
                out[:, p, :, q] = phases[p : p + out.shape[0], q : q + out.shape[2], p, q]


class PackedLSTM(Packed):
    """A forward-only LSTM, called like ``nn.LSTM``."""

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__(layer)
        self.size, self.batch_first = layer.hidden_size, layer.batch_first
        self.layers = []
        for w_ih, w_hh, *biases in layer.all_weights:
            weights = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(
                w_ih.detach(), w_hh.detach(), self.size, False, True, False
            )
            self.layers.append((*weights, *(bias.detach() for bias in biases)))

    def __call__(self, x: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = (x.transpose(0, 1) if self.batch_first else x).contiguous()
        if memory is None:
            zeros = x.new_zeros(len(self.layers), x.shape[1], self.size)
            memory = (zeros, zeros)
        hidden, cells = [], []
        for weights, h, c in zip(self.layers, *memory, strict=True):
            x, h, c, _ = torch.ops.aten.mkldnn_rnn_layer(
                x, *weights, h[None], c[None], False, [], _LSTM, self.size, 1, True, False, False, False
            )
            hidden.append(h)
            cells.append(c)
        return x.transpose(0, 1) if self.batch_first else x, (torch.cat(hidden), torch.cat(cells))


def packed(owner: nn.Module, layer: nn.Module, x: Tensor, kind: Callable[..., Packed]) -> Callable[..., Any]:
    """``layer``, or where ``x`` allows it, what stands in for it: packed at first use in evaluation and kept by ``owner``."""
    if owner.training or not usable(x):
        return layer
    held = owner.__dict__.get("_packed")
    if held is None or not held.fits(layer):
        if any(tensor.is_inference() for tensor in layer.parameters()):  # their changes aren't counted
            return layer
        held = owner.__dict__["_packed"] = kind(layer)
    return cast(Callable[..., Any], held)


class Packing(nn.Module):
    """A module that runs one layer of its own through oneDNN, packed at first use in evaluation.

    Other weights are noticed however they come: optimisers, ``load_state_dict``, moves and casts, a new parameter. Only values
    written through ``parameter.data``, which PyTorch doesn't count as a change, need a call of ``eval()`` after them.
    """

    _packed: Packed | None = None

    def packed(self, layer: nn.Module, x: Tensor, kind: Callable[..., Packed]) -> Callable[..., Any]:
        """``layer``, or where ``x`` allows it, what stands in for it."""
        return packed(self, layer, x, kind)

    def train(self, mode: bool = True) -> Self:
        self._packed = None
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True) -> Self:
        self._packed = None
        return super()._apply(fn, recurse)
