"""Images of any size for codecs that work on whole cells of a grid, or on squares of one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.nn.quantizer import Quantized, Quantizer
from tokenizers_mm.tokens import Tokens, TokenSpec


def pad_to_grid(x: Tensor, hop: int) -> Tensor:
    """Images ``[B, C, H, W]`` with their last row and column repeated up to the next multiples of ``hop``."""
    height, width = x.shape[-2:]
    if height % hop == 0 and width % hop == 0:
        return x
    return F.pad(x, (0, -width % hop, 0, -height % hop), mode="replicate")


def image_spec(codebook_sizes: int | Sequence[int], hop: int, *, scalable: bool = False) -> TokenSpec:
    """The tokens of RGB images, one step per ``hop x hop`` pixels.

    Args:
        codebook_sizes: Of each column, or of the only one.
        hop: Pixels.
        scalable: Whether the first columns alone decode.
    """
    sizes = (codebook_sizes,) if isinstance(codebook_sizes, int) else tuple(codebook_sizes)
    return TokenSpec(
        modality="image",
        codebook_sizes=sizes,
        axes=("height", "width"),
        hop=(hop, hop),
        channels=3,
        scalable="columns" if scalable else "none",
    )


def grid_spec(quantizer: Quantizer, hop: int) -> TokenSpec:
    """The tokens of RGB images, one step of the quantizer's columns per ``hop x hop`` pixels."""
    return image_spec(quantizer.codebook_sizes, hop, scalable=quantizer.scalable)


def quantize_map(quantizer: Quantizer, z: Tensor) -> Quantized:
    """Features ``[B, D, h, w]`` quantized position by position, row-major: features ``[B, h * w, D]``, ids ``[B, h * w, Q]``."""
    return quantizer(rearrange(z, "b d h w -> b (h w) d"))


def grid_tokens(quantizer: Quantizer, z: Tensor, spec: TokenSpec) -> Tokens:
    """Tokens of features ``[B, D, h, w]``, the columns that the spec has."""
    ids = quantize_map(quantizer, z).ids[..., : spec.num_codebooks]
    return Tokens(ids, spec, shapes=torch.tensor(z.shape[-2:]).expand(len(z), -1))


def to_map(features: Tensor, rows: int) -> Tensor:
    """Row-major features ``[B, rows * w, D]`` as ``[B, D, rows, w]``."""
    return rearrange(features, "b (h w) d -> b d h w", h=rows)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Images at another size, unchanged where they have it."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bicubic", antialias=True)


def original_sizes(images: Tensor, tokens: Tokens) -> Tensor:
    """Decoded squares ``[B, 3, H, W]`` at the sizes that ``tokens`` remember, zero-padded to the largest; in [0, 1]."""
    sizes = tokens.side.get("size")
    if sizes is None:
        return images
    height, width = sizes.amax(dim=0).tolist()
    canvas = images.new_zeros(len(images), 3, height, width)
    for place, image, size in zip(canvas, images, sizes.tolist(), strict=True):
        place[:, : size[0], : size[1]] = resized(image[None], size)[0].clamp(0, 1)
    return canvas
