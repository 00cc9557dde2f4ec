"""TFM-Encoder: a small transformer over the tokens of all channels, pretrained on hidden tokens and finetuned to classify.

Pradeepkumar et al., "Tokenizing Single-Channel EEG with Time-Frequency Motif Learning", ICLR 2026. Ours says which channel or
step is one too many instead of failing in an index, and its rows of positions are computed where the published files store them.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizers_mm.codec import Codec
from tokenizers_mm.nn.linear_attention import LinearAttentionTransformer
from tokenizers_mm.stored import Stored


class TFMEncoder(Stored):
    """Tokens of a recording to class scores, or to scores of every token; by default the published 64x4 for six classes.

    Args:
        num_classes: Scores of a recording; of each token in pretraining (then the codebook's size).
        codebook_size: Tokens K; id K stands for a hidden one.
        channels: Most channels of a recording, each with an embedding of its own: their order must be the same everywhere.
        max_steps: Most tokens of a channel.
        dim: Width.
        layers: Of the transformer.
        heads: Of the transformer.
        dropout: Behind each attention, in training.
        embedding_dropout: Of the sum of embeddings, in training.
    """

    def __init__(
        self,
        num_classes: int = 6,
        codebook_size: int = 8192,
        channels: int = 16,
        max_steps: int = 1000,
        dim: int = 64,
        layers: int = 4,
        heads: int = 8,
        dropout: float = 0.2,
        embedding_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.codebook_size, self.max_steps = codebook_size, max_steps
        self.token_embedding = nn.Embedding(codebook_size + 1, dim)
        self.channel_embedding = nn.Embedding(channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dropout = nn.Dropout(embedding_dropout)
        self.transformer = LinearAttentionTransformer(dim, layers, heads, dropout=dropout)
        self.head = nn.Linear(dim, num_classes)
        self.register_buffer("positions", sinusoids(max_steps, dim), persistent=False)

    @property
    def mask_id(self) -> int:
        """The id that stands for a hidden token."""
        return self.codebook_size

    def forward(self, ids: Tensor) -> Tensor:
        """Class scores ``[B, num_classes]`` of ids ``[B, C, T]``.

        Raises:
            ValueError: If there are more channels or steps than embeddings, or an id is outside the vocabulary.
        """
        return self.head(self._hidden(ids)[:, 0])

    def token_logits(self, ids: Tensor) -> Tensor:
        """Scores ``[B, C, T, num_classes]`` of every token of ids ``[B, C, T]``, hidden ones among them; errors as in calls."""
        return self.head(self._hidden(ids)[:, 1:]).unflatten(1, ids.shape[1:])

    def start_from(self, codec: Codec) -> None:
        """Copy a tokenizer's codes into the token embeddings; the hidden token's row becomes zero.

        Raises:
            ValueError: If the tokenizer's single codebook has another size or width.
        """
        ids = torch.arange(self.codebook_size, device=codec.device)[None, :, None]
        quantizer = getattr(codec, "quantizer", None)
        if codec.spec.codebook_sizes != (self.codebook_size,) or not isinstance(quantizer, nn.Module):
            raise ValueError(f"codec must have one codebook of {self.codebook_size}, got {codec.spec.codebook_sizes}")
        with torch.no_grad():
            codes = quantizer.get_submodule("").decode(ids)[0]  # type: ignore[operator]
            if codes.shape[1] != self.token_embedding.embedding_dim:
                raise ValueError(f"codes must be {self.token_embedding.embedding_dim} wide, got {codes.shape[1]}")
            self.token_embedding.weight.copy_(torch.cat([codes, torch.zeros_like(codes[:1])]))

    def _hidden(self, ids: Tensor) -> Tensor:
        """Features ``[B, 1 + C * T, dim]``, the recording's own first."""
        channels, steps = self._check(ids)
        x = self.token_embedding(ids) + self.channel_embedding.weight[:channels, None]
        x = self.dropout(x + self.get_buffer("positions")[:steps])
        x = rearrange(x, "b c t d -> b (c t) d")
        return self.transformer(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1))

    def _check(self, ids: Tensor) -> tuple[int, int]:
        if ids.ndim != 3 or ids.is_floating_point():
            raise ValueError(f"ids must be integers [B, C, T], got {ids.dtype} {list(ids.shape)}")
        channels, steps = ids.shape[1:]
        if channels > self.channel_embedding.num_embeddings:
            raise ValueError(f"ids must have at most {self.channel_embedding.num_embeddings} channels, got {channels}")
        if steps > self.max_steps:
            raise ValueError(f"ids must have at most {self.max_steps} steps, got {steps}")
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > self.mask_id):
            raise ValueError(f"ids must be 0 to {self.mask_id}, got {int(ids.min())} to {int(ids.max())}")
        return channels, steps


def sinusoids(steps: int, dim: int) -> Tensor:
    """Positions as sines and cosines in turn, wavelengths from 2 pi to 10000 times that: ``[steps, dim]``."""
    frequencies = (torch.arange(0, dim, 2) * (-math.log(10000.0) / dim)).exp()
    angles = torch.arange(steps)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
