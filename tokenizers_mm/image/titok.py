"""TiTok: an image to a few dozen tokens that have no place in it, by vision transformers on both sides.

Yu et al., "An Image is Worth 32 Tokens for Reconstruction and Generation", 2024. The network sees squares of one size: images of
others are scaled to it and back. Published weights of the first kind decode to soft codes of MaskGIT's VQGAN and mix features of
different tokens on their way to the quantizer; both are kept where they are loaded, neither is the default for training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.image.grid import original_sizes, resized
from tokenizers_mm.image.maskgit_vq import maskgit_decoder
from tokenizers_mm.nn.onednn import Linear
from tokenizers_mm.nn.vit import ViTBlock
from tokenizers_mm.quantizers import build_quantizer, usage
from tokenizers_mm.tokens import Tokens, TokenSpec

SMALL = {"dim": 512, "layers": 8, "heads": 8}
UNIT_CODES = {"kind": "gradient_vq", "codebook_size": 4096, "normalise": True}
MASKGIT = {
    "codebook_size": 1024,
    "dim": 256,
    "channels": 128,
    "multipliers": (1, 1, 2, 2, 4),
    "blocks": 2,
    "groups": 32,
}


class TiTok(Codec):
    """RGB images to a fixed number of tokens and back; by default the published S-128, 128 tokens of 12 bits.

    Args:
        tokens: How many tokens an image has.
        image_size: Side of the squares that the network sees.
        patch_size: Side of the squares that one position of the transformers stands for.
        encoder: Width ``dim``, ``layers`` and attention ``heads`` of the encoder's transformer.
        decoder: The same of the decoder's.
        code_dim: Width of the codes.
        quantizer: Mapping for :func:`~tokenizers_mm.quantizers.build_quantizer`.
        head: ``"maskgit"``: each position gives a mixture of codes of MaskGIT's VQGAN, whose decoder makes the pixels;
            ``"pixels"``: each position gives its pixels.
        mix_tokens: Read the tokens' features in the order of the first published weights, in which each code has parts of
            several tokens.
        maskgit: Arguments of the ``"maskgit"`` head's codebook and decoder in place of the published ones.

    Shape:
        ``x [B, 3, H, W]`` in [0, 1]; other sizes are scaled to the codec's square and back. Tokens ``[B, tokens, 1]``.

    Raises:
        ValueError: If patches don't tile the square, or the head is unknown.

    Source:
        https://github.com/bytedance/1d-tokenizer
    """

    signal_ndim = 4
    size_dims = 2
    signal_range = (0.0, 1.0)

    def __init__(
        self,
        tokens: int = 128,
        image_size: int = 256,
        patch_size: int = 16,
        encoder: Mapping[str, int] | None = None,
        decoder: Mapping[str, int] | None = None,
        code_dim: int = 12,
        quantizer: Mapping[str, Any] | None = None,
        head: Literal["maskgit", "pixels"] = "maskgit",
        mix_tokens: bool = True,
        maskgit: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size must divide image_size={image_size}, got {patch_size}")
        if head not in ("maskgit", "pixels"):
            raise ValueError(f"head must be 'maskgit' or 'pixels', got {head!r}")
        self.image_size = image_size
        side = image_size // patch_size
        self.encoder = TiTokEncoder(tokens, side, patch_size, code_dim, mix_tokens=mix_tokens, **(encoder or SMALL))
        self.quantizer = build_quantizer(code_dim, **(quantizer or UNIT_CODES))
        self.decoder = TiTokDecoder(tokens, side, code_dim, **(decoder or SMALL))
        width = (decoder or SMALL)["dim"]
        self.head: nn.Module = (
            PixelHead(width, patch_size) if head == "pixels" else MaskGITHead(width, **{**MASKGIT, **(maskgit or {})})
        )
        self.spec = TokenSpec(
            modality="image",
            codebook_sizes=self.quantizer.codebook_sizes,
            axes=("rank",),
            channels=3,
            scales=(tokens,),  # one scale: as many steps whatever the image's size
        )

    @property
    def last_layer(self) -> Tensor:
        """The weight that an adaptive adversarial weight compares gradients at."""
        return self.head.last_layer  # type: ignore[return-value]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        """Reconstruction with gradients, not clamped to [0, 1]; the images of a training batch have one size."""
        quantized = self.quantizer(self._features(x))
        image = resized(self.head(self.decoder(quantized.features)), x.shape[-2:])
        return CodecOutput(image, quantized.ids, quantized.loss, usage(quantized.ids, self.spec.codebook_sizes))

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return Tokens(self.quantizer(self._features(x)).ids, self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return original_sizes(self.head(self.decoder(self.quantizer.decode(tokens.ids))).clamp(0, 1), tokens)

    def _features(self, x: Tensor) -> Tensor:
        """What is quantized, ``[B, tokens, code_dim]``."""
        return self.encoder(resized(x, (self.image_size, self.image_size)))


class TiTokEncoder(nn.Module):
    """Images ``[B, 3, side * patch, side * patch]`` to features ``[B, K, D]``: learned tokens attend to patches and each other.

    Args:
        tokens: K.
        side: Patches along each side.
        patch_size: Pixels along a patch's side.
        code_dim: D.
        dim, layers, heads: Of the transformer.
        mix_tokens: See :class:`TiTok`.
    """

    def __init__(
        self,
        tokens: int,
        side: int,
        patch_size: int,
        code_dim: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        mix_tokens: bool,
    ) -> None:
        super().__init__()
        self.mix_tokens = mix_tokens
        self.patches = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.class_token = _learned(1, dim)
        self.positions = _learned(side**2 + 1, dim)
        self.latents = _learned(tokens, dim)
        self.latent_positions = _learned(tokens, dim)
        self.norm_in = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*(ViTBlock(dim, heads) for _ in range(layers)))
        self.norm_out = nn.LayerNorm(dim)
        self.out = Linear(dim, code_dim)

    def forward(self, x: Tensor) -> Tensor:
        patches = rearrange(self.patches(x), "b d h w -> b (h w) d")
        seen = torch.cat([self.class_token.expand(len(x), 1, -1), patches], dim=1) + self.positions
        latents = (self.latents + self.latent_positions).expand(len(x), -1, -1)
        states = self.blocks(self.norm_in(torch.cat([seen, latents], dim=1)))
        latents = self.norm_out(states[:, len(self.positions) :])
        if self.mix_tokens:  # [B, K, W] read as [B, W, K]
            latents = latents.reshape(len(x), latents.shape[2], latents.shape[1]).mT
        return self.out(latents)


class TiTokDecoder(nn.Module):
    """Codes ``[B, K, D]`` to features of patches ``[B, W, side, side]``: learned placeholders attend to codes and each other.

    Args:
        tokens: K.
        side: Patches along each side.
        code_dim: D.
        dim, layers, heads: Of the transformer; ``dim`` is W.
    """

    def __init__(self, tokens: int, side: int, code_dim: int, *, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.side = side
        self.embed = Linear(code_dim, dim)
        self.class_token = _learned(1, dim)
        self.mask_token = _learned(1, dim)
        self.positions = _learned(side**2 + 1, dim)
        self.latent_positions = _learned(tokens, dim)
        self.norm_in = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*(ViTBlock(dim, heads) for _ in range(layers)))
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, codes: Tensor) -> Tensor:
        places = torch.cat([self.class_token, self.mask_token.expand(self.side**2, -1)]) + self.positions
        latents = self.embed(codes) + self.latent_positions
        states = self.blocks(self.norm_in(torch.cat([places.expand(len(codes), -1, -1), latents], dim=1)))
        return rearrange(self.norm_out(states[:, 1 : len(places)]), "b (h w) d -> b d h w", h=self.side)


class MaskGITHead(nn.Module):
    """Features to pixels through a mixture of MaskGIT's codes at each position: ``[B, W, h, w] -> [B, 3, h * hop, w * hop]``."""

    def __init__(self, width: int, codebook_size: int, dim: int, **decoder: Any) -> None:
        super().__init__()
        self.logits = nn.Sequential(Linear(width, 2 * width), nn.Tanh(), Linear(2 * width, codebook_size))
        self.codebook = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size))
        self.decoder = maskgit_decoder(dim, **decoder)

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    def forward(self, x: Tensor) -> Tensor:
        chances = self.logits(rearrange(x, "b d h w -> b h w d")).softmax(dim=-1)
        return self.decoder(rearrange(chances @ self.codebook, "b h w d -> b d h w"))


class PixelHead(nn.Module):
    """Features to each position's pixels, smoothed by a 3x3 convolution: ``[B, W, h, w] -> [B, 3, h * patch, w * patch]``."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.pixels = Linear(width, 3 * patch_size**2)
        self.smooth = nn.Conv2d(3, 3, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        return self.smooth.weight

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.pixels(rearrange(x, "b d h w -> b h w d"))
        return self.smooth(rearrange(pixels, "b h w (p q c) -> b c (h p) (w q)", p=self.patch_size, q=self.patch_size))


def _learned(count: int, dim: int) -> nn.Parameter:
    return nn.Parameter(dim**-0.5 * torch.randn(count, dim))
