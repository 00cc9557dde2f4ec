"""Quantizers by name: thin classes over ``vector_quantize_pytorch``, and what it lacks, with one interface and return type.

Vector quantization learns its codebook by exponential moving averages (van den Oord et al., "Neural Discrete Representation
Learning", 2017), starts from k-means and revives dead codes (Zeghidour et al., "SoundStream", 2021). Finite scalar
quantization: Mentzer et al., 2023. SimVQ: Zhu et al., 2024. Those that learn a codebook by gradients are in
:mod:`tokenizers_mm.nn.quantizer`, those of signs in :mod:`tokenizers_mm.nn.lookup_free`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from loguru import logger
from torch import Tensor, nn
from torch import distributed as dist
from vector_quantize_pytorch import FSQ, SimVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import (
    Codebook,
    batched_sample_vectors,
    noop,
    sample_vectors_distributed,
)

from tokenizers_mm.nn.lookup_free import BinarySphericalQuantizer, LookupFreeQuantizer
from tokenizers_mm.nn.quantizer import (
    GradientVectorQuantizer,
    IndexBackpropQuantizer,
    Quantized,
    Quantizer,
    nearest_code,
)

__all__ = ["KINDS", "Quantized", "Quantizer", "build_quantizer", "synchronize", "usage"]

# It warns when k-means starts with fewer vectors than codes; the revival of dead codes makes up for that.
logger.disable("vector_quantize_pytorch")


class VectorQuantizer(Quantizer):
    """Nearest neighbour in a learned codebook, repeated on the residual for ``num_codebooks > 1`` (RVQ).

    Args:
        dim: Features in and out.
        codebook_size: Entries of each codebook.
        num_codebooks: Residual stages.
        codebook_dim: Width in which codes live; None for ``dim``, without projections.
        decay: Of the moving averages of counts and sums.
        kmeans_iters: k-means rounds over the first training batch; distances are one ``[frames, entries]`` product.
        revive_below: A code used less than this share of uniform use is replaced by a vector of the batch, with the
            statistics of an average code, so that the next update keeps it.
        quantizer_dropout: Chance that a training item uses only a random number of its first stages.
        cosine: Compare directions instead of positions.
        rotation_trick: Carry gradients through by rotation (Fifty et al., 2024) instead of straight through.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        num_codebooks: int = 1,
        codebook_dim: int | None = None,
        decay: float = 0.99,
        kmeans_iters: int = 50,
        revive_below: float = 0.1,
        quantizer_dropout: float = 0.0,
        cosine: bool = False,
        rotation_trick: bool = False,
    ) -> None:
        super().__init__()
        self.codebook_sizes = (codebook_size,) * num_codebooks
        self.scalable = num_codebooks > 1
        self.revive_below, self.quantizer_dropout = revive_below, quantizer_dropout
        width = codebook_dim or dim
        self.project_in = nn.Linear(dim, width) if codebook_dim else nn.Identity()
        self.project_out = nn.Linear(width, dim) if codebook_dim else nn.Identity()
        self.stages = nn.ModuleList(
            VectorQuantize(
                width,
                codebook_size,
                decay=decay,
                kmeans_init=kmeans_iters > 0,
                kmeans_iters=kmeans_iters,
                threshold_ema_dead_code=revive_below,
                use_cosine_sim=cosine,
                rotation_trick=rotation_trick,
            )
            for _ in range(num_codebooks)
        )
        for stage in self.stages:  # until k-means replaces it; zeros would make every untrained token 0
            nn.init.normal_(cast(VectorQuantize, stage)._codebook.embed)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        residual = self.project_in(z).float()
        total, ids, losses = torch.zeros_like(residual), [], []
        kept = self._stages_kept(z)
        for index, stage in enumerate(self.stages):
            quantized, stage_ids, loss = (self._learn if self.training else self._look_up)(stage, residual, mask)
            residual = residual - quantized.detach()
            total = total + quantized * (index < kept)[:, None, None]
            ids.append(stage_ids)
            losses.append(loss)
        return Quantized(self.project_out(total), torch.stack(ids, dim=-1), torch.stack(losses).mean())

    def decode(self, ids: Tensor) -> Tensor:
        stages = [cast(VectorQuantize, stage) for stage in self.stages]
        codes = [stage.get_codes_from_indices(column) for stage, column in zip(stages, ids.unbind(-1), strict=False)]
        return self.project_out(sum(codes[1:], codes[0]))

    def _stages_kept(self, z: Tensor) -> Tensor:
        """How many stages each item uses, ``[B]``: all, except where dropout drew fewer."""
        total = len(self.stages)
        kept = torch.full((len(z),), total, device=z.device)
        if not self.training or not self.quantizer_dropout:
            return kept
        drawn = torch.randint(1, total + 1, (len(z),), device=z.device)
        return torch.where(torch.rand(len(z), device=z.device) < self.quantizer_dropout, drawn, kept)

    def _learn(self, stage: nn.Module, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize and update the codebook; what counts as dead is relative to uniform use, which depends on the batch."""
        codebook = cast(VectorQuantize, stage)._codebook
        if self.revive_below:
            uniform = float(codebook.cluster_size.mean())
            codebook.threshold_ema_dead_code = self.revive_below * uniform
            codebook.reset_cluster_size = uniform
        quantized, ids, loss = stage(z, mask=mask)
        return quantized, ids.clamp(min=0), loss  # the library marks masked steps with -1

    def _look_up(self, stage: nn.Module, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest codes. Not the library's forward, which would run k-means on an untrained codebook even here."""
        vq = cast(VectorQuantize, stage)
        codes = vq.codebook
        ids = nearest_code(z, codes)  # also where directions are compared: codes are of unit length there
        return vq.get_codes_from_indices(ids), ids, z.new_zeros(())


class FiniteScalarQuantizer(Quantizer):
    """Rounds each of a few bounded dimensions to one of ``levels``; no codebook, no loss."""

    def __init__(self, dim: int, *, levels: tuple[int, ...] = (8, 5, 5, 5)) -> None:
        super().__init__()
        if math.prod(levels) > 2**24:  # the library computes indices in float32
            raise ValueError(f"levels must multiply to at most 2**24 codes, got {list(levels)}")
        self.codebook_sizes = (math.prod(levels),)
        with torch.device("cpu"):  # it reads its own buffers, which a meta device would not have
            self.fsq = FSQ(list(levels), dim=dim)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        features, ids = self.fsq(z)  # which rounds in float32
        return Quantized(features, ids[..., None].long(), z.new_zeros(()))

    def decode(self, ids: Tensor) -> Tensor:
        return self.fsq.indices_to_codes(ids[..., 0].int())


class SimVectorQuantizer(Quantizer):
    """A frozen random codebook seen through one learned linear map, so that no code dies alone."""

    def __init__(self, dim: int, codebook_size: int, *, rotation_trick: bool = True) -> None:
        super().__init__()
        self.codebook_sizes = (codebook_size,)
        self.simvq = SimVQ(dim, codebook_size, rotation_trick=rotation_trick)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        features, ids, loss = self.simvq(z.float())
        if not self.training:  # the library rotates here too, which is not what ids decode to
            return Quantized(self.decode(ids[..., None]), ids[..., None], z.new_zeros(()))
        return Quantized(features, ids[..., None], loss)

    def decode(self, ids: Tensor) -> Tensor:
        return self.simvq.indices_to_codes(ids[..., 0])


Kind = Literal["vq", "rvq", "fsq", "lfq", "bsq", "simvq", "gradient_vq", "ibq"]
KINDS: dict[str, type[Quantizer]] = {
    "vq": VectorQuantizer,
    "rvq": VectorQuantizer,
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "bsq": BinarySphericalQuantizer,
    "simvq": SimVectorQuantizer,
    "gradient_vq": GradientVectorQuantizer,
    "ibq": IndexBackpropQuantizer,
}


def build_quantizer(dim: int, kind: Kind = "vq", **options: Any) -> Quantizer:
    """The quantizer that a config mapping names: ``{"kind": "vq", "codebook_size": 4096, ...}``.

    Raises:
        ValueError: For an unknown kind, or options that it does not take.
    """
    if kind not in KINDS:
        raise ValueError(f"quantizer kind must be one of {sorted(KINDS)}, got {kind!r}")
    if kind == "vq" and options.get("num_codebooks", 1) != 1:
        raise ValueError(
            f"quantizer kind 'vq' has one codebook, got num_codebooks={options['num_codebooks']}; use 'rvq'"
        )
    try:
        return KINDS[kind](dim, **options)  # type: ignore[call-arg]
    except TypeError as error:
        raise ValueError(f"quantizer {kind!r} cannot be built with {options}: {error}") from None


def synchronize(module: nn.Module, enabled: bool) -> None:
    """Sum codebook statistics over all ranks of a process group (or stop doing so), for every codebook inside ``module``.

    ``vector_quantize_pytorch`` decides this when a codebook is built, which is before a trainer starts its processes.
    """
    for codebook in module.modules():
        if isinstance(codebook, Codebook):
            codebook.use_ddp = enabled
            codebook.sample_fn = codebook.replace_sample_fn = (
                sample_vectors_distributed if enabled else batched_sample_vectors
            )
            codebook.all_reduce_fn = codebook.kmeans_all_reduce_fn = dist.all_reduce if enabled else noop


@torch.no_grad()
def usage(ids: Tensor, codebook_sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Perplexity and share of codes in use of a batch of ids ``[B, T, Q]``, averaged over columns."""
    perplexity, used = [], []
    for column, size in zip(ids.unbind(-1), codebook_sizes, strict=False):
        _, counts = column.unique(return_counts=True)
        p = counts / counts.sum()
        perplexity.append((-(p * p.log()).sum()).exp())
        used.append(torch.tensor(len(counts) / size, device=ids.device))
    return {"perplexity": torch.stack(perplexity).mean(), "codes_used": torch.stack(used).mean()}
