"""Inference on x86 processors through oneDNN's operators, the ones that ``torch.compile`` emits, without compiling.

Called the usual way, PyTorch multiplies float32 matrices by MKL, which reaches less than half of oneDNN's rate on processors
that aren't Intel's, and computes 1-D convolutions channels first, reordering signal and weights in every call. These layers
keep features channels last (``[B, N, C]`` in memory, whatever the axes are called) and convolution weights folded and packed.
The operators have no gradient, so that training never comes here; results differ from PyTorch's in rounding only.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn

_OPERATORS = ("_linear_pointwise", "_convolution_pointwise", "_reorder_convolution_weight")
_AVAILABLE = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()
    and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
)


def usable(x: Tensor) -> bool:
    """Whether the operators may stand in for PyTorch's: float32 on the CPU, no gradient, autocast or tracing asked for."""
    return (
        _AVAILABLE
        and torch.backends.mkldnn.enabled
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.numel() > 0
    )


class Linear(nn.Linear):
    """``nn.Linear`` through oneDNN where :func:`usable`. Its weights need no packing: reordering them costs 10 % of a second
    of audio and less for more."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class PointwiseConv1d(nn.Conv1d):
    """``nn.Conv1d`` of one tap, as a matrix product where :func:`usable`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.mT, self.weight[:, :, 0], self.bias).mT if usable(x) else super().forward(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, through oneDNN where :func:`usable`."""
    if usable(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return nn.functional.linear(x, weight, bias)


class PackedConv1d:
    """A convolution as oneDNN wants it; knows when the weights that it was made of have changed.

    Args:
        conv: The layer, its weight parametrised or not. Its own padding is ignored.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        self.sources = tuple(conv.parameters())
        self.stamp = self._stamp()
        self.bias = conv.bias.detach() if conv.bias is not None else None
        self.layout = ([0, 0], [1, conv.stride[0]], [1, conv.dilation[0]], conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach()[:, :, None], *self.layout)

    def fits(self, conv: nn.Conv1d) -> bool:
        """Whether ``conv`` still has the weights that are packed here, by identity, place and count of changes."""
        return all(a is b for a, b in zip(self.sources, conv.parameters(), strict=True)) and self.stamp == self._stamp()

    def _stamp(self) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), tensor._version) for tensor in self.sources]

    def __call__(self, x: Tensor) -> Tensor:
        """``[B, C, N]`` to ``[B, C', N']``, both channels last in memory, without padding."""
        x = x.mT.contiguous().mT[:, :, None]
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.layout, "none", [], "")[:, :, 0]
