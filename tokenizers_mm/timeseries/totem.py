"""TOTEM: each channel's windows to tokens of a few samples each, by one VQ-VAE for series of any kind.

Talukder, Yue and Gkioxari, "TOTEM: TOkenized Time Series EMbeddings for General Time Series Analysis", 2024. Ours: signals of
any length are cut into windows of the published length, each with its own mean and deviation, which travel in ``side``; the
last window is padded with its last value; missing values count as the mean. By default the published quantizer, plain VQ
without restarts, which starts nearly collapsed: recipes use one that starts from k-means and revives codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.nn.onednn import usable
from tokenizers_mm.nn.rows import RowConv1d, RowConvTranspose1d
from tokenizers_mm.quantizers import build_quantizer, usage
from tokenizers_mm.timeseries.scaling import revin_scale
from tokenizers_mm.tokens import Tokens, TokenSpec

PUBLISHED = {"kind": "gradient_vq", "codebook_size": 256, "commitment_weight": 0.25}
STRIDES: dict[int, tuple[int, ...]] = {4: (2, 2), 8: (2, 2, 2), 12: (2, 2, 3), 16: (2, 2, 2, 2)}
"""Of the encoder's convolutions, by compression factor."""
_AT_ONCE = 4096  # windows that are normalised and quantized together: bounds memory for thousands of channels
_IN_CACHE = 128  # windows that go through the network together, in evaluation on a CPU


class ResidualBlock(nn.Module):
    """``relu(x) + block(x)``: the published block rectifies its input in place, so that its skip carries it rectified.

    Shape:
        ``[B, D, L] -> [B, D, L]``.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.conv1 = RowConv1d(dim, width, 3, padding=1, bias=False)
        self.conv2 = RowConv1d(width, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x)))

    def rows(self, x: Tensor) -> Tensor:
        """The same of ``[B, L, D]``, written over it."""
        return x.relu_().add_(self.conv2.rows(self.conv1.rows(x, relu=True)))


class Stack(nn.Sequential):
    """Residual blocks and a rectifier."""

    def __init__(self, dim: int, width: int, blocks: int) -> None:
        super().__init__(*(ResidualBlock(dim, width) for _ in range(blocks)), nn.ReLU())

    def rows(self, x: Tensor) -> Tensor:
        """The same of ``[B, L, D]``, written over it."""
        for block in list(self)[:-1]:
            x = cast(ResidualBlock, block).rows(x)
        return x.relu_()


class Encoder(nn.Module):
    """Strided convolutions, residual blocks, a projection: ``[B, 1, L] -> [B, latent_dim, L / F]``."""

    def __init__(self, factor: int, hidden: int, width: int, blocks: int, latent_dim: int) -> None:
        super().__init__()
        channels = (1, hidden // 2, *[hidden] * (len(STRIDES[factor]) - 1))
        self.down = nn.ModuleList(
            RowConv1d(narrow, wide, 4, stride, padding=1)
            for (narrow, wide), stride in zip(pairwise(channels), STRIDES[factor], strict=True)
        )
        self.conv = RowConv1d(hidden, hidden, 3, padding=1)
        self.blocks = Stack(hidden, width, blocks)
        self.project = RowConv1d(hidden, latent_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        if usable(x) and not self.training:
            return torch.cat([self._rows(part.mT) for part in x.split(_IN_CACHE)]).mT
        for layer in self.down:
            x = F.relu(layer(x))
        return self.project(self.blocks(self.conv(x)))

    def _rows(self, x: Tensor) -> Tensor:
        for layer in self.down:
            x = cast(RowConv1d, layer).rows(x, relu=True)
        return self.project.rows(self.blocks.rows(self.conv.rows(x)))


class Decoder(nn.Module):
    """The mirror image: ``[B, latent_dim, L / F] -> [B, 1, L]``."""

    def __init__(self, factor: int, hidden: int, width: int, blocks: int, latent_dim: int) -> None:
        super().__init__()
        strides = STRIDES[factor][::-1]
        channels = (*[hidden] * (len(strides) - 1), hidden // 2, 1)
        self.conv = RowConv1d(latent_dim, hidden, 3, padding=1)
        self.blocks = Stack(hidden, width, blocks)
        self.up = nn.ModuleList(
            RowConvTranspose1d(wide, narrow, stride + 2, stride, padding=1)
            for (wide, narrow), stride in zip(pairwise(channels), strides, strict=True)
        )

    def forward(self, z: Tensor) -> Tensor:
        if usable(z) and not self.training:
            return torch.cat([self._rows(part.mT) for part in z.split(_IN_CACHE)]).mT
        x = self.blocks(self.conv(z))
        for i, layer in enumerate(self.up):
            x = layer(F.relu(x) if i else x)
        return x

    def _rows(self, z: Tensor) -> Tensor:
        x = self.blocks.rows(self.conv.rows(z))
        for i, layer in enumerate(self.up):
            x = cast(RowConvTranspose1d, layer).rows(x, relu=i + 1 < len(self.up))
        return x


class TOTEM(Codec):
    """Series to one token per ``factor`` samples of each channel; by default the published tokenizer for forecasting.

    Args:
        factor: Samples per token: 4, 8, 12 or 16.
        window: Samples that are normalised and encoded together, a multiple of ``factor``; None for the whole series.
        hidden: Channels of the convolutions.
        residual_width: Channels inside the residual blocks.
        blocks: Residual blocks on either side.
        latent_dim: Width D of the codes.
        quantizer: Mapping for :func:`~tokenizers_mm.quantizers.build_quantizer`; by default plain VQ with 256 codes, as
            published.
        mask_ratio: Share of samples that training hides from the encoder, for imputation (published: 0.5).

    Shape:
        ``x [B, C, N]`` of any scale, NaN where missing; tokens ``[B, C * ceil(N / factor), 1]``, channel by channel;
        ``side["mean"]`` and ``side["deviation"]`` ``[B, C * W]``, W windows per channel.

    Raises:
        ValueError: For an unknown factor, or a window that is no multiple of it.
    """

    size_dims = 2
    allows_missing = True

    def __init__(
        self,
        factor: int = 4,
        window: int | None = 96,
        hidden: int = 128,
        residual_width: int = 64,
        blocks: int = 2,
        latent_dim: int = 64,
        quantizer: Mapping[str, Any] | None = None,
        mask_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        if factor not in STRIDES:
            raise ValueError(f"factor must be one of {sorted(STRIDES)}, got {factor}")
        if window is not None and (window < factor or window % factor):
            raise ValueError(f"window must be a multiple of factor {factor}, or None, got {window}")
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
        self.factor, self.window, self.mask_ratio = factor, window, mask_ratio
        self.encoder = Encoder(factor, hidden, residual_width, blocks, latent_dim)
        self.quantizer = build_quantizer(latent_dim, **(quantizer or PUBLISHED))
        self.decoder = Decoder(factor, hidden, residual_width, blocks, latent_dim)
        self.spec = TokenSpec(
            modality="timeseries",
            codebook_sizes=self.quantizer.codebook_sizes,
            axes=("channel", "time"),
            hop=(1, factor),
            channels=0,
            scalable="columns" if self.quantizer.scalable else "none",
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction with gradients of windows ``[B, C, T]``, each normalised whole.

        Raises:
            ValueError: If T is no multiple of the factor.
        """
        if x.shape[-1] % self.factor:
            raise ValueError(
                f"x must be windows of a multiple of {self.factor} samples, got {x.shape[-1]} (encode takes any length)"
            )
        seen = x
        if self.training and self.mask_ratio:
            seen = x.masked_fill(torch.rand_like(x) < self.mask_ratio, float("nan"))
        mean, deviation = revin_scale(seen)
        quantized = self.quantizer(self.features(normalised(seen, mean, deviation).flatten(0, 1)))
        y = self.synthesise(quantized.features).view_as(x)
        signal = y * deviation[..., None] + mean[..., None]
        ids = rearrange(quantized.ids, "(b c) t q -> b (c t) q", b=len(x))
        return CodecOutput(signal, ids, quantized.loss, usage(ids, self.spec.codebook_sizes))

    def features(self, windows: Tensor) -> Tensor:
        """What is quantized, ``[n, T / factor, D]``, of normalised windows ``[n, T]``."""
        return rearrange(self.encoder(windows[:, None]), "n d t -> n t d")

    def synthesise(self, features: Tensor) -> Tensor:
        """Normalised windows ``[n, T]`` of codes ``[n, T / factor, D]``."""
        return self.decoder(rearrange(features, "n t d -> n d t"))[:, 0]

    def tokenize(self, windows: Tensor) -> Tensor:
        """Ids ``[n, T / factor, Q]`` of normalised windows ``[n, T]``, a few thousand at a time."""
        return torch.cat([self.quantizer(self.features(part)).ids for part in windows.split(_AT_ONCE)])

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        batch, channels, samples = x.shape
        ids, means, deviations = [], [], []
        for part in _whole_and_rest(x, self.window or samples):
            mean, deviation = revin_scale(part)
            windows = normalised(part, mean, deviation).flatten(0, 2)
            windows = F.pad(windows[:, None], (0, -part.shape[-1] % self.factor), mode="replicate")[:, 0]
            ids.append(rearrange(self.tokenize(windows), "(b c w) t q -> b c (w t) q", b=batch, c=channels))
            means.append(mean)
            deviations.append(deviation)
        grid = torch.cat(ids, dim=2)[..., : self.spec.num_codebooks]
        side = {"mean": torch.cat(means, dim=2).flatten(1), "deviation": torch.cat(deviations, dim=2).flatten(1)}
        shapes = torch.tensor(grid.shape[1:3]).expand(batch, -1)
        return Tokens(rearrange(grid, "b c t q -> b (c t) q"), self.spec, shapes, side)

    def _decode(self, tokens: Tokens) -> Tensor:
        channels, steps = tokens.shapes[0].tolist()
        grid = rearrange(tokens.ids, "b (c t) q -> b q c t", c=channels)
        pieces = []
        for part in _whole_and_rest(grid.flatten(1, 2), steps if self.window is None else self.window // self.factor):
            ids = rearrange(part, "b (q c) w t -> (b c w) t q", c=channels)
            y = torch.cat([self.synthesise(self.quantizer.decode(few)) for few in ids.split(_AT_ONCE)])
            pieces.append(rearrange(y, "(b c w) n -> b c w n", b=len(tokens), c=channels))
        if "mean" in tokens.side:
            pieces = self._rescaled(pieces, tokens.side["mean"], tokens.side["deviation"])
        return torch.cat([rearrange(y, "b c w n -> b c (w n)") for y in pieces], dim=-1)

    def _rescaled(self, pieces: list[Tensor], means: Tensor, deviations: Tensor) -> list[Tensor]:
        batch, channels = pieces[0].shape[:2]
        counts = [y.shape[2] for y in pieces]
        mean, deviation = (x[:, : channels * sum(counts)].reshape(batch, channels, -1, 1) for x in (means, deviations))
        scales = zip(pieces, mean.split(counts, dim=2), deviation.split(counts, dim=2), strict=True)
        return [y * scale + offset for y, offset, scale in scales]


def _whole_and_rest(x: Tensor, size: int) -> list[Tensor]:
    """The whole windows of ``x [B, C, N]`` as ``[B, C, W, size]``, and what is left of it as ``[B, C, 1, n]``."""
    full = x.shape[-1] // size * size
    parts = [rearrange(x[..., :full], "b c (w n) -> b c w n", n=size)] if full else []
    return [*parts, x[:, :, None, full:]] if full < x.shape[-1] else parts


def normalised(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """``(x - mean) / deviation`` along the last axis, 0 where ``x`` is missing."""
    return ((x - mean[..., None]) / deviation[..., None]).nan_to_num(nan=0.0)
