"""Patches: embeddings of a few samples each, no ids, behind encode and decode as codecs have them.

Nie et al., "A Time Series is Worth 64 Words" (PatchTST), 2023, with the residual input network and the mask beside the values
of Chronos-Bolt (Ansari et al., 2024). For language models that read vectors; decoding is a learned projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.timeseries.scaling import standard_scale


@dataclass(frozen=True)
class Patches:
    """Embeddings of a batch of series.

    Args:
        features: ``[B, C * P, D]``, channel by channel.
        shape: Channels and patches per channel.
        size: Samples N of the series.
        mean: Of each channel, ``[B, C]``.
        deviation: Likewise.
        mask: Patches with anything observed, bool ``[B, C * P]``.
    """

    features: Tensor
    shape: tuple[int, int]
    size: int
    mean: Tensor
    deviation: Tensor
    mask: Tensor


class PatchTokenizer(nn.Module):
    """Series to embeddings of patches and back.

    Args:
        patch: Samples of a patch; the series is padded on the left.
        dim: Width of the embeddings.
        hidden: Of the residual networks.
    """

    def __init__(self, patch: int = 16, dim: int = 512, hidden: int = 2048) -> None:
        super().__init__()
        self.patch = patch
        self.embed = ResidualMLP(2 * patch, hidden, dim)
        self.restore = ResidualMLP(dim, hidden, patch)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction ``[B, C, N]`` with gradients."""
        return self.decode(self.encode(x))

    def encode(self, x: Tensor) -> Patches:
        """Embeddings of series ``[B, C, N]``, NaN where missing.

        Raises:
            ValueError: For another shape, or infinity.
        """
        if x.ndim != 3 or not x.numel():
            raise ValueError(f"expected timeseries [B, C, N], got {list(x.shape)}")
        if x.isinf().any():
            raise ValueError("x must be finite, got infinity (only NaN marks a missing sample)")
        mean, deviation = standard_scale(x)
        y = F.pad((x - mean[..., None]) / deviation[..., None], (-x.shape[-1] % self.patch, 0), value=float("nan"))
        patches = rearrange(y, "b c (p n) -> b (c p) n", n=self.patch)
        seen = ~patches.isnan()
        features = self.embed(torch.cat([patches.nan_to_num(nan=0.0), seen.to(x.dtype)], dim=-1))
        shape = (x.shape[1], y.shape[-1] // self.patch)
        return Patches(features, shape, x.shape[-1], mean, deviation, seen.any(dim=-1))

    def decode(self, patches: Patches) -> Tensor:
        """Series ``[B, C, N]`` in their original units."""
        y = rearrange(self.restore(patches.features), "b (c p) n -> b c (p n)", c=patches.shape[0])
        return y[..., -patches.size :] * patches.deviation[..., None] + patches.mean[..., None]


class ResidualMLP(nn.Module):
    """One hidden layer beside a linear map: ``[..., in] -> [..., out]``."""

    def __init__(self, in_dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_dim, hidden)
        self.out = nn.Linear(hidden, out_dim)
        self.skip = nn.Linear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(x))) + self.skip(x)
