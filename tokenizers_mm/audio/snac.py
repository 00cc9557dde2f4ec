"""SNAC: audio in residual tokens whose coarse levels run at a fraction of the frame rate.

Siuzdak, Grötschla and Lanzendörfer, "SNAC: Multi-Scale Neural Audio Codec", 2024. Ours decodes without the decoder's noise unless
asked for it, so that equal tokens give equal audio (the published decoder draws new noise each time), and trains (its authors
published no training code), which dead codes survive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.nn.conv import PaddedConv1d
from tokenizers_mm.nn.dac import DownBlock, Noise, UpBlock
from tokenizers_mm.nn.local_attention import LocalAttention
from tokenizers_mm.nn.snake import Snake
from tokenizers_mm.nn.strided_rvq import StridedRVQ, deinterleave, interleave, time_order
from tokenizers_mm.quantizers import usage
from tokenizers_mm.tokens import Tokens, TokenSpec


class SNACEncoder(nn.Module):
    """Residual blocks of growing stride and width, ``[B, 1, N] -> [B, D, N / hop]``, D the width doubled by each stride."""

    def __init__(self, dim: int, strides: Sequence[int], attention_window: int | None) -> None:
        super().__init__()
        widths = [dim * 2**i for i in range(len(strides) + 1)]
        self.stem = PaddedConv1d(1, dim, 7, norm="weight_norm")
        self.blocks = nn.Sequential(*map(DownBlock, widths, widths[1:], strides))
        self.attention = LocalAttention(widths[-1], attention_window) if attention_window else nn.Identity()
        self.out = PaddedConv1d(widths[-1], widths[-1], 7, groups=widths[-1], norm="weight_norm")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(self.blocks(self.stem(x))))


class SNACDecoder(nn.Module):
    """The encoder's mirror, with noise after each upsampling: ``[B, D, L] -> [B, 1, L * hop]`` in [-1, 1]."""

    def __init__(
        self, in_dim: int, dim: int, strides: Sequence[int], attention_window: int | None, noise: bool
    ) -> None:
        super().__init__()
        widths = [dim // 2**i for i in range(len(strides) + 1)]
        self.depthwise = PaddedConv1d(in_dim, in_dim, 7, groups=in_dim, norm="weight_norm")
        self.pointwise = PaddedConv1d(in_dim, dim, 1, norm="weight_norm")
        self.attention = LocalAttention(dim, attention_window) if attention_window else nn.Identity()
        self.blocks = nn.ModuleList(
            UpBlock(wide, narrow, stride, noise=noise)
            for wide, narrow, stride in zip(widths, widths[1:], strides, strict=False)
        )
        self.snake = Snake(widths[-1])
        self.out = PaddedConv1d(widths[-1], 1, 7, norm="weight_norm")

    def forward(self, z: Tensor, noise: Noise = False) -> Tensor:
        x = self.attention(self.pointwise(self.depthwise(z)))
        for block in self.blocks:
            x = block(x, noise)
        return torch.tanh(self.out(self.snake(x)))


class SNAC(Codec):
    """Mono audio to multi-scale tokens and back; by default the published 24 kHz speech codec (0.98 kbit/s).

    One coarse frame is one step, with the ids of all levels as its columns, coarse level first: 1 + 2 + 4 at 24 kHz, 1 + 2 + 4
    + 8 at 32 and 44.1 kHz. :meth:`to_codes` and :meth:`from_codes` convert to the list of levels that the published package
    speaks, :attr:`time_order` is the column order of language models that read time before level.

    Args:
        sample_rate: Hz.
        encoder_dim: First width of the encoder; it doubles with each stride.
        strides: Down-sampling of the encoder's blocks in the order applied; the decoder mirrors them.
        decoder_dim: First width of the decoder; it halves with each stride.
        attention_window: Frames that attend to each other in both networks' innermost layer; None for no attention.
        codebook_size: Entries of each level's codebook.
        codebook_dim: Width in which codes live.
        vq_strides: Frames that share an id of each level, coarse first; each divides the one before it.
        noise: Give the decoder its noise blocks; training uses them, :meth:`decode` on demand.
        commitment_weight: Of the pull of features towards their codes.
        revive_below: Training replaces codes used less than this share of the mean by features of the batch; 0 for never.

    Shape:
        ``x [B, 1, N]`` in [-1, 1]; tokens ``[B, T, Q]``, T whole attention windows where there is attention.

    Raises:
        ValueError: If sizes contradict each other.
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        encoder_dim: int = 48,
        strides: Sequence[int] = (2, 4, 8, 8),
        decoder_dim: int = 1024,
        attention_window: int | None = None,
        codebook_size: int = 4096,
        codebook_dim: int = 8,
        vq_strides: Sequence[int] = (4, 2, 1),
        noise: bool = True,
        commitment_weight: float = 0.25,
        revive_below: float = 0.1,
    ) -> None:
        super().__init__()
        latent_dim = encoder_dim * 2 ** len(strides)
        self.hop_length = math.prod(strides)
        self.encoder = SNACEncoder(encoder_dim, strides, attention_window)
        self.quantizer = StridedRVQ(
            latent_dim, vq_strides, codebook_size, codebook_dim, commitment_weight, revive_below
        )
        self.decoder = SNACDecoder(latent_dim, decoder_dim, list(strides)[::-1], attention_window, noise)
        self.vq_strides = tuple(vq_strides)
        self.block_frames = math.lcm(vq_strides[0], attention_window or 1)
        self.has_noise = noise
        self._noise: Noise = False
        # as DAC starts: biases would give all frames one direction, and codes see nothing but directions
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.spec = TokenSpec(
            modality="audio",
            codebook_sizes=self.quantizer.codebook_sizes,
            hop=(self.hop_length * vq_strides[0],),
            sample_rate=sample_rate,
            levels=self.quantizer.levels,
            block=self.block_frames // vq_strides[0],
        )

    # -- training ----------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        z = self._features(x)
        mask = None
        if lengths is not None and bool((lengths < x.shape[-1]).any()):
            frames = -(-lengths // self.hop_length)
            mask = torch.arange(z.shape[1], device=z.device) < frames.to(z.device)[:, None]
        quantized = self.quantizer(z, mask)
        wave = self.decoder(quantized.features.mT, noise=self.training)[..., : x.shape[-1]]
        return CodecOutput(wave, quantized.ids, quantized.loss, usage(quantized.ids, self.spec.codebook_sizes))

    # -- inference ---------------------------------------------------------------------------------------------------------

    def decode(self, tokens: Tokens, *, noise: Noise = False) -> Tensor:
        """Signals of a batch of tokens, each cut to its original size, the batch zero-padded to the longest.

        Args:
            tokens: What :meth:`encode` or :meth:`from_codes` gave, or a language model; any number of steps.
            noise: False leaves the noise out, a departure from the published decoder; True draws it anew, as published; a
                generator makes it reproducible.

        Raises:
            TypeError: If ``tokens`` is not a :class:`Tokens`.
            ValueError: If the tokens are another codec's, or noise is asked of a decoder that has none.
        """
        if noise is not False and not self.has_noise:
            raise ValueError("noise must be False: this configuration has no noise blocks")
        self._noise = noise
        try:
            return super().decode(tokens)
        finally:
            self._noise = False

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return Tokens(self.quantizer(self._features(x)).ids, self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        z = self.quantizer.decode(tokens.ids).mT
        return self.decoder(F.pad(z, (0, -z.shape[-1] % self.block_frames)), self._noise)

    def _features(self, x: Tensor) -> Tensor:
        """What is quantized, in whole blocks of frames, ``[B, L, D]``."""
        return self.encoder(F.pad(x, (0, -x.shape[-1] % (self.hop_length * self.block_frames)))).mT

    # -- orders ------------------------------------------------------------------------------------------------------------

    @property
    def time_order(self) -> tuple[int, ...]:
        """Columns of a step so that each id comes right before the finer ones that it covers."""
        return time_order(self.vq_strides)

    def to_codes(self, tokens: Tokens) -> list[Tensor]:
        """Ids of each level, coarse first, ``[B, T_i]``, as the published package has them."""
        self._check_spec(tokens.spec)
        return deinterleave(tokens.ids, self.vq_strides)

    def from_codes(self, codes: Sequence[Tensor], size: int | None = None) -> Tokens:
        """Tokens of the ids of each level; the inverse of :meth:`to_codes`.

        Args:
            codes: Ids ``[B, T_i]`` of each level, coarse first; levels that end within a step are filled with zeros.
            size: Samples of the signal; by default all that the finest level covers.

        Raises:
            ValueError: If these are not this codec's levels, or an id is outside its codebook.
        """
        ids = interleave(codes, self.vq_strides)
        if size is None:
            size = codes[-1].shape[1] * self.vq_strides[-1] * self.hop_length
        return Tokens(ids, self.spec, side={"size": torch.full((len(ids), 1), size, device=ids.device)})
