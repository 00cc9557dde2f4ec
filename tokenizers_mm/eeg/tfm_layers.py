"""The two paths of TFM-Tokenizer (Pradeepkumar et al., 2026): a step's spectrum in patches, and its samples.

Published as convolutions; here matrix products over patches, which are the same sums with features last in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.linear_attention import LinearAttentionTransformer
from tokenizers_mm.nn.onednn import Linear, LinearGELU, usable
from tokenizers_mm.nn.phase_retrieval import frame

_QUANTILE, _EPSILON = 0.95, 1e-8


def robust_scale(x: Tensor) -> Tensor:
    """The 95 % quantile of absolute values of each signal ``[M, n]``, with linear interpolation, and 1e-8: ``[M, 1]``."""
    place = _QUANTILE * (x.shape[-1] - 1)
    below = int(place)
    top = x.abs().topk(x.shape[-1] - below, dim=-1, sorted=True).values  # cheaper than sorting all
    low = top[..., -1:]
    high = top[..., -2:-1] if top.shape[-1] > 1 else low
    return torch.lerp(low, high, place - below) + _EPSILON


def frames_and_spectra(x: Tensor, n_fft: int, hop: int) -> tuple[Tensor, Tensor]:
    """Frames ``[M, T, n_fft]`` of signals ``[M, n]``, zero-padded to whole steps, and their spectra under a Hann window."""
    steps = max(1, -(-(x.shape[-1] - n_fft) // hop) + 1)
    x = F.pad(x, (0, (steps - 1) * hop + n_fft - x.shape[-1]))
    with torch.autocast(x.device.type, enabled=False):  # complex numbers have no half precision
        return x.unfold(-1, n_fft, hop), torch.fft.rfft(frame(x.float(), n_fft, hop))


class SequenceGroupNorm(nn.GroupNorm):
    """Group normalisation over a sequence with features last, ``[M, L, C]``."""

    def forward(self, x: Tensor) -> Tensor:
        if not usable(x):
            return super().forward(x.mT).mT
        # PyTorch's own takes several times as long where features are last
        x = x - self._per_group(x)
        return torch.addcmul(self.bias, x, (self._per_group(x.square()) + self.eps).rsqrt_().mul_(self.weight), out=x)

    def _per_group(self, x: Tensor) -> Tensor:
        """Mean of each group over the sequence, for each of its features: ``[M, 1, C]``."""
        means = x.mean(dim=1, keepdim=True).unflatten(-1, (self.num_groups, -1))
        return means.mean(dim=-1, keepdim=True).expand_as(means).flatten(-2)


class PatchEmbedding(nn.Module):
    """Three linear layers, each followed by GELU and a norm of each group of four features over the whole sequence.

    Shape:
        ``[M, L, in_features] -> [M, L, widths[-1]]``.
    """

    def __init__(self, in_features: int, widths: tuple[int, ...], groups: int) -> None:
        super().__init__()
        sizes = (in_features, *widths)
        self.linears = nn.ModuleList(LinearGELU(a, b) for a, b in zip(sizes, widths, strict=False))
        self.norms = nn.ModuleList(SequenceGroupNorm(groups, width) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(linear(x))
        return x


class FrequencyPath(nn.Module):
    """Each step's magnitudes in patches, through a transformer over frequency, gathered group by group under a gate.

    Args:
        sample_rate: Hz; bins are 1 Hz wide, below half of it.
        dim: Width of the transformer; half of it comes out.
        layers: Of the transformer.
        heads: Of the transformer.
        patch_size: Bins of a patch, and patches of a group.
        dropout: Behind each attention.

    Shape:
        ``[M, T, F] -> [M, T, dim / 2]``.

    Raises:
        ValueError: If the bins do not make whole groups, or the groups do not share the width evenly.
    """

    def __init__(self, sample_rate: int, dim: int, layers: int, heads: int, patch_size: int, dropout: float) -> None:
        super().__init__()
        if patch_size < 1:
            raise ValueError(f"patch_size must be a positive number of bins, got {patch_size}")
        groups, rest = divmod(sample_rate // 2, patch_size**2)
        if sample_rate % 2 or rest or groups < 1 or dim % 4 or dim % (2 * groups):
            raise ValueError(
                f"sample_rate must be twice a multiple of {patch_size**2} Hz whose groups of bins share half of dim={dim}, "
                f"such as 200, got {sample_rate} (resample first)"
            )
        self.patch_size, self.width = patch_size, dim // (2 * groups)
        self.embedding = PatchEmbedding(patch_size, (dim, dim, dim), dim // 4)
        self.transformer = LinearAttentionTransformer(dim, layers, heads, dropout=dropout)
        self.aggregation = Linear(patch_size * dim, 2 * self.width)  # gate and value

    def forward(self, magnitude: Tensor) -> Tensor:
        steps = magnitude.flatten(0, 1)
        hidden = self.transformer(self.embedding(steps.unflatten(-1, (-1, self.patch_size))))
        gate, value = self.aggregation(hidden.unflatten(1, (-1, self.patch_size)).flatten(2)).chunk(2, dim=-1)
        return (value * gate.sigmoid()).mT.flatten(1).unflatten(0, magnitude.shape[:2])


class TimePath(nn.Module):
    """Each step's samples, projected; the norms see the whole window: ``[M, T, n_fft] -> [M, T, dim / 2]``."""

    def __init__(self, n_fft: int, dim: int) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(n_fft, (dim, dim, dim // 2), dim // 4)

    def forward(self, frames: Tensor) -> Tensor:
        return self.embedding(frames)
