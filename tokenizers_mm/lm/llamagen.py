"""LlamaGen's autoregressive models: a Llama over the codes of an image, after a class or a caption.

Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", 2024. Grids need not be square, and the
outputs of skips are initialised for their depth.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import Transformer
from tokenizers_mm.lm.cache import Cache
from tokenizers_mm.lm.processors import Generators, Sampling
from tokenizers_mm.lm.rope import CondRope
from tokenizers_mm.lm.sampling import generate
from tokenizers_mm.stored import Stored

SIZES = {
    "B": {"dim": 768, "layers": 12, "heads": 12},
    "L": {"dim": 1024, "layers": 24, "heads": 16},
    "XL": {"dim": 1280, "layers": 36, "heads": 20},
    "XXL": {"dim": 1536, "layers": 48, "heads": 24},
    "3B": {"dim": 3200, "layers": 24, "heads": 32},
}
"""The published models'."""


class LlamaGen(Stored):
    """Codes of an image one by one, row by row; the class-conditional B by default.

    Args:
        vocabulary_size: Codes, V.
        dim: Width D.
        layers: Blocks.
        heads: Of attention.
        kv_heads: Of keys and values; as many as ``heads`` by default.
        hidden: Of the gated layers; by default 8/3 of ``dim`` up to a multiple of 256.
        grid: Rows and columns of an image's codes.
        classes: Labels, if images are of classes; one more stands for none.
        caption_dim: Width of a text encoder's features, if images have captions instead.
        caption_steps: Features of a caption, padded on the left.
        dropout: Of embeddings and after each layer.
        condition_dropout: Share of conditions that are left out in training, for guidance.
        cond_rope: What the condition's steps are turned to: ``"zero"`` in the published weights (see
            :class:`~tokenizers_mm.lm.rope.Rope`).

    Raises:
        ValueError: If images have neither classes nor captions, or both.

    Shape:
        ids int64 ``[B, rows * columns]``; conditions are labels int64 ``[B]`` or features ``[B, caption_steps, caption_dim]``
        with ``valid [B, caption_steps]``.
    """

    null_caption: Tensor

    def __init__(
        self,
        vocabulary_size: int = 16384,
        dim: int = 768,
        layers: int = 12,
        heads: int = 12,
        kv_heads: int | None = None,
        hidden: int | None = None,
        grid: tuple[int, int] = (16, 16),
        classes: int | None = 1000,
        caption_dim: int | None = None,
        caption_steps: int = 120,
        dropout: float = 0.1,
        condition_dropout: float = 0.1,
        cond_rope: CondRope = "zero",
    ) -> None:
        super().__init__()
        if (classes is None) == (caption_dim is None):
            raise ValueError(f"either classes or caption_dim must be given, got {classes} and {caption_dim}")
        self.grid, self.classes, self.condition_dropout = (grid[0], grid[1]), classes, condition_dropout
        hidden = -(-(8 * dim // 3) // 256) * 256 if hidden is None else hidden
        self.transformer = Transformer(
            dim, layers, heads, kv_heads, hidden, dropout, attention_dropout=0.0, rope_layout="pairs", rope_axes=2,
            cond_rope=cond_rope,
        )  # fmt: skip
        self.embedding = nn.Embedding(vocabulary_size, dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, vocabulary_size, bias=False)
        if classes is not None:
            self.prefix = 1
            self.condition: nn.Module = nn.Embedding(classes + 1, dim)
        else:
            assert caption_dim is not None
            self.prefix = caption_steps
            self.condition = nn.Sequential(
                nn.Linear(caption_dim, dim, bias=False), nn.GELU("tanh"), nn.Linear(dim, dim, bias=False)
            )
            self.register_buffer("null_caption", torch.randn(caption_steps, caption_dim) / caption_dim**0.5)
        for layer in (self.embedding, *self.condition.modules()):
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.weight)  # the first loss is that of knowing nothing

    @property
    def positions(self) -> Tensor:
        """Rows and columns of the condition, which has none, and of the codes: ``[1, prefix + rows * columns, 2]``."""
        rows, columns = self.grid
        at = torch.arange(rows * columns, device=self.device)
        codes = torch.stack([at // columns, at % columns], dim=-1)
        return torch.cat([codes.new_full((self.prefix, 2), -1), codes])[None]

    def null(self, batch: int) -> Tensor:
        """Conditions that say nothing."""
        if self.classes is not None:
            return torch.full((batch,), self.classes, device=self.device)
        return self.null_caption.expand(batch, -1, -1)

    def forward(self, ids: Tensor, condition: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logits ``[B, T, V]`` of each code given the condition and those before it.

        Args:
            ids: ``[B, T]``, an image's first codes or all.
            condition: Labels or features.
            valid: Which features are real.

        Raises:
            ValueError: If there are more codes than the grid has.
        """
        if ids.shape[1] > self.grid[0] * self.grid[1]:
            raise ValueError(f"ids must be at most {self.grid[0]} x {self.grid[1]} for each image, got {ids.shape[1]}")
        if self.training:
            condition = self._forget(condition)
        x = self.dropout(torch.cat([self._prefix(condition), self.embedding(ids[:, :-1])], dim=1))
        if valid is not None:
            valid = torch.cat([valid, valid.new_ones(ids[:, 1:].shape)], dim=1)
        y = self.transformer(x, valid, None, self.positions[:, : x.shape[1]])
        return self.head(y[:, self.prefix - 1 :])

    def loss(
        self, ids: Tensor, condition: Tensor, valid: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy in nats of the codes ``[B, T]``, of images weighted by ``weights [B]``."""
        logits = self(ids, condition, valid).float()
        nll = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(ids).mean(dim=1)
        return nll.mean() if weights is None else (nll * weights).sum() / weights.sum().clamp(min=1e-8)

    def sample(
        self,
        condition: Tensor,
        sampling: Sampling = Sampling(guidance=2.0),
        *,
        valid: Tensor | None = None,
        generators: Generators = None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """New images' codes ``[B, rows * columns]``; arguments as in :func:`~tokenizers_mm.lm.sampling.generate`."""
        null = self.null(len(condition)) if sampling.guides else None
        found = generate(
            self, _steps(condition), self.grid[0] * self.grid[1], valid=valid, sampling=sampling, generators=generators,
            unconditional=None if null is None else _steps(null), unconditional_valid=None if null is None else valid,
            on_step=on_step,
        )  # fmt: skip
        return found.ids[..., 0]

    def prefill(self, ids: Tensor, valid: Tensor | None, capacity: int) -> tuple[Tensor, Cache]:
        """Conditions, labels as ``[B, 1, 1]``, to features ``[B, D]`` and a cache."""
        condition = ids if self.classes is None else ids[:, 0, 0]
        cache = self.transformer.cache(len(ids), capacity)
        x = self._prefix(condition)
        return self.transformer(x, valid, cache, self.positions[:, : self.prefix])[:, -1], cache

    def advance(self, ids: Tensor, cache: Cache) -> Tensor:
        """The next features ``[B, D]`` after codes ``[B, 1]``."""
        at = self.positions[0, cache.upcoming(1)]
        return self.transformer(self.embedding(ids), None, cache, at)[:, -1]

    def read(self, hidden: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Codes ``[B, 1]`` chosen after features ``[B, D]``."""
        return choose(0, self.head(hidden))[:, None]

    def _prefix(self, condition: Tensor) -> Tensor:
        """Embeddings ``[B, prefix, D]``."""
        return self.condition(condition[:, None] if self.classes is not None else condition)

    def _forget(self, condition: Tensor) -> Tensor:
        """Conditions some of which are replaced by none."""
        none = torch.rand(len(condition), device=condition.device) < self.condition_dropout
        return torch.where(none.view(-1, *[1] * (condition.ndim - 1)), self.null(len(condition)), condition)


def _steps(condition: Tensor) -> Tensor:
    """Labels ``[B]`` as prompts of one step and one lane; features as they are."""
    return condition[:, None, None] if condition.ndim == 1 else condition
