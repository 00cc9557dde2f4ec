"""Emu3's vision tokenizer for still images, over ``transformers``' Emu3VQVAE.

Wang et al., "Emu3: Next-Token Prediction is All You Need", 2024. The network codes video, four frames to a token map; an image is
four frames alike, of which the first comes back. The network is the library's; images of any size are padded to the grid and
returned exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.image.grid import image_spec, pad_to_grid
from tokenizers_mm.pretrained import TransformersCodec, from_transformers
from tokenizers_mm.tokens import Tokens


class Emu3VQVAE(TransformersCodec):
    """RGB images to one grid of tokens and back; by default Emu3's, one of 32,768 codes per 8x8 pixels.

    Args:
        codebook_size: Entries of the codebook.
        channels: Width that ``multipliers`` multiply.
        multipliers: Width of each level, highest resolution first; each level but the last halves the resolution.
        mean: What is subtracted from pixels in [0, 1], alike in all channels.
        std: What they are divided by then.
        network: Other fields of ``Emu3VQVAEConfig`` in place of the published ones.

    Shape:
        ``x [B, 3, H, W]`` in [0, 1], any size; tokens ``[B, ceil(H / hop) * ceil(W / hop), 1]``, row-major.
    """

    signal_ndim = 4
    size_dims = 2
    signal_range = (0.0, 1.0)
    parts = ("model.vqmodel.", "vqmodel.")

    def __init__(
        self,
        codebook_size: int = 32768,
        channels: int = 256,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        mean: float = 0.5,
        std: float = 0.5,
        network: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        config = from_transformers("Emu3VQVAEConfig")(
            codebook_size=codebook_size,
            base_channels=channels,
            channel_multiplier=list(multipliers),
            hidden_size=channels * multipliers[-1],  # of the attention at the lowest resolution
            **{"attn_resolutions": [len(multipliers) - 1], **(network or {})},
        )
        self.model = from_transformers("Emu3VQVAE")(config)
        self.mean, self.std = mean, std
        self.hop = 2 ** (len(multipliers) - 1)
        self.spec = image_spec(codebook_size, self.hop)

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        x = pad_to_grid(x, self.hop)
        sizes = torch.tensor(x.shape[-2:]).expand(len(x), -1)
        ids = torch.stack(self.model.encode((x - self.mean) / self.std, sizes).image_tokens)
        return Tokens(ids.flatten(1)[..., None], self.spec, shapes=sizes.to(x.device) // self.hop)

    def _decode(self, tokens: Tokens) -> Tensor:
        ids = torch.stack([tokens.grid(item)[..., 0] for item in range(len(tokens))])
        return (self.model.decode(ids) * self.std + self.mean).clamp(0, 1)
