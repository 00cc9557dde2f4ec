"""The encoder of SEANet (Tagliasacchi et al., 2020) as EnCodec built it (Défossez et al., "High Fidelity Neural Audio
Compression", 2022): strided convolutions with residual blocks between them, then an LSTM.

The causal variant differs from EnCodec's: it pads with zeros instead of reflections, so that it can stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.conv import PaddedConv1d, StreamState
from tokenizers_mm.nn.onednn import PackedLSTM, Packing, usable

TILE = 2**19  # numbers in the widest features of a piece: 2 MB


class ResidualUnit(nn.Module):
    """Two convolutions, the first dilated and narrow, beside a 1x1 shortcut.

    Args:
        dim: Channels in and out.
        kernel_size: Taps of the first convolution.
        dilation: Dilation of the first convolution.
        compress: How many times narrower the channels are between the two.
        causal: Look only at the past.
        pad_mode: Padding of a non-causal layer.
        norm: Parametrisation of the convolutions.

    Shape:
        ``[B, dim, N] -> [B, dim, N]``.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: int = 3,
        dilation: int = 1,
        compress: int = 2,
        causal: bool = False,
        pad_mode: Literal["reflect", "constant"] = "reflect",
        norm: Literal["weight_norm", "none"] = "weight_norm",
    ) -> None:
        super().__init__()
        hidden = dim // compress
        self.inner = PaddedConv1d(
            dim, hidden, kernel_size, dilation=dilation, causal=causal, pad_mode=pad_mode, norm=norm
        )
        self.outer = PaddedConv1d(hidden, dim, 1, norm=norm)
        self.shortcut = PaddedConv1d(dim, dim, 1, norm=norm)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return self.shortcut(x) + self.outer(F.elu(self.inner(F.elu(x), state)))


class ResidualLSTM(Packing):
    """A forward-only LSTM whose input is added to its output.

    Args:
        dim: Channels in and out.
        layers: Stacked LSTM layers.

    Shape:
        ``[B, dim, L] -> [B, dim, L]``.
    """

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, layers, batch_first=True)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y, memory = self.packed(self.lstm, x, PackedLSTM)(x.mT, None if state is None else state.get(self))
        if state is not None:
            state[self] = memory
        return y.mT + x


class SEANetEncoder(nn.Module):
    """Waveform to features at the frame rate, the channels doubling with every stride.

    Args:
        channels: Signal channels C.
        dim: Features D per frame.
        n_filters: Channels after the first convolution.
        strides: Downsampling factors in the order applied; their product is the hop.
        lstm_layers: Layers of the LSTM before the last convolution, 0 for none.
        residual_layers: Residual units before each stride, with dilation ``dilation_base ** i``.
        kernel_size: Taps of the first convolution.
        last_kernel_size: Taps of the last convolution.
        residual_kernel_size: Taps of the residual units.
        dilation_base: Growth of dilation within a stage.
        compress: How many times narrower a residual unit is inside.
        causal: Look only at the past, so that the encoder can stream.
        pad_mode: Padding of a non-causal encoder.
        norm: Parametrisation of every convolution.

    Attributes:
        hop: Samples per frame.

    Raises:
        ValueError: If a stride is below 1 or a width does not divide.
    """

    def __init__(
        self,
        channels: int = 1,
        dim: int = 512,
        n_filters: int = 32,
        strides: Sequence[int] = (4, 5, 5, 6),
        lstm_layers: int = 2,
        residual_layers: int = 1,
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_base: int = 2,
        compress: int = 2,
        causal: bool = False,
        pad_mode: Literal["reflect", "constant"] = "reflect",
        norm: Literal["weight_norm", "none"] = "weight_norm",
    ) -> None:
        super().__init__()
        if not strides or any(s < 1 for s in strides):
            raise ValueError(f"strides must be positive numbers, got {tuple(strides)}")
        if n_filters % compress:
            raise ValueError(f"n_filters must be a multiple of compress={compress}, got {n_filters}")
        self.hop = math.prod(strides)
        self.causal = causal

        def conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> PaddedConv1d:
            return PaddedConv1d(n_in, n_out, kernel, stride=stride, causal=causal, pad_mode=pad_mode, norm=norm)

        width = n_filters
        layers: list[nn.Module] = [conv(channels, width, kernel_size)]
        for stride in strides:
            for i in range(residual_layers):
                layers.append(
                    ResidualUnit(
                        width,
                        kernel_size=residual_kernel_size,
                        dilation=dilation_base**i,
                        compress=compress,
                        causal=causal,
                        pad_mode=pad_mode,
                        norm=norm,
                    )
                )
            layers += [nn.ELU(), conv(width, 2 * width, 2 * stride, stride)]
            width *= 2
        if lstm_layers:
            layers.append(ResidualLSTM(width, lstm_layers))
        layers += [nn.ELU(), conv(width, dim, last_kernel_size)]
        self.layers = nn.ModuleList(layers)
        self._early = 1 + (len(strides) - 1) * (residual_layers + 2)
        self._early_hop = math.prod(strides[:-1])
        self._tile = self._early_hop * max(1, TILE // (self._early_hop * n_filters))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Features of a signal, or of a stream's next piece.

        Args:
            x: Signal ``[B, C, N]``; with ``state``, N must be a multiple of ``hop``.
            state: What the encoder remembers of the pieces before, updated in place; an empty dict starts a stream.

        Returns:
            Features ``[B, D, ceil(N / hop)]``.

        Raises:
            ValueError: If ``state`` is given to a non-causal encoder or N is not whole hops of a stream.
        """
        if state is not None and not self.causal:
            raise ValueError("state needs causal=True: this encoder looks ahead")
        if state is not None and x.shape[-1] % self.hop:
            raise ValueError(f"x must hold a multiple of {self.hop} samples in a stream, got {x.shape[-1]}")
        if self.causal:
            # Filling up the last hop here, not layer by layer, makes the whole equal a stream's zero-padded last piece.
            x = F.pad(x, (0, -x.shape[-1] % self.hop))
        if state is None and not self.training and usable(x):
            return self._run(self.layers[self._early :], self._run_in_tiles(self.layers[: self._early], x))
        return self._run(self.layers, x, state)

    @staticmethod
    def _run(layers: Iterable[nn.Module], x: Tensor, state: StreamState | None = None) -> Tensor:
        for layer in layers:
            x = layer(x) if isinstance(layer, nn.ELU) else layer(x, state)
        return x

    def _run_in_tiles(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        """The layers before the last stage, piece by piece, so that what passes between them stays in the caches.

        A piece comes with as much of its surroundings as the layers see, which is cut off again: the result is that of
        the whole.
        """
        hop, halo, n = self._early_hop, self._halo(layers), x.shape[-1]
        starts = range(0, max(n - 2 * halo, 1), self._tile)
        pieces = []
        for item in x.split(1):
            for start in starts:
                left, last = max(start - halo, 0), start == starts[-1]
                y = self._run(layers, item[..., left : n if last else start + self._tile + halo])
                skip = (start - left) // hop
                pieces.append(y[..., skip : None if last else skip + self._tile // hop].mT)
        return torch.cat(pieces, dim=1).reshape(len(x), -1, pieces[0].shape[-1]).mT

    def _halo(self, layers: nn.ModuleList) -> int:
        """Samples around a sample that the layers see, in whole hops."""
        seen, hop = 0, 1
        for conv in layers.modules():
            if isinstance(conv, PaddedConv1d):
                seen, hop = seen + (conv.span - conv.stride) * hop, hop * conv.stride
        return -(-seen // hop) * hop
