"""Multi-scale residual quantization of a feature map: the tokens of one coarse to fine pyramid, all from one codebook.

Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction" (VAR), 2024. Each scale encodes
what the coarser ones left over. Ours can also revive codes that fall out of use, without which the coarse scales collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.quantizer import GradientCodebook, Quantized


class Refinement(nn.Conv2d):
    """``(1 - ratio) h + ratio conv3x3(h)``: what upsampled codes go through before they are added."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, super().forward(x), self.ratio)


class MultiScaleQuantizer(nn.Module):
    """Quantizes a square feature map ``[B, D, p, p]`` scale by scale, ``p`` being the last of ``scales``.

    Args:
        dim: D, channels of the map and width of the codes.
        codebook_size: Entries of the codebook that all scales share.
        scales: Sides of the pyramid's grids, coarse first.
        refinements: How many different convolutions the scales share.
        refinement_ratio: Share of the convolved map in what a scale adds.
        commitment_weight: Of the pull of the map towards every scale's reconstruction.
        revive_below: See :class:`~tokenizers_mm.nn.quantizer.GradientCodebook`; 0 as published.

    Raises:
        ValueError: If scales do not grow.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        scales: Sequence[int],
        *,
        refinements: int = 4,
        refinement_ratio: float = 0.5,
        commitment_weight: float = 0.25,
        revive_below: float = 0.0,
    ) -> None:
        super().__init__()
        if not scales or any(a >= b for a, b in pairwise(scales)) or scales[0] < 1:
            raise ValueError(f"scales must be growing sides of grids, got {list(scales)}")
        self.scales, self.commitment_weight = tuple(scales), commitment_weight
        self.steps = tuple(side**2 for side in scales)
        self.codebook = GradientCodebook(codebook_size, dim, revive_below=revive_below)
        self.refinements = nn.ModuleList(Refinement(dim, refinement_ratio) for _ in range(refinements))

    def forward(self, z: Tensor) -> Quantized:
        """Features like ``z``, ids ``[B, T, 1]`` of all scales coarse first, and the loss averaged over scales."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            rest, total = z.detach(), torch.zeros_like(z)
            seen, ids, losses = [], [], []
            for scale, side in enumerate(self.scales):
                coarse = rearrange(self._area(rest, side), "b d h w -> b (h w) d")
                ids.append(self.codebook.nearest(coarse))
                seen.append(coarse)
                added = self._refined(ids[-1], scale)
                total, rest = total + added, rest - added.detach()
                losses.append(F.mse_loss(total, z.detach()) + self.commitment_weight * F.mse_loss(z, total.detach()))
            steps = torch.cat(ids, dim=1)
            if not self.training:
                return Quantized(total, steps[..., None], z.new_zeros(()))
            self.codebook.revive(torch.cat(seen, dim=1).flatten(0, 1), steps.flatten())
            return Quantized(z + (total - z).detach(), steps[..., None], torch.stack(losses).mean())

    def decode(self, ids: Tensor) -> Tensor:
        """The map ``[B, D, p, p]`` that the ids ``[B, t, 1]`` of the first scales add up to."""
        return self.partial_sums(ids)[-1]

    def partial_sums(self, ids: Tensor) -> list[Tensor]:
        """The map ``[B, D, p, p]`` after each of the scales that ids ``[B, t, 1]`` hold.

        Raises:
            ValueError: If ``t`` is not the steps of the first so many scales.
        """
        ends = list(accumulate(self.steps))
        if ids.shape[1] not in ends:
            raise ValueError(f"ids must hold whole scales, {ends} steps, got {ids.shape[1]}")
        pieces = ids[..., 0].split(self.steps[: ends.index(ids.shape[1]) + 1], dim=1)
        return list(accumulate(self._refined(piece, scale) for scale, piece in enumerate(pieces)))

    def next_inputs(self, ids: Tensor) -> Tensor:
        """What a next-scale model reads in place of scales 2, 3, ...: the sum so far at their size, ``[B, T - 1, D]``."""
        sums = self.partial_sums(ids)[: len(self.scales) - 1]
        inputs = [self._area(known, side) for known, side in zip(sums, self.scales[1:], strict=False)]
        return torch.cat([rearrange(x, "b d h w -> b (h w) d") for x in inputs], dim=1)

    def _refined(self, ids: Tensor, scale: int) -> Tensor:
        """What one scale's ids ``[B, side * side]`` add to the map."""
        codes = rearrange(self.codebook.look_up(ids), "b (h w) d -> b d h w", h=self.scales[scale])
        codes = codes.to(self.codebook.weight.dtype)
        if self.scales[scale] != self.scales[-1]:
            codes = F.interpolate(codes, size=(self.scales[-1],) * 2, mode="bicubic")
        return self.refinements[self._refinement_of(scale)](codes)

    def _refinement_of(self, scale: int) -> int:
        """The convolution whose tick, of ticks spread over (0, 1), is nearest to the scale's place in [0, 1]."""
        count = len(self.refinements)
        place = scale / max(1, len(self.scales) - 1)
        ticks = np.linspace(1 / 3 / count, 1 - 1 / 3 / count, count)  # float64: published weights rest on how ties fall
        return int(np.abs(ticks - place).argmin())

    def _area(self, x: Tensor, side: int) -> Tensor:
        return x if side == self.scales[-1] else F.interpolate(x, size=(side, side), mode="area")
