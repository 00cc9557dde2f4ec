"""Quantizers without a codebook whose codes are the signs of a few dimensions: LFQ and BSQ.

Yu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation" (MAGVIT-v2), 2023; Zhao et al., "Image and
Video Tokenization with Binary Spherical Quantization", 2024. Indices are integer arithmetic throughout, exact up to 62 bits
in any type of features; the entropy of a step, over however many codes, is the exact sum over its bits, which are
independent.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.quantizer import Quantized, Quantizer

_MOST_BITS = 62


class LookupFreeQuantizer(Quantizer):
    """The signs of ``log2(codebook_size)`` dimensions, with an entropy loss for even use.

    Args:
        dim: Features in and out.
        codebook_size: Codes of one column, a power of two up to 2**62.
        num_codebooks: Columns, each with bits of its own: 36 bits are one column of 2**36 or two of 2**18.
        bit_order: Whether the first dimension of a column is its ids' most significant bit (vector-quantize-pytorch,
            BSQ-ViT) or the least (Open-MAGVIT2).
        spherical: Binary spherical quantization: features and codes are of unit length.
        commitment_weight: Of the pull of features towards their codes.
        entropy_weight: Of both entropies together.
        diversity: Of the entropy of codes over the batch, which should be high, against that of a single step.
        temperature: Of the distribution over codes that the entropies are of.
        joint_bits: Bits whose even use is measured jointly; the entropies of such groups, as equal as can be, are added.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        num_codebooks: int = 1,
        bit_order: Literal["msb", "lsb"] = "msb",
        spherical: bool = False,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 0.01,
        joint_bits: int = 9,
    ) -> None:
        super().__init__()
        if not 2 <= codebook_size <= 2**_MOST_BITS or codebook_size & (codebook_size - 1):
            raise ValueError(
                f"codebook_size must be a power of two up to 2**{_MOST_BITS} for lookup-free quantization, got {codebook_size}"
            )
        if bit_order not in ("msb", "lsb"):
            raise ValueError(f"bit_order must be 'msb' or 'lsb', got {bit_order!r}")
        self.codebook_sizes = (codebook_size,) * num_codebooks
        self.column_bits, self.bit_order = codebook_size.bit_length() - 1, bit_order
        bits = self.column_bits * num_codebooks
        self.spherical, self.scale = spherical, 1 / math.sqrt(bits) if spherical else 1.0
        self.commitment_weight, self.entropy_weight = commitment_weight, entropy_weight
        self.diversity, self.temperature = diversity, temperature
        self.groups = math.ceil(bits / joint_bits)
        self.project_in = nn.Linear(dim, bits) if dim != bits else nn.Identity()
        self.project_out = nn.Linear(bits, dim) if dim != bits else nn.Identity()

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        z = self.project_in(z)
        dtype, z = z.dtype, z.float()
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z, dim=-1) if self.spherical else z
            positive = z > 0
            codes = self._codes(positive)
            loss = self._loss(z, codes, mask) if self.training else z.new_zeros(())
        through = z + (codes - z).detach() if self.training else codes
        return Quantized(self.project_out(through.to(dtype)), self._ids(positive), loss)

    def decode(self, ids: Tensor) -> Tensor:
        bits = (ids[..., None] >> self._shifts(ids.device)) & 1
        dtype = next((p.dtype for p in self.project_out.parameters()), torch.float32)
        return self.project_out(self._codes(bits.flatten(-2).bool()).to(dtype))

    def _codes(self, positive: Tensor) -> Tensor:
        return torch.where(positive, self.scale, -self.scale)

    def _ids(self, positive: Tensor) -> Tensor:
        bits = positive.unflatten(-1, (len(self.codebook_sizes), self.column_bits)).long()
        return (bits << self._shifts(bits.device)).sum(dim=-1)

    def _shifts(self, device: torch.device) -> Tensor:
        shifts = torch.arange(self.column_bits, device=device)
        return shifts if self.bit_order == "lsb" else shifts.flip(0)

    def _loss(self, z: Tensor, codes: Tensor, mask: Tensor | None) -> Tensor:
        z, codes = (z.flatten(0, -2), codes.flatten(0, -2)) if mask is None else (z[mask], codes[mask])
        loss = self.commitment_weight * F.mse_loss(z, codes)
        if not self.entropy_weight:
            return loss
        # A softmax over all codes of 2 z.c / temperature makes each bit an independent draw with these log-odds.
        log_odds = 4 * self.scale / self.temperature * z
        p = log_odds.sigmoid()
        step = F.binary_cross_entropy_with_logits(log_odds, p, reduction="none").sum(dim=-1).mean()
        book = torch.stack([_joint_entropy(group) for group in p.chunk(self.groups, dim=-1)]).sum()
        return loss + self.entropy_weight * (step - self.diversity * book)


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """:class:`LookupFreeQuantizer` on the unit sphere, with the weights that BSQ-ViT published: even use of single bits."""

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        num_codebooks: int = 1,
        bit_order: Literal["msb", "lsb"] = "msb",
        commitment_weight: float = 0.0,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 1.0,
        joint_bits: int = 1,
    ) -> None:
        super().__init__(
            dim,
            codebook_size,
            num_codebooks=num_codebooks,
            bit_order=bit_order,
            spherical=True,
            commitment_weight=commitment_weight,
            entropy_weight=entropy_weight,
            diversity=diversity,
            temperature=temperature,
            joint_bits=joint_bits,
        )


def _joint_entropy(p: Tensor) -> Tensor:
    """Entropy in nats of the mean, over ``N``, of the distributions of ``g`` independent bits with chances ``p`` ``[N, g]``."""
    joint = p.new_ones(len(p), 1)
    for chance in p.split(1, dim=-1):
        joint = torch.cat([joint * (1 - chance), joint * chance], dim=-1)  # [N, 2^g] in the end
    mean = joint.mean(dim=0)
    return -torch.special.xlogy(mean, mean.clamp(min=torch.finfo(mean.dtype).tiny)).sum()
