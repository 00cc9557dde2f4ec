"""Residual quantization at several rates: coarse levels see averages over time, finer ones what is left (SNAC).

Siuzdak et al., "SNAC: Multi-Scale Neural Audio Codec", 2024. Each level compares directions in few dimensions and learns its
codebook by gradients, as in Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023.

The ids of one coarse frame are one step of Q columns, level by level: for strides ``(4, 2, 1)`` the levels are
``(0, 1, 1, 2, 2, 2, 2)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from tokenizers_mm.nn.quantizer import Quantized, Quantizer, best_code

DECAY = 0.99  # of the average use of codes


class StridedVQ(nn.Module):
    """One level: average over ``stride`` steps, project, nearest direction in the codebook, project back, repeat.

    Args:
        dim: Features in and out.
        codebook_size: Entries.
        codebook_dim: Width in which codes live.
        stride: Steps that share a code.
    """

    usage: Tensor  # moving average of how often a code is chosen, 1 for all alike

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.in_proj = weight_norm(nn.Conv1d(dim, codebook_dim, 1))
        self.out_proj = weight_norm(nn.Conv1d(codebook_dim, dim, 1))
        self.codebook = nn.Embedding(codebook_size, codebook_dim)
        self.register_buffer("usage", torch.ones(codebook_size), persistent=False)

    def latents(self, z: Tensor) -> Tensor:
        """What is compared with the codebook, ``[B, D, T] -> [B, T / stride, codebook_dim]``."""
        return self.in_proj(F.avg_pool1d(z, self.stride) if self.stride > 1 else z).mT

    def look_up(self, latents: Tensor) -> Tensor:
        """Ids of the nearest directions, ``[B, T / stride, codebook_dim] -> [B, T / stride]``."""
        with torch.autocast(latents.device.type, enabled=False):
            return best_code(latents.float(), F.normalize(self.codebook.weight.float(), dim=-1))

    def expand(self, codes: Tensor) -> Tensor:
        """Features of codes, ``[B, T / stride, codebook_dim] -> [B, D, T]``."""
        return self.out_proj(codes.mT).repeat_interleave(self.stride, dim=-1)

    @torch.no_grad()
    def revive(self, latents: Tensor, ids: Tensor, below: float) -> None:
        """Follow which codes a training batch used; put those used less than ``below`` of the mean where its latents are.

        Args:
            latents: ``[..., codebook_dim]``.
            ids: What they became, ``[...]``.
            below: Share of the mean use.
        """
        counts = torch.bincount(ids.flatten(), minlength=len(self.usage)).to(self.usage)
        if parallel := dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        self.usage.lerp_(counts * len(counts) / counts.sum(), 1 - DECAY)
        dead = (self.usage < below).nonzero()[:, 0]
        if len(dead):
            vectors = latents.reshape(-1, latents.shape[-1])
            chosen = vectors[torch.randint(len(vectors), (len(dead),), device=vectors.device)]
            self.codebook.weight[dead] = chosen.to(self.codebook.weight)
            self.usage[dead] = 1.0
            if parallel:
                dist.broadcast(self.codebook.weight, 0)


class StridedRVQ(Quantizer):
    """Residual levels of falling stride.

    Args:
        dim: Features in and out.
        strides: Steps that share a code of each level, coarse first; each divides the one before it.
        codebook_size: Entries of each codebook.
        codebook_dim: Width in which codes live.
        commitment_weight: Of the pull of features towards their codes, beside 1 for that of codes towards features.
        revive_below: Training replaces codes used less than this share of the mean by vectors of the batch; 0 for never, as DAC.

    Shape:
        ``[B, T, D]`` with T a multiple of ``strides[0]``; ids ``[B, T / strides[0], Q]``.

    Raises:
        ValueError: If a stride does not divide the one before it.
    """

    def __init__(
        self,
        dim: int,
        strides: Sequence[int],
        codebook_size: int = 4096,
        codebook_dim: int = 8,
        commitment_weight: float = 0.25,
        revive_below: float = 0.1,
    ) -> None:
        super().__init__()
        check_strides(strides)
        self.strides, self.commitment_weight, self.revive_below = tuple(strides), commitment_weight, revive_below
        self.levels = tuple(i for i, r in enumerate(strides) for _ in range(strides[0] // r))
        self.codebook_sizes = (codebook_size,) * len(self.levels)
        self.quantizers = nn.ModuleList(StridedVQ(dim, codebook_size, codebook_dim, r) for r in strides)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        residual = z.mT  # B, D, T
        total, ids, loss = torch.zeros_like(residual), [], z.new_zeros(())
        for level in self._stages():
            latents = level.latents(residual)
            found = level.look_up(latents)
            codes = level.codebook(found)
            if self.training:
                kept = slice(None) if mask is None else mask.unflatten(1, (-1, level.stride)).any(dim=-1)
                loss = loss + self._loss(latents[kept], codes[kept])
                if self.revive_below:
                    level.revive(latents[kept], found[kept], self.revive_below)
                codes = latents + (codes - latents).detach()
            features = level.expand(codes)
            residual, total = residual - features, total + features
            ids.append(found)
        return Quantized(total.mT, interleave(ids, self.strides), loss)

    def decode(self, ids: Tensor) -> Tensor:
        per_level = zip(self._stages(), deinterleave(ids, self.strides), strict=True)
        features = [level.expand(level.codebook(column)) for level, column in per_level]
        return sum(features[1:], features[0]).mT

    def _stages(self) -> list[StridedVQ]:
        return [stage for stage in self.quantizers if isinstance(stage, StridedVQ)]

    def _loss(self, latents: Tensor, codes: Tensor) -> Tensor:
        commitment = F.mse_loss(latents, codes.detach())
        return self.commitment_weight * commitment + F.mse_loss(codes, latents.detach())


# -- orders of ids ---------------------------------------------------------------------------------------------------------


def interleave(levels: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Ids of each level as the columns of coarse steps; what is missing to whole steps is filled with zeros.

    Args:
        levels: Ids ``[B, T_i]`` of each level, coarse first.
        strides: Fine frames that share an id of each level, coarse first; each divides the one before it.

    Returns:
        int64 ``[B, T, Q]`` with the fewest steps T that hold all ids.

    Raises:
        ValueError: If there are not as many levels as strides.
    """
    check_strides(strides)
    if len(levels) != len(strides) or any(ids.ndim != 2 or len(ids) != len(levels[0]) for ids in levels):
        shapes = [list(ids.shape) for ids in levels]
        raise ValueError(f"levels must be {len(strides)} tensors [B, T_i] for strides {tuple(strides)}, got {shapes}")
    per_step = [strides[0] // stride for stride in strides]
    steps = max(-(-ids.shape[1] // n) for ids, n in zip(levels, per_step, strict=True))
    whole = [F.pad(ids, (0, steps * n - ids.shape[1])) for ids, n in zip(levels, per_step, strict=True)]
    return torch.cat([ids.reshape(len(ids), steps, n) for ids, n in zip(whole, per_step, strict=True)], dim=-1)


def deinterleave(ids: Tensor, strides: Sequence[int], frames: int | None = None) -> list[Tensor]:
    """Inverse of :func:`interleave`.

    Args:
        ids: ``[B, T, Q]``.
        strides: As there.
        frames: Fine frames to keep, where they filled no whole step; each level keeps the ids that cover them.

    Returns:
        Ids ``[B, T_i]`` of each level, coarse first.

    Raises:
        ValueError: If the columns are not those of ``strides``, or there are not ``frames`` frames.
    """
    check_strides(strides)
    per_step = [strides[0] // stride for stride in strides]
    if ids.ndim != 3 or ids.shape[2] != sum(per_step):
        raise ValueError(f"ids must be [B, T, {sum(per_step)}] for strides {tuple(strides)}, got {list(ids.shape)}")
    total = ids.shape[1] * strides[0]
    if frames is not None and not 0 <= frames <= total:
        raise ValueError(f"frames must be 0 to {total}, got {frames}")
    levels = [rearrange(part, "b t n -> b (t n)") for part in ids.split(per_step, dim=-1)]
    if frames is None:
        return levels
    return [level[:, : -(-frames // stride)] for level, stride in zip(levels, strides, strict=True)]


def time_order(strides: Sequence[int]) -> tuple[int, ...]:
    """Columns of a step as many speech language models read them: each id right before the finer ones that it covers.

    For strides ``(4, 2, 1)``: ``(0, 1, 3, 4, 2, 5, 6)``, which is coarse, middle, fine, fine, middle, fine, fine.
    """
    check_strides(strides)
    starts, at = [], 0
    for level, stride in enumerate(strides):
        starts += [(i * stride, level, at + i) for i in range(strides[0] // stride)]
        at += strides[0] // stride
    return tuple(column for _, _, column in sorted(starts))


def check_strides(strides: Sequence[int]) -> None:
    """Raise ``ValueError`` unless strides are positive and each divides the one before it."""
    if not strides or min(strides) < 1 or any(coarse % fine for coarse, fine in pairwise(strides)):
        raise ValueError(f"strides must be positive, each dividing the one before it, got {tuple(strides)}")
