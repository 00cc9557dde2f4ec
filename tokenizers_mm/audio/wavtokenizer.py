"""WavTokenizer: speech and audio in 40 or 75 tokens per second.

Ji et al., "WavTokenizer: an Efficient Acoustic Discrete Codec Tokenizer for Audio Language Modeling", ICLR 2025.
Ours adds a choice of quantizers, an STFT encoder (the mirror of the inverse-STFT head, several times cheaper than SEANet), and a
causal configuration that streams; dead codes are really revived and k-means statistics are consistent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.nn.convnext import ConvNeXtBackbone
from tokenizers_mm.nn.onednn import Linear
from tokenizers_mm.nn.seanet import SEANetEncoder
from tokenizers_mm.nn.spectral import ISTFTHead, STFTFeatures
from tokenizers_mm.quantizers import build_quantizer, usage
from tokenizers_mm.tokens import Tokens, TokenSpec


class STFTEncoder(nn.Module):
    """Log magnitude and phase of one window per token step, through ConvNeXt blocks: ``[B, 1, N] -> [B, L, dim]``."""

    def __init__(
        self, n_fft: int, hop_length: int, dim: int, hidden: int, intermediate: int, layers: int, causal: bool
    ):
        super().__init__()
        self.features = STFTFeatures(n_fft, hop_length, causal=causal)
        self.backbone = ConvNeXtBackbone(
            self.features.channels, hidden, intermediate, layers, kernel_size=1, causal=causal
        )
        self.out = Linear(hidden, dim)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return self.out(self.backbone(self.features(x, state), state=state))


class WavTokenizer(Codec):
    """Mono audio to one stream of tokens and back; by default the published 40 tokens/s at 24 kHz.

    Args:
        sample_rate: Hz.
        strides: Down-sampling of the encoder's stages, in the order applied; their product is the hop.
        encoder: ``"seanet"`` (published) or ``"stft"``.
        quantizer: Mapping for :func:`~tokenizers_mm.quantizers.build_quantizer`.
        encoder_dim: Width of the features that are quantized.
        n_filters: First width of the SEANet encoder; it doubles with each stride.
        encoder_layers: ConvNeXt blocks of the STFT encoder.
        dim: Width of the decoder (and of the STFT encoder's blocks).
        intermediate_dim: Width inside a ConvNeXt block.
        layers: ConvNeXt blocks of the decoder.
        attention: Residual-and-attention front of the decoder.
        num_embeddings: Conditions of the adaptive norms (upstream's 4 "bandwidths" are an ensemble: training draws one per
            batch, inference uses the first); 0 for plain norms.
        dropout: Of the attention front.
        causal: Causal convolutions, windowed causal attention and no statistics over time, so that the codec streams.
        attention_window: Frames that causal attention looks back.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, ceil(N / hop), Q]``.
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        strides: Sequence[int] = (4, 5, 5, 6),
        encoder: Literal["seanet", "stft"] = "seanet",
        quantizer: Mapping[str, Any] | None = None,
        encoder_dim: int = 512,
        n_filters: int = 32,
        encoder_layers: int = 4,
        dim: int = 768,
        intermediate_dim: int = 2304,
        layers: int = 12,
        attention: bool = True,
        num_embeddings: int = 4,
        dropout: float = 0.1,
        causal: bool = False,
        attention_window: int = 64,
    ) -> None:
        super().__init__()
        self.hop_length = math.prod(strides)
        n_fft = 4 * self.hop_length
        if encoder == "seanet":
            self.encoder: nn.Module = SEANetEncoder(
                dim=encoder_dim, n_filters=n_filters, strides=tuple(strides), causal=causal
            )
        elif encoder == "stft":
            self.encoder = STFTEncoder(
                n_fft, self.hop_length, encoder_dim, dim, intermediate_dim, encoder_layers, causal
            )
        else:
            raise ValueError(f"encoder must be 'seanet' or 'stft', got {encoder!r}")
        self.quantizer = build_quantizer(encoder_dim, **(quantizer or {"kind": "vq", "codebook_size": 4096}))
        self.backbone = ConvNeXtBackbone(
            encoder_dim,
            dim,
            intermediate_dim,
            layers,
            num_embeddings=num_embeddings,
            attention=attention,
            dropout=dropout,
            causal=causal,
            window=attention_window,
        )
        self.head = ISTFTHead(dim, n_fft, self.hop_length)
        self.num_embeddings = num_embeddings
        self.padding_safe = self.causal = causal
        self.spec = TokenSpec(
            modality="audio",
            codebook_sizes=self.quantizer.codebook_sizes,
            hop=(self.hop_length,),
            sample_rate=sample_rate,
            scalable="columns" if self.quantizer.scalable else "none",
        )

    # -- training ----------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        z = self._features(x)
        mask = None
        if lengths is not None and bool((lengths < x.shape[-1]).any()):
            steps = -(-lengths // self.hop_length)
            mask = torch.arange(z.shape[1], device=z.device) < steps.to(z.device)[:, None]
        quantized = self.quantizer(z, mask)
        condition = None
        if self.training and self.num_embeddings:
            condition = torch.randint(self.num_embeddings, (), device=x.device).expand(len(x))
        wave = self._synthesise(quantized.features, condition)[..., : x.shape[-1]]
        stats = usage(quantized.ids, self.spec.codebook_sizes)
        return CodecOutput(wave, quantized.ids, quantized.loss, stats)

    # -- inference ---------------------------------------------------------------------------------------------------------

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        ids = self.quantizer(self._features(x)).ids[..., : self.spec.num_codebooks]
        return Tokens(ids, self.spec, shapes=-(-lengths // self.hop_length)[:, None])

    def _decode(self, tokens: Tokens) -> Tensor:
        return self._synthesise(self.quantizer.decode(tokens.ids))

    def _features(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """What is quantized, ``[B, L, encoder_dim]``."""
        z = self.encoder(x, state)
        return rearrange(z, "b d l -> b l d") if isinstance(self.encoder, SEANetEncoder) else z

    def _synthesise(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.head(self.backbone(rearrange(features, "b l d -> b d l"), condition))

    # -- streaming ---------------------------------------------------------------------------------------------------------

    @property
    def streamable(self) -> bool:
        return self.causal

    @property
    def decode_latency_seconds(self) -> float:
        """How far decoded samples lag: the part of a frame that later frames overlap."""
        return self.head.trim / float(self.spec.sample_rate or 1)

    def _encode_step(self, x: Tensor, state: StreamState) -> Tensor:
        return self.quantizer(self._features(x, state)).ids[..., : self.spec.num_codebooks]

    def _decode_step(self, ids: Tensor, state: StreamState, *, last: bool) -> Tensor:
        features = rearrange(self.quantizer.decode(ids), "b l d -> b d l")
        if ids.shape[1]:
            hidden = self.backbone(features, state=state)
        else:
            hidden = features.new_zeros(len(ids), 0, self.head.out.in_features)
        return self.head.step(hidden, state, last=last)
