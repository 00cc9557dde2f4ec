"""A codec that gives EEG back as a waveform: SEANet with residual vector quantization, one channel at a time.

The network is that of Défossez et al., "High Fidelity Neural Audio Compression" (EnCodec), 2022, without normalisation over time:
causal throughout, so that tokens stream and no sample is held back. Beside either network runs a learned linear transform of a
hop, which begins as the cosine transform: most of EEG's power is slow and nearly Gaussian, for which that alone is close to the
best, and the networks learn what the past and the shape of waves add to it. Peers: BrainTokenizer of Xiao et al., "BrainOmni: A
Brain Foundation Model for Unified EEG and MEG Signals", 2025, also quantizes SEANet features by residual codebooks, but over all
electrodes at once. A channel on its own needs no montage: any number of channels, in any order, of any device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.eeg.grid import pack, unpack
from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.nn.seanet import SEANetEncoder
from tokenizers_mm.nn.seanet_decoder import SEANetDecoder
from tokenizers_mm.quantizers import build_quantizer, usage
from tokenizers_mm.tokens import Tokens, TokenSpec


class EEGWaveformCodec(Codec):
    """EEG of any montage to residual codebooks per channel and back; by default 2.5 steps a second of five codebooks, 100 bit/s.

    Args:
        sample_rate: Hz of the signals it takes; others are resampled first.
        patch_size: Neighbouring samples that enter the network side by side, so that it starts at a lower rate.
        strides: Down-sampling of the encoder's stages, in the order applied; the hop is their product times ``patch_size``.
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
        patch_size: int = 4,
        strides: Sequence[int] = (4, 5),
        quantizer: Mapping[str, Any] | None = None,
        dim: int = 32,
        n_filters: int = 32,
        residual_layers: int = 2,
        lstm_layers: int = 1,
        scale: float = 50.0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a positive number of microvolts, got {scale}")
        if patch_size < 1:
            raise ValueError(f"patch_size must be a positive number of samples, got {patch_size}")
        network: dict[str, Any] = {
            "channels": patch_size,
            "dim": dim,
            "n_filters": n_filters,
            "strides": tuple(strides),
            "lstm_layers": lstm_layers,
            "residual_layers": residual_layers,
            "causal": causal,
        }
        self.encoder = SEANetEncoder(**network)
        self.quantizer = build_quantizer(
            dim, **(quantizer or {"kind": "rvq", "codebook_size": 256, "num_codebooks": 5})
        )
        self.decoder = SEANetDecoder(**network)
        hop = patch_size * math.prod(strides)
        self.analysis, self.synthesis = nn.Linear(hop, dim, bias=False), nn.Linear(dim, hop, bias=False)
        self._start_linear()
        self.patch_size, self.hop_length, self.scale = patch_size, hop, scale
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

    @torch.no_grad()
    def _start_linear(self) -> None:
        """Begin as a cosine transform of each hop: the networks beside it give nothing at first."""
        dim, hop = self.analysis.weight.shape
        basis = cosine_basis(hop)[:dim]
        for weight, rows in ((self.analysis.weight, basis), (self.synthesis.weight, basis.T)):
            nn.init.orthogonal_(weight)
            weight[: len(rows), : rows.shape[1]] = rows
        for layers in (self.encoder.layers, self.decoder.layers):
            last = cast(Any, layers[-1]).conv
            last.parametrizations.weight.original0.zero_()
            last.bias.zero_()

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
        whole = F.pad(x, (0, -x.shape[-1] % self.hop_length)) / self.scale
        patches = rearrange(whole, "b c (n p) -> (b c) p n", p=self.patch_size)
        hops = rearrange(whole, "b c (l n) -> (b c) l n", n=self.hop_length)
        return rearrange(self.encoder(patches, state), "b d l -> b l d") + self.analysis(hops)

    def _ids(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        ids = self.quantizer(self._features(x, state)).ids[..., : self.spec.num_codebooks]
        return rearrange(ids, "(b c) t q -> b c t q", b=len(x))

    def _synthesise(self, features: Tensor, batch: int, state: StreamState | None = None) -> Tensor:
        wave = self.decoder(rearrange(features, "b l d -> b d l"), state)
        hops = rearrange(self.synthesis(features), "(b c) l n -> b c (l n)", b=batch)
        return (rearrange(wave, "(b c) p n -> b c (n p)", b=batch) + hops) * self.scale

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


def cosine_basis(n: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of n samples, ``[n, n]``, slow rows first."""
    angles = torch.pi / n * torch.arange(n)[:, None] * (torch.arange(n) + 0.5)
    basis = angles.cos() * (2 / n) ** 0.5
    basis[0] /= 2**0.5
    return basis
