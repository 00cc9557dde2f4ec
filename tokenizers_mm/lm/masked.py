"""MaskedTokenLM: all codes of an item in a few parallel steps, the surest first.

Chang et al., "MaskGIT: Masked Generative Image Transformer", 2022. Ours is the decoder of :mod:`tokenizers_mm.lm.backbone`
without its causal mask, with rotary positions in place of learned ones, and the class as a step before the codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.checks import at_least
from tokenizers_mm.lm.backbone import Transformer
from tokenizers_mm.lm.processors import guide, pick, waits
from tokenizers_mm.lm.vocabulary import PAD, Vocabulary
from tokenizers_mm.stored import Stored
from tokenizers_mm.tokens import Tokens


class MaskedTokenLM(Stored):
    """Predicts the masked codes of items of one size from the others, and draws items of a class.

    Args:
        stream: Whose tokens (see :class:`~tokenizers_mm.lm.stream.Stream`): one codebook, one grid for all items.
        classes: Labels of items, their number or their names.
        dim: Width D.
        layers: Blocks.
        heads: Of attention.
        hidden: Width of the feed-forward layers; by default 8/3 of ``dim`` up to a multiple of 32.
        dropout: Of embeddings and layers.
        label_smoothing: Share of the target spread over all codes, in training.
        label_dropout: Share of items whose label is left out in training, for guidance.

    Raises:
        ValueError: If the stream has several codebooks or grids or pattern ``"multi-scale"``, or a share is out of range.

    Shape:
        documents int64 ``[B, S, 1]`` of one item each, as the vocabulary writes them; what follows is padding.
    """

    def __init__(
        self,
        stream: Mapping[str, Any],
        classes: int | Sequence[str] = 0,
        dim: int = 256,
        layers: int = 6,
        heads: int = 4,
        hidden: int | None = None,
        dropout: float = 0.0,
        label_smoothing: float = 0.1,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.vocabulary = Vocabulary([stream], classes)
        (self.stream,) = self.vocabulary.streams
        if self.stream.scales is not None:
            raise ValueError(
                f"stream must not have pattern 'multi-scale': a TokenLM draws scales at once, got {stream}"
            )
        if not self.stream.closed or self.stream.columns != 1:
            raise ValueError(
                f"stream must have one codebook and one grid for all items, got {self.stream.spec} and {self.stream.grid}"
            )
        if not (0 <= label_smoothing < 1 and 0 <= label_dropout <= 1):
            raise ValueError(
                f"label_smoothing and label_dropout must be shares, got {label_smoothing} and {label_dropout}"
            )
        self.label_smoothing, self.label_dropout = label_smoothing, label_dropout
        self.codes = self.stream.spec.codebook_sizes[0]
        axes = len(self.stream.grid)
        self.transformer = Transformer(
            dim, layers, heads, None, hidden, dropout, causal=False, qk_norm=True, rope_axes=axes, attention_dropout=0.0
        )
        self.embedding = nn.Embedding(self.codes + 1, dim)  # the last row is the mask
        self.label = nn.Embedding(self.vocabulary.classes + 1, dim)  # the first row is no class
        self.bias = nn.Parameter(torch.zeros(self.codes))
        self.dropout = nn.Dropout(dropout)
        for table in (self.embedding, self.label):
            nn.init.normal_(table.weight, std=0.02)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, with the spec of the stream: the model does not depend on what a card says later."""
        return {**super().config, "stream": self.stream.to_dict()}

    @property
    def cells(self) -> int:
        """Codes N of an item."""
        return math.prod(self.stream.fixed_shape)

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Logits ``[B, N, V]`` of codes ``[B, N]``, V where they are masked, and labels ``[B]``, 0 for none, else 1 + class."""
        return self._logits(self._features(codes, labels))

    def _features(self, codes: Tensor, labels: Tensor) -> Tensor:
        x = torch.cat([self.label(labels)[:, None], self.embedding(codes)], dim=1)
        places = self.vocabulary.plan(self.stream.name, self.stream.fixed_shape).positions
        places = places[:-1, : len(self.stream.grid)].to(codes.device)  # the label has the begin's place
        documents = codes.new_zeros(len(codes), 1 + self.cells)
        return self.transformer.packed(self.dropout(x), places.expand(len(codes), -1, -1), documents)[:, 1:]

    def _logits(self, features: Tensor) -> Tensor:
        return features @ self.embedding.weight[:-1].T + self.bias

    def loss(self, signal: Tensor) -> Tensor:
        """Mean cross-entropy in nats of masked codes; how many are masked is drawn for each item.

        Evaluation is not smoothed, and masks the same codes every time.

        Args:
            signal: Documents ``[B, S, 1]``.

        Raises:
            ValueError: If a row is not one document.
        """
        codes, labels = self._read(signal)
        if self.training:
            labels = labels.masked_fill(torch.rand(len(labels), device=labels.device) < self.label_dropout, 0)
            masked = random_masks(torch.rand(len(codes)), self.cells).to(codes.device)
        else:
            at = (torch.arange(len(codes)) + 0.5) / len(codes)
            masked = random_masks(at, self.cells, torch.Generator().manual_seed(0)).to(codes.device)
        logits = self._logits(self._features(codes.masked_fill(masked, self.codes), labels)[masked]).float()
        return F.cross_entropy(logits, codes[masked], label_smoothing=self.label_smoothing if self.training else 0.0)

    def _read(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``[B, N]`` and labels ``[B]`` of documents."""
        begin = len(self.vocabulary.opening())
        end = begin + self.cells + 2
        first = self.vocabulary.codes(self.stream.name).start
        codes = signal[:, begin + 1 : end - 1, 0] - first
        whole = signal.shape[1] > end and bool((signal[:, end + 1 :] == PAD).all())
        if not whole or bool(((codes < 0) | (codes >= self.codes)).any()):
            raise ValueError(f"signal must be rows of one {self.stream.name} each, got {list(signal.shape)} of others")
        if not self.vocabulary.classes:
            return codes, codes.new_zeros(len(codes))
        return codes, signal[:, 1, 0] - self.vocabulary.label(None)

    @torch.no_grad()
    def generate(
        self,
        labels: Sequence[int | str | None] | None = None,
        *,
        count: int = 1,
        steps: int = 12,
        temperature: float = 1.0,
        choice_temperature: float = 4.5,
        guidance: float = 1.0,
        seed: int | None = None,
    ) -> Tokens:
        """Items, which their codec decodes.

        Args:
            labels: Of the items; None for none.
            count: Items, where there are no labels.
            steps: In which all codes are found; no more than there are codes.
            temperature: Of the softmax.
            choice_temperature: Of the noise on how sure a code is; it ends at zero.
            guidance: Scale of classifier-free guidance at the last step; it grows linearly from 1.
            seed: Of the draws; every item has its own, so that it does not depend on the others.

        Raises:
            ValueError: If a label is unknown, or a number out of range.
        """
        at_least(1, count=count, steps=steps)
        if temperature <= 0 or choice_temperature < 0:
            raise ValueError(f"temperatures must be positive, got {temperature} and {choice_temperature}")
        wanted = [None] * count if labels is None else list(labels)
        known = [0 if label is None else self.vocabulary.label(label) - self.vocabulary.label(None) for label in wanted]
        label = torch.tensor(known, device=self.device)
        draws = (
            None if seed is None else [torch.Generator(self.device).manual_seed(seed + i) for i in range(len(known))]
        )
        codes = torch.full((len(known), self.cells), self.codes, device=self.device)
        plan = schedule(self.cells, steps)
        for step, left in enumerate(plan):
            share = (step + 1) / len(plan)
            logits = self(codes, label).float()
            if guidance != 1:
                logits = guide(logits, self(codes, torch.zeros_like(label)).float(), 1 + (guidance - 1) * share)
            log_p = (logits / temperature).log_softmax(dim=-1)
            drawn = pick(log_p.exp(), draws)
            noise = -waits(drawn, draws).log()  # Gumbel
            sure = log_p.gather(-1, drawn[..., None])[..., 0] + choice_temperature * (1 - share) * noise
            codes = reveal(codes, drawn, sure, left, self.codes)
        shapes = torch.tensor([self.stream.fixed_shape] * len(codes))
        return Tokens(codes[..., None], self.stream.spec, shapes, {})


def schedule(cells: int, steps: int) -> list[int]:
    """How many codes are still masked after each step: a cosine that falls at every step and ends at 0."""
    steps = min(steps, cells)
    left: list[int] = []
    for step in range(1, steps):
        wanted = math.floor(cells * math.cos(math.pi / 2 * step / steps))
        left.append(max(steps - step, min(wanted, (left[-1] if left else cells) - 1)))
    return [*left, 0]


def reveal(codes: Tensor, drawn: Tensor, sure: Tensor, left: int, mask: int) -> Tensor:
    """Codes ``[B, N]`` with the surest of the drawn ones in place of masks, but ``left`` that stay masked."""
    masked = codes == mask
    order = sure.masked_fill(~masked, torch.inf).argsort(dim=-1)
    stays = torch.zeros_like(masked).scatter(-1, order[:, :left], True)
    return torch.where(masked & ~stays, drawn, codes)


def random_masks(places: Tensor, cells: int, generator: torch.Generator | None = None) -> Tensor:
    """Which codes are masked, bool ``[B, N]``: the share at ``places [B]`` in [0, 1) of the cosine, at least one."""
    count = (torch.cos(math.pi / 2 * places) * cells).ceil().clamp(min=1)
    rank = torch.rand(len(places), cells, generator=generator).argsort(dim=-1).argsort(dim=-1)
    return rank < count[:, None]
