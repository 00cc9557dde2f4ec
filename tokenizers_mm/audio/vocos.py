"""Vocos as a decoder of EnCodec's tokens: spectra instead of transposed convolutions, at the same four bitrates.

Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders for high-quality audio synthesis", 2024.
Encoder and codebooks are EnCodec's (Défossez et al., 2023) and frozen; what is trained is the decoder. Tokens are
interchangeable with those of :class:`~tokenizers_mm.audio.Encodec` at 1.5, 3, 6 and 12 kbit/s.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenizers_mm.audio.pretrained.encodec import Encodec
from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.nn.convnext import ConvNeXtBackbone
from tokenizers_mm.nn.spectral import ISTFTHead
from tokenizers_mm.published import fit
from tokenizers_mm.quantizers import usage
from tokenizers_mm.tokens import Tokens, TokenSpec


class Vocos(Codec):
    """Mono audio to EnCodec's residual tokens and back through Vocos; by default the published 24 kHz decoder.

    ``with_bitrate(6.0)`` chooses a bitrate; a number of codebooks between two bandwidths decodes as the higher one.

    Args:
        sample_rate: Hz.
        strides: Down-sampling of EnCodec's encoder, in the order applied; their product is the hop.
        n_filters: First width of EnCodec's encoder.
        codebook_dim: Width of EnCodec's features.
        codebook_size: Entries of each codebook, a power of two.
        bandwidths: Kilobits per second that the decoder knows, rising; the last decides the number of codebooks.
        dim: Width of the decoder.
        intermediate_dim: Width inside a ConvNeXt block.
        layers: ConvNeXt blocks.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, ceil(N / hop), Q]``.

    Raises:
        ValueError: If a bandwidth holds no codebook, or they don't rise.
        ImportError: If ``transformers``, whose EnCodec encodes, is not installed.
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        strides: Sequence[int] = (2, 4, 5, 8),
        n_filters: int = 32,
        codebook_dim: int = 128,
        codebook_size: int = 1024,
        bandwidths: Sequence[float] = (1.5, 3.0, 6.0, 12.0),
        dim: int = 384,
        intermediate_dim: int = 1152,
        layers: int = 8,
    ) -> None:
        super().__init__()
        hop = math.prod(strides)
        bits_per_second = math.log2(codebook_size) * sample_rate / hop
        self.columns = [int(1000 * bandwidth / bits_per_second + 1e-6) for bandwidth in bandwidths]
        if not self.columns or self.columns[0] < 1 or sorted(set(self.columns)) != self.columns:
            raise ValueError(
                f"bandwidths must rise by whole codebooks of {bits_per_second / 1000:g} kbit/s, got {tuple(bandwidths)}"
            )
        self.encodec = Encodec(
            sample_rate,
            strides=strides,
            n_filters=n_filters,
            dim=codebook_dim,
            codebook_size=codebook_size,
            num_codebooks=self.columns[-1],
        )
        del self.encodec.model.decoder  # this class is what replaces it
        self.encodec.requires_grad_(False)
        self.backbone = ConvNeXtBackbone(codebook_dim, dim, intermediate_dim, layers, num_embeddings=len(bandwidths))
        self.head = ISTFTHead(dim, 4 * hop, hop)
        self.padding_safe = self.encodec.padding_safe
        self.spec: TokenSpec = self.encodec.spec

    def adopt(self, encodec: Encodec) -> None:
        """Take encoder and codebooks of a trained EnCodec of the same network; it may have more codebooks.

        Raises:
            ValueError: If it is another network; the message names what does not fit.
        """
        own, theirs = self.encodec.state_dict(), encodec.state_dict()
        found = {key: theirs[key] for key in own if key in theirs}
        self.encodec.load_state_dict(fit(found, own, "the EnCodec of this Vocos"))

    # -- training ----------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction from frozen tokens, in training mode at a bandwidth drawn for the batch."""
        with torch.no_grad():
            ids = self._encode(x, torch.full((len(x),), x.shape[-1])).ids
        used = self.spec.num_codebooks
        if self.training:
            used = self.columns[int(torch.randint(len(self.columns), ()))]
        wave = self._synthesise(ids[..., :used])[..., : x.shape[-1]]
        return CodecOutput(wave, ids, wave.new_zeros(()), usage(ids, self.spec.codebook_sizes))

    # -- inference ---------------------------------------------------------------------------------------------------------

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        tokens = self.encodec._encode(x, lengths)
        return Tokens(tokens.ids[..., : self.spec.num_codebooks], self.spec, shapes=tokens.shapes)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self._synthesise(tokens.ids)

    def _synthesise(self, ids: Tensor) -> Tensor:
        features = self.encodec._features(ids)
        bandwidth = bisect_left(self.columns, ids.shape[-1])
        return self.head(self.backbone(features, torch.full((len(ids),), bandwidth, device=ids.device)))
