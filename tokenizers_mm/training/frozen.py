"""A tokenizer in front of a network that is trained: it learns nothing, drops nothing and updates no codebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from tokenizers_mm.codec import Codec


class FrozenTokenizer(nn.Module):
    """Ids of signals by a codec that stays as it is, also where the module around it goes into training mode.

    Args:
        codec: The codec, or where to load it from: a folder, a card's name, or ``hf:owner/name``.

    Raises:
        ValueError: If its tokens are not a grid of channels and time with one codebook.
    """

    def __init__(self, codec: str | Codec) -> None:
        super().__init__()
        if isinstance(codec, str):
            from tokenizers_mm import registry

            codec = registry.load(codec)
        if len(codec.spec.axes) != 2 or codec.spec.num_codebooks != 1:
            raise ValueError(f"tokenizer must give one codebook on a grid of two axes, got {codec.spec}")
        self.codec = codec.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Ids ``[B, C, T]`` of signals ``[B, C, N]`` of equal lengths."""
        tokens = self.codec.encode(x)
        return tokens.ids[..., 0].unflatten(1, tokens.shape)

    def ids(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Ids of a batch ``{"signal": [B, C, N]}``, or of one that was tokenized before, ``{"ids": [B, C, T]}``."""
        return batch["ids"] if "ids" in batch else self(batch["signal"])

    def train(self, mode: bool = True) -> Self:
        return super().train(False)
