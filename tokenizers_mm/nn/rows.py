"""Convolutions of many short windows as matrix products, features last: ``[n, N, C] -> [n, N', C']``.

Over a few dozen steps PyTorch's convolutions reach half of the rate of its matrix products on a CPU. The layers here are those of
``torch.nn`` for training, with the same parameters; ``rows`` runs them by products where :func:`~tokenizers_mm.nn.onednn.usable`
allows it. Results differ by rounding.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import Packed, Packing, linear, spread_rows, spreading_matrix


class _Gathered(Packed):
    """Weights of a convolution as one matrix ``[C', taps * C]``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        conv = cast(nn.Conv1d, layer)
        self.matrix = conv.weight.detach().mT.flatten(1).contiguous()
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.taps, self.stride, self.padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])

    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        if self.taps > 1:
            x = F.pad(x, (0, 0, self.padding, self.padding)).contiguous()
            steps, width = (x.shape[1] - self.taps) // self.stride + 1, self.taps * x.shape[2]
            x = x.as_strided((len(x), steps, width), (x.stride(0), self.stride * x.shape[2], 1))  # taps side by side
        return linear(x, self.matrix, self.bias, relu=relu)


class _Scattered(Packed):
    """A transposed convolution by :func:`~tokenizers_mm.nn.onednn.spread_rows`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        conv = cast(nn.ConvTranspose1d, layer)
        self.matrix, self.bias = spreading_matrix(conv), None if conv.bias is None else conv.bias.detach()
        self.taps, self.stride, self.padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])

    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        y = spread_rows(x, self.matrix, self.taps, self.stride)
        y = y.narrow(1, self.padding, y.shape[1] - 2 * self.padding)
        y = y if self.bias is None else y.add_(self.bias)
        return y.relu_() if relu else y


class RowConv1d(Packing, nn.Conv1d):
    """``nn.Conv1d`` without groups, dilation or other padding than zeros, that also takes rows."""

    def rows(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """``[n, N, C] -> [n, N', C']``, then rectified where asked; only in evaluation, where products may stand in."""
        return self.packed(self, x, _Gathered)(x, relu)


class RowConvTranspose1d(Packing, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` without groups, dilation or output padding, that also takes rows."""

    def rows(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """``[n, N, C] -> [n, N', C']``, then rectified where asked; only in evaluation, where products may stand in."""
        return self.packed(self, x, _Scattered)(x, relu)
