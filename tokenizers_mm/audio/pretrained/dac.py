"""DAC: general audio at 44.1, 24 or 16 kHz through residual vector quantization, over ``transformers``' DacModel.

Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN", NeurIPS 2023. The networks are the library's; lengths are
ours: encoding pads with zeros to whole hops, so that N samples are ``ceil(N / hop)`` steps. The published decoder returns one
sample less than that at each odd stride (8 samples of 24 and 16 kHz signals); the missing ones, a third of a millisecond at
the very end, are zero here, and every other sample equals the library's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.codec import CodecOutput
from tokenizers_mm.pretrained import TransformersCodec, from_transformers
from tokenizers_mm.quantizers import usage
from tokenizers_mm.tokens import Tokens, TokenSpec


class DAC(TransformersCodec):
    """Mono audio to residual codebooks and back; by default the published 44.1 kHz model of 9 codebooks (7.75 kbit/s).

    Args:
        sample_rate: Hz.
        strides: Down-sampling of the encoder's stages, in the order applied; their product is the hop, the decoder mirrors them.
        encoder_dim: First width of the encoder; it doubles with each stride.
        latent_dim: Width of what is quantized.
        decoder_dim: First width of the decoder; it halves with each stride.
        num_codebooks: Residual codebooks.
        codebook_size: Entries of each, a power of two.
        codebook_dim: Width in which the nearest entry is looked up.
        quantizer_dropout: Share of a training batch that keeps a random number of codebooks, so that any prefix decodes.
        commitment_weight: Weight of the commitment term in the quantizer loss.
        codebook_weight: Weight of the codebook term in the quantizer loss.
        weight_norm: Weight-normalised convolutions, as it was trained; published weights come without.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, ceil(N / hop), Q]``.
    """

    def __init__(
        self,
        sample_rate: int = 44100,
        strides: Sequence[int] = (2, 4, 8, 8),
        encoder_dim: int = 64,
        latent_dim: int = 1024,
        decoder_dim: int = 1536,
        num_codebooks: int = 9,
        codebook_size: int = 1024,
        codebook_dim: int = 8,
        quantizer_dropout: float = 0.5,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        config = from_transformers("DacConfig")(
            sampling_rate=sample_rate,
            downsampling_ratios=list(strides),
            upsampling_ratios=list(strides)[::-1],
            encoder_hidden_size=encoder_dim,
            hidden_size=latent_dim,
            decoder_hidden_size=decoder_dim,
            n_codebooks=num_codebooks,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            quantizer_dropout=quantizer_dropout,
            commitment_loss_weight=commitment_weight,
            codebook_loss_weight=codebook_weight,
        )
        self.model = from_transformers("DacModel")(config)
        if weight_norm:
            self.model.apply_weight_norm()
        self.hop_length = math.prod(strides)
        self.spec = TokenSpec(
            modality="audio",
            codebook_sizes=(codebook_size,) * num_codebooks,
            hop=(self.hop_length,),
            sample_rate=sample_rate,
            scalable="columns",
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        loss, features, codes, _ = self.model.encode(self._pad(x), return_dict=False)
        wave = self._samples(self.model.decode(features, return_dict=False)[0])
        ids = rearrange(codes, "b q t -> b t q")
        return CodecOutput(
            wave[..., : x.shape[-1]], ids, torch.as_tensor(loss).mean(), usage(ids, self.spec.codebook_sizes)
        )

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        codes = self.model.encode(self._pad(x), n_quantizers=self.spec.num_codebooks, return_dict=False)[2]
        return Tokens(rearrange(codes, "b q t -> b t q"), self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self._samples(self.model.decode(audio_codes=tokens.codes, return_dict=False)[0])

    def _pad(self, x: Tensor) -> Tensor:
        """Zeros at the end to whole hops: the network itself would drop the rest."""
        return F.pad(x, (0, -x.shape[-1] % self.hop_length))

    def _samples(self, wave: Tensor) -> Tensor:
        """``[B, n] -> [B, 1, T * hop]``: zeros for the samples that odd strides lose."""
        return F.pad(wave, (0, -wave.shape[-1] % self.hop_length))[:, None]
