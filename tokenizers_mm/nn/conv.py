"""1-D convolutions with the padding rules of SEANet (EnCodec, Défossez et al., 2022), whole-signal and streaming.

A causal layer given a ``StreamState`` prepends the samples it remembers instead of padding, and remembers the last ones:
pushing a signal in pieces then equals one call over the whole, because the remembered context starts as the same zeros.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tokenizers_mm.nn.onednn import PackedConv1d, Packing

StreamState = dict[nn.Module, Tensor | tuple[Tensor, ...]]
"""What each causal layer remembers between two pushes, keyed by the layer. An empty dict starts a stream."""


class PaddedConv1d(Packing):
    """Convolution whose output has ``ceil(N / stride)`` steps.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Taps.
        stride: Step between windows.
        dilation: Step between taps.
        groups: Channel groups.
        causal: Pad only on the left, with zeros, so that the layer can stream.
        pad_mode: Padding of a non-causal layer.
        norm: ``"weight_norm"`` or ``"none"``.

    Shape:
        ``[B, in_channels, N] -> [B, out_channels, ceil(N / stride)]``. With a stream state, N must be a multiple of stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        causal: bool = False,
        pad_mode: Literal["reflect", "constant"] = "constant",
        norm: Literal["weight_norm", "none"] = "none",
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation, groups=groups)
        self.conv = weight_norm(conv) if norm == "weight_norm" else conv
        self.stride = stride
        self.span = (kernel_size - 1) * dilation + 1
        self.causal = causal
        self.pad_mode = "constant" if causal else pad_mode
        if self.span < stride:
            raise ValueError(f"kernel_size {kernel_size} (dilation {dilation}) must reach stride {stride}")

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        context = self.span - self.stride
        if state is not None:
            x = remember(self, x, context, state)
        else:
            n = x.shape[-1]
            extra = math.ceil(n / self.stride) * self.stride - n
            right = 0 if self.causal else context // 2
            x = pad1d(x, context - right, right + extra, self.pad_mode)
        return self.packed(self.conv, x, PackedConv1d)(x)


class OverlapConvTranspose1d(nn.Module):
    """Transposed convolution of ``2 * stride`` taps: each step adds to its own ``stride`` samples and to those of the next step.

    What a step adds to the next one waits in the stream's state, so no sample is held back.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Samples per step.
        causal: Cut what reaches past the last step's own samples; otherwise half of the overlap at either end.
        norm: ``"weight_norm"`` or ``"none"``.

    Shape:
        ``[B, in_channels, L] -> [B, out_channels, L * stride]``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        causal: bool = True,
        norm: Literal["weight_norm", "none"] = "none",
    ) -> None:
        super().__init__()
        conv = nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride)
        self.conv = weight_norm(conv, dim=1) if norm == "weight_norm" else conv
        self.stride, self.causal = stride, causal

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        if state is None:
            start = 0 if self.causal else self.stride // 2
            return self.conv(x)[..., start : start + x.shape[-1] * self.stride]
        y = F.conv_transpose1d(x, self.conv.weight, stride=self.stride)
        begun = state.get(self)
        if isinstance(begun, Tensor):
            y[..., : self.stride] += begun
        final = x.shape[-1] * self.stride
        state[self] = y[..., final:].clone()  # a view would keep all of y alive
        assert self.conv.bias is not None
        return y[..., :final] + self.conv.bias[:, None]


def pad1d(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pad the last axis; reflection of a signal shorter than the padding first extends it with zeros, then cuts.

    Features that lie channels last in memory still do afterwards.
    """
    if left == right == 0:
        return x
    if mode != "reflect":
        return F.pad(x.mT, (0, 0, left, right)).mT if x.mT.is_contiguous() else F.pad(x, (left, right))
    short = max(left, right) - x.shape[-1] + 1
    if short > 0:
        padded = pad1d(F.pad(x, (0, short)), left, right, mode)
        return padded[..., : padded.shape[-1] - short]
    if not x.mT.is_contiguous():
        return F.pad(x, (left, right), mode="reflect")
    steps = x.mT
    before, after = steps[:, 1 : left + 1].flip(1), steps[:, steps.shape[1] - right - 1 : -1].flip(1)
    return torch.cat([before, steps, after], dim=1).mT


def remember(layer: nn.Module, x: Tensor, context: int, state: StreamState) -> Tensor:
    """``x`` with the last ``context`` samples that ``layer`` saw before it (zeros at first); updates ``state``."""
    past = state.get(layer)
    if past is None:
        past = x.new_zeros(*x.shape[:-1], context)
    assert isinstance(past, Tensor)
    x = torch.cat([past, x], dim=-1)
    state[layer] = x[..., x.shape[-1] - context :].clone()  # a view would keep all of x alive
    return x
