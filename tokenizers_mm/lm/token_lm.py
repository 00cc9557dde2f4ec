"""TokenLM: one decoder over the tokens of any codecs, conditioned on classes, on other items, or on nothing.

The decoder of Touvron et al., "LLaMA", 2023. Each step reads the sum of its cells' embeddings (Copet et al., "Simple and
Controllable Music Generation", 2023) and one that says what comes next; each cell is drawn among the ids that may stand there, in
training too, so that nothing is spent on what follows from the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import Transformer
from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.grammar import Annotation, annotate
from tokenizers_mm.lm.vocabulary import BOS, EMPTY, FORCED, PAD, Vocabulary
from tokenizers_mm.stored import Stored
from tokenizers_mm.tokens import Tokens


class TokenLM(Stored):
    """A language model of documents of a :class:`Vocabulary`.

    Args:
        streams: Whose tokens it models (see :class:`~tokenizers_mm.lm.stream.Stream`); ``{"name": ..., "codec": ...}`` does.
        classes: Labels of documents.
        dim: Width D.
        layers: Blocks.
        heads: Of queries.
        kv_heads: Of keys and values; as many as heads by default.
        hidden: Width of the feed-forward layers; by default 8/3 of ``dim`` up to a multiple of 32.
        dropout: Of embeddings, attention and layers.
        rope: ``"1d"``, places in the document; ``"2d"``, rows and columns of images (Sun et al., "Autoregressive Model Beats
            Diffusion: Llama for Scalable Image Generation", 2024), each with half of a head's width.
        qk_norm: Normalise queries and keys.
        tied: Whether the output layer is the embedding; if not, it starts at zero.
        label_dropout: Share of documents whose label is left out in training, for guidance.
        checkpointing: Compute activations anew in the backward pass.

    Shape:
        documents int64 ``[B, S, L]`` as :meth:`Vocabulary.document` writes them, several in a row or one.
    """

    def __init__(
        self,
        streams: Sequence[Mapping[str, Any]],
        classes: int = 0,
        dim: int = 256,
        layers: int = 6,
        heads: int = 4,
        kv_heads: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.0,
        rope: Literal["1d", "2d"] = "1d",
        qk_norm: bool = True,
        tied: bool = True,
        label_dropout: float = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if rope not in ("1d", "2d"):
            raise ValueError(f"rope must be '1d' or '2d', got {rope!r}")
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout must be from 0 to 1, got {label_dropout}")
        self.vocabulary = Vocabulary(streams, classes)
        self.rope, self.label_dropout = rope, label_dropout
        self.transformer = Transformer(dim, layers, heads, kv_heads, hidden, dropout, qk_norm=qk_norm)
        self.embedding = nn.Embedding(self.vocabulary.size, dim)
        self.coming = nn.Embedding(len(self.vocabulary.choices), dim)  # the kind of the next step's first cell
        self.head = nn.Linear(dim, self.vocabulary.size, bias=False)
        self.dropout = nn.Dropout(dropout)
        for table in (self.embedding, self.coming):
            nn.init.normal_(table.weight, std=0.02)
        if tied:
            self.head.weight = self.embedding.weight
        else:
            nn.init.zeros_(self.head.weight)
        self.choices = list(dict.fromkeys(self.vocabulary.choices))  # kinds share theirs: channels their codebooks
        self.choice_of = torch.tensor([self.choices.index(choice) for choice in self.vocabulary.choices])

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, with the specs of the streams: the model does not depend on what a card says later."""
        return {**super().config, "streams": self.vocabulary.to_dict()["streams"]}

    def embed(self, ids: Tensor, coming: Tensor) -> Tensor:
        """Embeddings ``[B, S, D]`` of steps ``[B, S, L]``, given the kinds of the cells that follow, ``[B, S]``."""
        cells = self.embedding(ids).masked_fill((ids == EMPTY)[..., None], 0)
        return self.dropout(cells.sum(dim=2) + self.coming(coming))

    def features(self, ids: Tensor, about: Annotation) -> Tensor:
        """What the model knows after each step, ``[B, S, D]``."""
        coming = F.pad(about.kinds[:, 1:, 0], (0, 1), value=FORCED)
        return self.transformer.packed(self.embed(ids, coming), self._positions(about), about.documents)

    def _positions(self, about: Annotation) -> Tensor:
        if self.rope == "2d":
            return about.positions
        at = torch.arange(about.documents.shape[1], device=about.documents.device).expand_as(about.documents)
        first = F.pad(about.documents[:, 1:] != about.documents[:, :-1], (1, 0), value=True)
        return at - torch.where(first, at, 0).cummax(dim=1).values

    def predictions(self, ids: Tensor, about: Annotation) -> Iterator[tuple[Choice, Tensor, Tensor]]:
        """For each set of ids that may stand in cells: it, the cells ``[N, 3]``, and their logits ``[N, choices]``."""
        features = self.features(ids, about)[:, :-1]
        which = self.choice_of.to(ids.device)[about.kinds[:, 1:]]
        which = which.masked_fill((about.kinds[:, 1:] == FORCED), -1)
        for number in which.unique().tolist():
            if number >= 0:
                row, step, lane = (which == number).nonzero().unbind(dim=1)
                choice = self.choices[number]
                logits = choice.logits(features[row, step], self.head.weight).float()
                yield choice, torch.stack([row, step + 1, lane], dim=1), logits

    def token_nll(self, ids: Tensor) -> Tensor:
        """Nats of each cell of documents ``[B, S, L]`` given all before; zero where nothing is to be told.

        Raises:
            ValueError: If they are no documents of this vocabulary.
        """
        nats = torch.zeros(ids.shape, device=ids.device)
        for choice, cells, logits in self.predictions(ids, annotate(self.vocabulary, ids)):
            at = tuple(cells.T)
            nats[at] = F.cross_entropy(logits, choice.place(ids[at]), reduction="none")
        return nats

    def loss(self, signal: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats of what is to be told.

        Args:
            signal: Documents ``[B, S, L]``.
            weights: Of each cell, ``[B, S, L]``; by default all count alike.

        Raises:
            ValueError: If there is nothing to tell.
        """
        about = annotate(self.vocabulary, signal)
        ids = self._without_some_labels(signal) if self.training else signal
        total, count = self.embedding.weight.new_zeros(()), self.embedding.weight.new_zeros(())
        for choice, cells, logits in self.predictions(ids, about):
            at = tuple(cells.T)
            nats = F.cross_entropy(logits, choice.place(ids[at]), reduction="none")
            share = torch.ones_like(nats) if weights is None else weights[at].to(nats)
            total, count = total + (nats * share).sum(), count + share.sum()
        if not count:
            raise ValueError("signal must hold something to tell, or weights count something, got nothing")
        return total / count

    def _without_some_labels(self, ids: Tensor) -> Tensor:
        if not self.vocabulary.classes or not self.label_dropout:
            return ids
        labels = F.pad(ids[:, :-1, 0] == BOS, (1, 0))
        dropped = labels & (torch.rand(labels.shape, device=ids.device) < self.label_dropout)
        return torch.cat(
            [ids[..., :1].masked_fill(dropped[..., None], self.vocabulary.label(None)), ids[..., 1:]], dim=-1
        )

    @torch.no_grad()
    def score(self, tokens: Tokens, stream: str, labels: Sequence[int | None] | None = None) -> Tensor:
        """Nats of each code of items that are documents of their own.

        Args:
            tokens: B items.
            stream: Whose they are.
            labels: One for each.

        Returns:
            float32 ``[B, T, Q]``, zero past each item's end; what marks and ends cost is not in it.
        """
        items = list(tokens)
        labels = [None] * len(items) if labels is None else labels
        documents = [
            self.vocabulary.document([(stream, item)], label) for item, label in zip(items, labels, strict=True)
        ]
        ids = nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=PAD).to(self.device)
        nats, start = self.token_nll(ids), len(self.vocabulary.opening())
        source, out = self.vocabulary.stream(stream), torch.zeros(tokens.ids.shape)
        for i, item in enumerate(items):
            shape = item.shapes[0].tolist()
            plan = self.vocabulary.plan(stream, shape)
            frames = nats[i, start + plan.step, plan.lane].cpu()
            grid = source.grid_of(frames)
            out[i, : len(grid)] = grid
        return out
