"""A hypernetwork that gives a language model the embeddings of tokens its vocabulary lacks, from those of their parts.

Minixhofer, Ponti and Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024; used for each batch's own tokens by Feher, Vulić and
Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025. Theirs tells padding by its id, which some
tokenizers give to a real token; here a mask says what is real. Optional, and not theirs: predictions that start at the mean of
the parts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.checks import at_least
from tokenizers_mm.stored import Stored

_SOURCE_STD = 0.02  # of what goes in, in every dimension
_SAMPLE = 2048  # base tokens that set the scale of what comes out


class Predicted(NamedTuple):
    """What a hypernetwork says of tokens.

    Args:
        inputs: Input embeddings ``[T, D]``.
        outputs: Rows of the output layer ``[T, D]``; the same tensor where the model ties them.
        bias: Of the output layer ``[T]``, for models that have one.
    """

    inputs: Tensor
    outputs: Tensor
    bias: Tensor


class Rescaler(nn.Module):
    """A scale and an offset for each dimension, set from data and not trained."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(1, dim))
        self.register_buffer("b", torch.zeros(1, dim))

    w: Tensor
    b: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x + self.b

    def match(self, x: Tensor, mean: Tensor | float, std: Tensor | float) -> None:
        """Give samples ``x [n, D]`` this mean and standard deviation."""
        self.w.copy_(std / x.std(dim=0).clamp(min=1e-12))
        self.b.copy_(mean - x.mean(dim=0) * self.w)


class ProjectorBlock(nn.Module):
    """Two layers with a skip, normalised after it: ``[..., D] -> [..., D]``."""

    def __init__(self, dim: int, intermediate: int) -> None:
        super().__init__()
        self.dense1, self.dense2 = nn.Linear(dim, intermediate), nn.Linear(intermediate, dim)
        self.ln = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.dense2(F.gelu(self.dense1(x), approximate="tanh")), approximate="tanh")
        return self.ln(y + x)


class Hypernetwork(Stored):
    """A transformer over the embeddings of a token's parts; its first state becomes the token's embeddings.

    Args:
        dim: D, width of the language model's embeddings.
        vocabulary_size: V, base tokens; parts from there on are bytes that the model lacks.
        hidden: Width of the hypernetwork.
        intermediate: Width inside its feed-forward layers.
        layers: Of the encoder, normalised after each skip.
        heads: Of attention.
        surface_length: L, parts of a token that are read.
        extra_tokens: Bytes that the model lacks; each has an embedding here.
        tied: Whether the model's output layer is its input embedding.
        languages: Languages with an embedding of their own, one more position; 0 for none.
        positions: Rows of the position table, of which the first L are read.
        from_mean: Add the mean of the parts to what is predicted, at first nothing.

    Raises:
        ValueError: If a number is out of range, or ``heads`` does not divide ``hidden``.
    """

    def __init__(
        self,
        dim: int = 4096,
        vocabulary_size: int = 32000,
        hidden: int = 4096,
        intermediate: int = 8192,
        layers: int = 3,
        heads: int = 32,
        surface_length: int = 7,
        extra_tokens: int = 5,
        tied: bool = False,
        languages: int = 0,
        positions: int = 514,
        from_mean: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, dim=dim, vocabulary_size=vocabulary_size, heads=heads, surface_length=surface_length)
        at_least(0, extra_tokens=extra_tokens, languages=languages)
        if hidden % heads or positions < surface_length:
            raise ValueError(
                "heads must divide hidden and positions hold surface_length, "
                f"got {heads}, {hidden}, {positions}, {surface_length}"
            )
        width = dim if tied else 2 * dim
        self.dim, self.vocabulary_size, self.surface_length = dim, vocabulary_size, surface_length
        self.tied, self.languages, self.from_mean = tied, languages, from_mean
        self.fallback_embeddings = nn.Embedding(max(extra_tokens, 1), width)
        self.in_scaler, self.scaler = Rescaler(width), Rescaler(dim)
        self.input_projection = nn.Sequential(nn.Linear(width, hidden), ProjectorBlock(hidden, intermediate))
        self.position_embeddings = nn.Embedding(positions, hidden)
        self.lang_embeddings = nn.Embedding(languages, hidden) if languages else None
        self.norm = nn.LayerNorm(hidden, eps=1e-5)
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, heads, intermediate, dropout=0.0, activation="gelu", batch_first=True)
            for _ in range(layers)
        )
        self.output_projection = nn.Sequential(ProjectorBlock(hidden, intermediate), nn.Linear(hidden, dim))
        if not tied:
            self.output_projection_out = nn.Sequential(ProjectorBlock(hidden, intermediate), nn.Linear(hidden, dim))
            self.out_scaler = Rescaler(dim)
        self.bias_projection = nn.Linear(hidden, 1)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.MultiheadAttention):
                nn.init.normal_(module.in_proj_weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor, source: Tensor, language: Tensor | None = None) -> Predicted:
        """Embeddings of tokens.

        Args:
            ids: Parts of each token, int64 ``[T, L]``.
            mask: Which are real, bool ``[T, L]``; the first always.
            source: The model's embeddings ``[V, D]``, or ``[V, 2 D]`` with those of the output layer after them; further rows
                are left alone.
            language: Of each token, int64 ``[T]``; with ``languages`` alone.

        Raises:
            ValueError: If a language is missing, or there is one too many.
        """
        if (language is None) == bool(self.languages):
            raise ValueError(f"language must be given with languages and without not, got {self.languages} languages")
        parts = source[ids.clamp(max=self.vocabulary_size - 1)]  # [T, L, width]
        extra = self.fallback_embeddings((ids - self.vocabulary_size).clamp(min=0))
        lacking = (ids >= self.vocabulary_size)[..., None]
        z = self.encode(torch.where(lacking, extra, self.in_scaler(parts)), mask, language)
        inputs = self.scaler(self.output_projection(z))
        outputs = inputs if self.tied else self.out_scaler(self.output_projection_out(z))
        if self.from_mean:
            real = (mask[..., None] & ~lacking).to(parts.dtype)
            mean = (parts * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
            inputs = inputs + mean[:, : self.dim]
            outputs = inputs if self.tied else outputs + mean[:, self.dim :]
        return Predicted(inputs, outputs, self.bias_projection(z)[:, 0])

    def encode(self, x: Tensor, mask: Tensor, language: Tensor | None = None) -> Tensor:
        """First state ``[T, hidden]`` of parts ``x [T, L, width]``; other arguments as in :meth:`forward`."""
        x = self.input_projection(x) + self.position_embeddings.weight[: x.shape[1]]
        if language is not None and self.lang_embeddings is not None:
            x = torch.cat([x, self.lang_embeddings(language)[:, None]], dim=1)  # has no position
            mask = F.pad(mask, (0, 1), value=True)
        x = self.norm(x)
        for layer in self.encoder:
            x = layer(x, src_key_padding_mask=~mask)
        return x[:, 0]

    @torch.no_grad()
    def fit_scalers(self, source: Tensor, generator: torch.Generator | None = None) -> None:
        """Before training: give what goes in a fixed scale, and what comes out for base tokens that of their embeddings.

        Args:
            source: As in :meth:`forward`.
            generator: Of the tokens that are looked at, on the CPU.
        """
        source = source[: self.vocabulary_size].float()
        self.in_scaler.match(source, 0.0, _SOURCE_STD)
        ids = torch.randperm(len(source), generator=generator)[:_SAMPLE].to(source.device)
        z = self.encode(self.in_scaler(source[ids, None]), torch.ones_like(ids, dtype=torch.bool)[:, None], None)
        pairs = [(self.scaler, self.output_projection, source[:, : self.dim])]
        pairs += [] if self.tied else [(self.out_scaler, self.output_projection_out, source[:, self.dim :])]
        for scaler, projection, real in pairs:
            scaler.match(projection(z), real.mean(dim=0), real.std(dim=0))
            if self.from_mean:  # the mean is there already
                last = projection[-1]
                assert isinstance(last, nn.Linear)
                scaler.b.zero_()
                nn.init.zeros_(last.weight)
