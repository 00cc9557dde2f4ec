"""What every quantizer is, and quantizers whose codebook learns by gradients: VQGAN's, LlamaGen's and IBQ.

Losses as in van den Oord et al., "Neural Discrete Representation Learning", 2017; unit-length codes of few dimensions from Yu et
al., "Vector-quantized Image Modeling with Improved VQGAN", 2022; index backpropagation from Shi et al., "Taming Scalable Visual
Tokenizer for Autoregressive Image Generation" (IBQ), 2024. All distances are float32, whatever autocast says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import linear

_SEARCHED_AT_ONCE = 2**24  # scores held in memory during a search: 64 MiB


@dataclass
class Quantized:
    """What a quantizer returns.

    Args:
        features: ``[B, T, D]``, with straight-through gradients in training.
        ids: int64 ``[B, T, Q]``.
        loss: Scalar auxiliary loss (commitment, entropy), unweighted; 0 in evaluation.
    """

    features: Tensor
    ids: Tensor
    loss: Tensor


class Quantizer(nn.Module):
    """Maps features ``[B, T, D]`` to the nearest of finitely many, and their indices back to features.

    Attributes:
        codebook_sizes: Entries of each column's codebook.
        scalable: Whether the first columns alone decode.
    """

    codebook_sizes: tuple[int, ...]
    scalable: bool = False

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize; in training mode also update codebooks from the steps where ``mask`` ``[B, T]`` is true."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward")

    def decode(self, ids: Tensor) -> Tensor:
        """Features ``[B, T, D]`` of ids ``[B, T, q]``, ``q`` the first columns of a scalable quantizer."""
        raise NotImplementedError(f"{type(self).__name__} must implement decode")


@torch.no_grad()
def best_code(z: Tensor, codes: Tensor, bias: Tensor | None = None) -> Tensor:
    """Index ``[...]`` of the row of ``codes`` ``[K, D]`` with the largest ``z . row + bias``, as one matrix product."""
    rows = z.reshape(-1, z.shape[-1])
    pieces = rows.split(max(1, _SEARCHED_AT_ONCE // len(codes)))
    return torch.cat([linear(piece, codes, bias).argmax(dim=-1) for piece in pieces]).reshape(z.shape[:-1])


def nearest_code(z: Tensor, codes: Tensor) -> Tensor:
    """Index ``[...]`` of the row of ``codes`` ``[K, D]`` nearest to each vector of ``z`` ``[..., D]``."""
    # |z|^2 is the same for all rows, so z.e - |e|^2 / 2 orders them
    return best_code(z, codes, torch.linalg.vector_norm(codes, dim=-1).square() / -2)


def entropy_loss(logits: Tensor, diversity: float = 1.0) -> Tensor:
    """Mean entropy of each row's softmax less ``diversity`` times the entropy of their mean: low if rows decide and use all.

    Args:
        logits: ``[N, K]``.
        diversity: Weight of even use.

    Returns:
        Scalar; negative where use is even, which is right and must not be clamped.
    """
    log_p = logits.log_softmax(dim=-1)
    mean = log_p.exp().mean(dim=0)
    used = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()  # codes that nothing is near have a gradient too
    return -(log_p.exp() * log_p).sum(dim=-1).mean() + diversity * (mean * used).sum()


class GradientCodebook(nn.Module):
    """Codes that the loss itself trains; those that fall out of use move to where features are.

    Args:
        codebook_size: Entries K.
        dim: Width D of a code.
        normalise: Compare and return unit-length vectors.
        revive_below: In training, a code used less than this share of uniform use (a moving average over batches) is
            replaced by a feature of the batch; 0 leaves codes to their gradients, as published.
        decay: Of that average.
    """

    usage: Tensor | None

    def __init__(
        self, codebook_size: int, dim: int, *, normalise: bool = False, revive_below: float = 0.0, decay: float = 0.99
    ) -> None:
        super().__init__()
        self.normalise, self.revive_below, self.decay = normalise, revive_below, decay
        self.weight = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size))
        self.register_buffer("usage", torch.zeros(codebook_size) if revive_below else None)

    @property
    def codes(self) -> Tensor:
        """The codebook as it is compared, float32 ``[K, D]``."""
        codes = self.weight.float()
        if self.usage is not None and torch.is_grad_enabled():
            codes = codes.clone()  # revival writes over the weight before the backward pass comes
        return F.normalize(codes, dim=-1) if self.normalise else codes

    def nearest(self, z: Tensor) -> Tensor:
        """Index ``[...]`` of the code nearest to each vector of ``z`` ``[..., D]``."""
        return best_code(z, self.codes) if self.normalise else nearest_code(z, self.codes)

    def look_up(self, ids: Tensor) -> Tensor:
        """Codes ``[..., D]`` of ids ``[...]``, float32."""
        return F.embedding(ids, self.codes)

    @torch.no_grad()
    def revive(self, z: Tensor, ids: Tensor) -> None:
        """Count the ids ``[N]`` that features ``[N, D]`` got and replace codes out of use, alike on every rank."""
        if self.usage is None:
            return
        size, distributed = len(self.weight), dist.is_available() and dist.is_initialized()
        counts = torch.bincount(ids, minlength=size).to(self.usage)
        if distributed:
            dist.all_reduce(counts)
        share = counts / counts.sum().clamp(min=1) * size  # 1 where use is uniform
        self.usage.copy_(torch.lerp(share, self.usage, self.decay))
        dead = self.usage < self.revive_below
        drawn = z[torch.randint(len(z), (size,), device=z.device)].to(self.weight)
        if distributed:
            dist.broadcast(drawn, src=0)
        self.weight.copy_(torch.where(dead[:, None], drawn, self.weight))
        self.usage.masked_fill_(dead, 1.0)


class GradientVectorQuantizer(Quantizer):
    """Nearest neighbour in a codebook that the loss itself trains.

    Args:
        dim: Features in and out.
        codebook_size: Entries K of the codebook.
        codebook_dim: Width in which codes live; None for ``dim``, without projections.
        normalise: Compare and return unit-length vectors (LlamaGen, with 8 dimensions).
        commitment_weight: Of the pull of features towards their codes; taming's published runs in effect used 1.
        codebook_weight: Of the pull of codes towards their features; taming's published runs in effect used 0.25.
        entropy_weight: Of :func:`entropy_loss` over all codes; 0 spares the memory of ``[B * T, K]`` with gradients.
        temperature: Of the softmax that the entropy is taken of.
        revive_below: See :class:`GradientCodebook`.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        codebook_dim: int | None = None,
        normalise: bool = False,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        entropy_weight: float = 0.0,
        temperature: float = 0.01,
        revive_below: float = 0.0,
    ) -> None:
        super().__init__()
        self.codebook_sizes = (codebook_size,)
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.entropy_weight, self.temperature = entropy_weight, temperature
        width = codebook_dim or dim
        self.project_in = nn.Linear(dim, width) if codebook_dim else nn.Identity()
        self.project_out = nn.Linear(width, dim) if codebook_dim else nn.Identity()
        self.codebook = GradientCodebook(codebook_size, width, normalise=normalise, revive_below=revive_below)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        z = self.project_in(z).float()
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z, dim=-1) if self.codebook.normalise else z
            ids = self.codebook.nearest(z)
            quantized = self.codebook.look_up(ids)
            loss = self._loss(z, quantized, ids, mask) if self.training else z.new_zeros(())
        through = z + (quantized - z).detach() if self.training else quantized
        return Quantized(self._out(through), ids[..., None], loss)

    def decode(self, ids: Tensor) -> Tensor:
        return self._out(self.codebook.look_up(ids[..., 0]))

    def _out(self, codes: Tensor) -> Tensor:
        return self.project_out(codes.to(self.codebook.weight.dtype))

    def _loss(self, z: Tensor, quantized: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        z, quantized = z[keep], quantized[keep]
        loss = self.commitment_weight * F.mse_loss(z, quantized.detach())
        loss = loss + self.codebook_weight * F.mse_loss(quantized, z.detach())
        if self.entropy_weight:
            codes = self.codebook.codes
            distances = z.square().sum(-1, keepdim=True) - 2 * z @ codes.mT + codes.square().sum(-1)
            loss = loss + self.entropy_weight * entropy_loss(-distances / self.temperature)
        self.codebook.revive(z.detach(), ids[keep])
        return loss


class IndexBackpropQuantizer(Quantizer):
    """The code with the largest dot product; gradients reach every code through the softmax of all dot products.

    Args:
        dim: Features in and out.
        codebook_size: Entries K; ``[B * T, K]`` is held with gradients in training.
        codebook_dim: Width in which codes live; None for ``dim``, without projections.
        commitment_weight: Of the pull of features towards their codes.
        entropy_weight: Of :func:`entropy_loss`.
        temperature: Of the softmax that the entropy is taken of; the gradient's own has none.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        codebook_dim: int | None = None,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.05,
        temperature: float = 0.01,
    ) -> None:
        super().__init__()
        self.codebook_sizes = (codebook_size,)
        self.commitment_weight, self.entropy_weight, self.temperature = commitment_weight, entropy_weight, temperature
        width = codebook_dim or dim
        self.project_in = nn.Linear(dim, width) if codebook_dim else nn.Identity()
        self.project_out = nn.Linear(width, dim) if codebook_dim else nn.Identity()
        self.codebook = nn.Parameter(torch.randn(codebook_size, width))

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        z = self.project_in(z).float()
        with torch.autocast(z.device.type, enabled=False):
            codes = self.codebook.float()
            if not self.training:
                ids = best_code(z, codes)
                return Quantized(self.decode(ids[..., None]), ids[..., None], z.new_zeros(()))
            logits = z @ codes.mT
            ids, p = logits.argmax(dim=-1), logits.softmax(dim=-1)
            one_hot = F.one_hot(ids, len(codes)).to(p) + (p - p.detach())
            soft, hard = one_hot @ codes, F.embedding(ids, codes)
            loss = self._loss(z, soft, hard, logits, mask)
        return Quantized(self.project_out(soft), ids[..., None], loss)

    def decode(self, ids: Tensor) -> Tensor:
        return self.project_out(F.embedding(ids[..., 0], self.codebook))

    def _loss(self, z: Tensor, soft: Tensor, hard: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            z, soft, hard, logits = z[mask], soft[mask], hard[mask], logits[mask]
        loss = (
            F.mse_loss(soft, z) + F.mse_loss(hard.detach(), z) + self.commitment_weight * F.mse_loss(hard, z.detach())
        )
        entropy = entropy_loss(logits.reshape(-1, logits.shape[-1]) / self.temperature)
        return loss + self.entropy_weight * entropy
