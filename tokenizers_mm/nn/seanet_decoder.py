"""The decoder of SEANet (Tagliasacchi et al., 2020) as EnCodec built it (Défossez et al., "High Fidelity Neural Audio
Compression", 2022): an LSTM, then transposed convolutions with residual units behind each.

The causal variant pads with zeros instead of reflections, so that it can stream, and holds no sample back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from tokenizers_mm.nn.conv import OverlapConvTranspose1d, PaddedConv1d, StreamState
from tokenizers_mm.nn.seanet import ResidualLSTM, ResidualUnit


class SEANetDecoder(nn.Module):
    """Features at the frame rate to a waveform, the channels halving with every stride.

    Args:
        channels: Signal channels C.
        dim: Features D per frame.
        n_filters: Channels before the last convolution.
        strides: Upsampling factors in the encoder's order; they are applied from the last to the first.
        lstm_layers: Layers of the LSTM behind the first convolution, 0 for none.
        residual_layers: Residual units behind each stride, with dilation ``dilation_base ** i``.
        kernel_size: Taps of the last convolution.
        first_kernel_size: Taps of the first convolution.
        residual_kernel_size: Taps of the residual units.
        dilation_base: Growth of dilation within a stage.
        compress: How many times narrower a residual unit is inside.
        causal: Look only at the past, so that the decoder can stream.
        pad_mode: Padding of a non-causal decoder.
        norm: Parametrisation of every convolution.

    Attributes:
        hop: Samples per frame.

    Shape:
        ``[B, D, L] -> [B, C, L * hop]``.

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
        first_kernel_size: int = 7,
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
        self.hop, self.causal = math.prod(strides), causal

        def conv(n_in: int, n_out: int, kernel: int) -> PaddedConv1d:
            return PaddedConv1d(n_in, n_out, kernel, causal=causal, pad_mode=pad_mode, norm=norm)

        width = n_filters * 2 ** len(strides)
        layers: list[nn.Module] = [conv(dim, width, first_kernel_size)]
        if lstm_layers:
            layers.append(ResidualLSTM(width, lstm_layers))
        for stride in reversed(strides):
            layers += [nn.ELU(), OverlapConvTranspose1d(width, width // 2, stride, causal=causal, norm=norm)]
            width //= 2
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
        layers += [nn.ELU(), conv(width, channels, kernel_size)]
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor, state: StreamState | None = None) -> Tensor:
        """The waveform of a signal's features, or of a stream's next frames.

        Args:
            features: ``[B, D, L]``.
            state: What the decoder remembers of the frames before, updated in place; an empty dict starts a stream.

        Raises:
            ValueError: If ``state`` is given to a non-causal decoder.
        """
        if state is not None and not self.causal:
            raise ValueError("state needs causal=True: this decoder looks ahead")
        x = features
        for layer in self.layers:
            x = layer(x) if isinstance(layer, nn.ELU) else layer(x, state)
        return x
