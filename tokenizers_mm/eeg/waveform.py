"""A codec that gives EEG back as a waveform: SEANet with residual vector quantization, one channel at a time.

The network is that of Défossez et al., "High Fidelity Neural Audio Compression" (EnCodec), 2022, without normalisation over time:
causal throughout, so that tokens stream and no sample is held back. Peers: BrainTokenizer of Xiao et al., "BrainOmni: A Brain
Foundation Model for Unified EEG and MEG Signals", 2025, also quantizes SEANet features by residual codebooks, but over all
electrodes at once. A channel on its own needs no montage: any number of channels, in any order, of any device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.eeg.grid import fold, pack, unpack
from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.nn.seanet import SEANetEncoder
from tokenizers_mm.nn.seanet_decoder import SEANetDecoder
from tokenizers_mm.quantizers import build_quantizer, usage
from tokenizers_mm.tokens import Tokens, TokenSpec


class EEGWaveformCodec(Codec):
    """EEG of any montage to residual codebooks per channel and back; by default 2.5 steps per second of 10 bits a codebook.

    Args:
        sample_rate: Hz of the signals it takes; others are resampled first.
        strides: Down-sampling of the encoder's stages, in the order applied; their product is the hop.
        quantizer: Mapping for :func:`~tokenizers_mm.quantizers.build_quantizer`.
        dim: Width of the features that are quantized.
        n_filters: First width of the encoder and last of the decoder; it doubles with each stride.
        residual_layers: Residual units of a stage.
        lstm_layers: Layers of the LSTMs at the frame rate.
        scale: Microvolts that count as 1 inside. A fixed number, because a loudness measured over the signal could not stream.
        causal: Look only at the past, so that the codec streams.

    Shape:
        ``x [B, C, N]`` in microvolts; tokens on a grid ``(C, ceil(N / hop))``.
    """

    size_dims = 2

    def __init__(
        self,
        sample_rate: int = 200,
        strides: Sequence[int] = (4, 4, 5),
        quantizer: Mapping[str, Any] | None = None,
        dim: int = 64,
        n_filters: int = 32,
        residual_layers: int = 2,
        lstm_layers: int = 1,
        scale: float = 50.0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a positive number of microvolts, got {scale}")
        network: dict[str, Any] = {
            "dim": dim,
            "n_filters": n_filters,
            "strides": tuple(strides),
            "lstm_layers": lstm_layers,
            "residual_layers": residual_layers,
            "causal": causal,
        }
        self.encoder = SEANetEncoder(**network)
        self.quantizer = build_quantizer(
            dim, **(quantizer or {"kind": "rvq", "codebook_size": 1024, "num_codebooks": 4})
        )
        self.decoder = SEANetDecoder(**network)
        self.hop_length, self.scale = math.prod(strides), scale
        self.padding_safe = self.causal = causal
        self.spec = TokenSpec(
            modality="eeg",
            codebook_sizes=self.quantizer.codebook_sizes,
            axes=("channel", "time"),
            hop=(1, self.hop_length),
            sample_rate=sample_rate,
            channels=0,
            scalable="columns" if self.quantizer.scalable else "none",
        )

    # -- training ----------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        z = self._features(x)
        mask = None
        if lengths is not None and bool((lengths < x.shape[-1]).any()):
            steps = (-(-lengths // self.hop_length)).repeat_interleave(x.shape[1])
            mask = torch.arange(z.shape[1], device=z.device) < steps.to(z.device)[:, None]
        quantized = self.quantizer(z, mask)
        wave = self._synthesise(quantized.features, len(x))[..., : x.shape[-1]]
        ids = rearrange(quantized.ids, "(b c) t q -> b (c t) q", b=len(x))
        return CodecOutput(wave, ids, quantized.loss, usage(ids, self.spec.codebook_sizes))

    # -- inference ---------------------------------------------------------------------------------------------------------

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return pack(self._ids(x), self.spec, (-(-lengths // self.hop_length)).tolist())

    def _decode(self, tokens: Tokens) -> Tensor:
        ids = unpack(tokens)
        return self._synthesise(self.quantizer.decode(ids.flatten(0, 1)), len(ids))

    def _features(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """What is quantized, ``[B * C, L, dim]``."""
        return rearrange(self.encoder(fold(x) / self.scale, state), "b d l -> b l d")

    def _ids(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        ids = self.quantizer(self._features(x, state)).ids[..., : self.spec.num_codebooks]
        return rearrange(ids, "(b c) t q -> b c t q", b=len(x))

    def _synthesise(self, features: Tensor, batch: int, state: StreamState | None = None) -> Tensor:
        wave = self.decoder(rearrange(features, "b l d -> b d l"), state)
        return rearrange(wave, "(b c) 1 n -> b c n", b=batch) * self.scale

    # -- streaming ---------------------------------------------------------------------------------------------------------

    @property
    def streamable(self) -> bool:
        return self.causal

    def _encode_step(self, x: Tensor, state: StreamState) -> Tensor:
        return self._ids(x, state)

    def _decode_step(self, ids: Tensor, state: StreamState, *, last: bool) -> Tensor:
        if not ids.shape[2]:
            return torch.zeros(*ids.shape[:2], 0, device=ids.device)
        return self._synthesise(self.quantizer.decode(ids.flatten(0, 1)), len(ids), state)
