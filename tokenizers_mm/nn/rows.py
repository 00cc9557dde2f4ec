"""Convolutions of many short windows as matrix products, features last: ``[n, N, C] -> [n, N', C']``.

Over a few dozen steps PyTorch's convolutions reach half of the rate of its matrix products on a CPU. The layers here are those of
``torch.nn`` for training, with the same parameters; ``rows`` runs them by products where :func:`~tokenizers_mm.nn.onednn.usable`
allows it. Results differ by rounding.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import Packed, Packing, linear


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
    """Weights of a transposed convolution as one matrix ``[taps * C', C]``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        conv = cast(nn.ConvTranspose1d, layer)
        self.matrix = conv.weight.detach().permute(2, 1, 0).flatten(0, 1).contiguous()
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.taps, self.stride, self.padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])

    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        count, steps = x.shape[:2]
        parts = linear(x, self.matrix, None).unflatten(-1, (self.taps, -1))  # n x N x taps x C'
        overlap = -(-self.taps // self.stride)
        blocks = x.new_zeros(count, steps - 1 + overlap, self.stride, parts.shape[-1])
        for block in range(overlap):
            part = parts[:, :, block * self.stride : (block + 1) * self.stride]
            blocks[:, block : block + steps, : part.shape[2]] += part
        y = blocks.flatten(1, 2).narrow(1, self.padding, (steps - 1) * self.stride + self.taps - 2 * self.padding)
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
