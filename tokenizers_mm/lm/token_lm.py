"""TokenLM: one decoder over the tokens of any codecs, conditioned on classes, on other items, or on nothing.

The decoder of Touvron et al., "LLaMA", 2023. Each step reads the sum of its cells' embeddings (Copet et al., "Simple and
Controllable Music Generation", 2023) and one that says what comes next; each cell is drawn among the ids that may stand there, in
training too, so that nothing is spent on what follows from the format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import Transformer
from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.cross_entropy import linear_cross_entropy
from tokenizers_mm.lm.grammar import Annotation, annotate
from tokenizers_mm.lm.readout import DepthReadout, Pick
from tokenizers_mm.lm.sampling import Sampling
from tokenizers_mm.lm.stream import Stream
from tokenizers_mm.lm.transformer import AttentionKind
from tokenizers_mm.lm.vocabulary import BOS, EMPTY, FORCED, PAD, Vocabulary
from tokenizers_mm.lm.writer import Order, Part, Writer
from tokenizers_mm.lm.writing import write
from tokenizers_mm.nn.few_rows import few_rows
from tokenizers_mm.stored import Stored
from tokenizers_mm.tokens import Tokens


class TokenLM(Stored):
    """A language model of documents of a :class:`Vocabulary`.

    Args:
        streams: Whose tokens it models (see :class:`~tokenizers_mm.lm.stream.Stream`); ``{"name": ..., "codec": ...}`` does.
        classes: Labels of documents: their number, or their names.
        dim: Width D.
        layers: Blocks.
        heads: Of queries.
        kv_heads: Of keys and values; as many as heads by default.
        hidden: Width of the feed-forward layers; by default 8/3 of ``dim`` up to a multiple of 32.
        dropout: Of embeddings and layers.
        rope: ``"1d"``, places in the document; ``"2d"``, rows and columns of images (Sun et al., "Autoregressive Model Beats
            Diffusion: Llama for Scalable Image Generation", 2024), each with half of a head's width.
        qk_norm: Normalise queries and keys.
        tied: Whether the output layer is the embedding; if not, it starts at zero.
        label_dropout: Share of documents whose label is left out in training, for guidance.
        checkpointing: Compute activations anew in the backward pass.
        attention: ``"flex"`` keeps no mask in memory on GPUs (see :class:`~tokenizers_mm.lm.transformer.Transformer`).
        depth: Options of a :class:`~tokenizers_mm.lm.readout.DepthReadout`, such as ``{"dim": 128, "layers": 2, "heads": 2}``:
            the cells of a step are told one after the other, as suits ``pattern: parallel`` of residual codebooks.
        levels: Of the scalar quantizers of streams, first digit first (Mentzer et al., "Finite Scalar Quantization", 2024). The
            rows of such a stream's codes start as sums of one row for each digit: codes that share digits start alike.

    Raises:
        ValueError: If an argument is out of range, or levels make another number of codes than the stream has.

    Shape:
        documents int64 ``[B, S, L]`` as :meth:`Vocabulary.document` writes them, several in a row or one.
    """

    def __init__(
        self,
        streams: Sequence[Mapping[str, Any]],
        classes: int | Sequence[str] = 0,
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
        attention: AttentionKind = "sdpa",
        depth: Mapping[str, Any] | None = None,
        levels: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if rope not in ("1d", "2d"):
            raise ValueError(f"rope must be '1d' or '2d', got {rope!r}")
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout must be from 0 to 1, got {label_dropout}")
        self.vocabulary = Vocabulary(streams, classes)
        self.rope, self.label_dropout = rope, label_dropout
        self.transformer = Transformer(
            dim,
            layers,
            heads,
            kv_heads,
            hidden,
            dropout,
            qk_norm=qk_norm,
            rope_axes=2 if rope == "2d" else 1,
            attention_dropout=0.0,
            checkpointing=checkpointing,
            attention=attention,
        )
        self.embedding = nn.Embedding(self.vocabulary.size, dim)
        self.coming = nn.Embedding(len(self.vocabulary.choices), dim)  # the kind of the next step's first cell
        self.head = nn.Linear(dim, self.vocabulary.size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.depth = None if depth is None else DepthReadout(self.vocabulary, dim, **depth)
        for table in (self.embedding, self.coming):
            nn.init.normal_(table.weight, std=0.02)
        for name, sizes in (levels or {}).items():
            self._start_from_digits(name, sizes)
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

    @torch.no_grad()
    def _start_from_digits(self, name: str, levels: Sequence[int]) -> None:
        """Rows of a stream's codes as sums of rows of their digits in mixed radix, as large as random ones."""
        rows = self.vocabulary.codes(name)
        if math.prod(levels) != len(rows):
            raise ValueError(f"levels of {name!r} must multiply to its {len(rows)} codes, got {list(levels)}")
        code, start = torch.arange(len(rows)), self.embedding.weight.new_zeros(len(rows), self.embedding.embedding_dim)
        for size in levels:
            start += torch.randn(size, start.shape[1])[code % size] * 0.02 / len(levels) ** 0.5
            code = code // size
        self.embedding.weight[rows.start : rows.stop] = start

    def embed(self, ids: Tensor, coming: Tensor) -> Tensor:
        """Embeddings ``[B, S, D]`` of steps ``[B, S, L]``, given the kinds of the cells that follow, ``[B, S]``."""
        cells = self.embedding(ids).masked_fill((ids == EMPTY)[..., None], 0)
        return self.dropout(cells.sum(dim=2) + self.coming(coming))

    def features(self, ids: Tensor, about: Annotation) -> Tensor:
        """What the model knows after each step, ``[B, S, D]``; of scales that are predicted at once, before each."""
        coming = F.pad(about.kinds[:, 1:, 0], (0, 1), value=FORCED)
        x = self.embed(about.read(ids), coming)
        return self.transformer.packed(x, self._positions(about), about.documents, groups=about.group)

    def _positions(self, about: Annotation) -> Tensor:
        if self.rope == "2d":
            return about.positions
        at = torch.arange(about.documents.shape[1], device=about.documents.device).expand_as(about.documents)
        first = F.pad(about.documents[:, 1:] != about.documents[:, :-1], (1, 0), value=True)
        return at - torch.where(first, at, 0).cummax(dim=1).values

    def predictions(self, ids: Tensor, about: Annotation) -> Iterator[tuple[Choice, Tensor, Tensor]]:
        """For each set of ids that may stand in cells: it, the cells ``[N, 3]``, and their logits ``[N, choices]``."""
        for choice, cells, states in self._told(ids, about):
            logits = states if self.depth is not None else choice.logits(states, self.head.weight)
            yield choice, torch.stack(cells, dim=1), logits.float()

    def _told(self, ids: Tensor, about: Annotation) -> Iterator[tuple[Choice, tuple[Tensor, Tensor, Tensor], Tensor]]:
        """As :meth:`predictions`, with row, step and lane of the cells, and what the output layer multiplies, ``[N, D]``; where a
        step's cells are told one after the other, their logits."""
        features = self.features(ids, about)[:, :-1]
        inner = None if self.depth is None else self.depth(features, ids[:, 1:])
        for choice, (row, step, lane) in self._cells(about):
            if inner is None or self.depth is None:
                states = features[row, step - 1]
            else:
                states = inner[row, step - 1, lane][:, self.depth.of(choice)]
            yield choice, (row, step, lane), states

    def _cells(self, about: Annotation) -> Iterator[tuple[Choice, tuple[Tensor, Tensor, Tensor]]]:
        """Each set of ids that may stand in cells, with row, step and lane of each of these, ``[N]``."""
        kinds = about.kinds[:, 1:]
        which = self.choice_of.to(kinds.device)[kinds].masked_fill(kinds == FORCED, -1)
        for number in which.unique().tolist():
            if number >= 0:
                row, step, lane = (which == number).nonzero().unbind(dim=1)
                yield self.choices[number], (row, step + 1, lane)

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
        for choice, at, states in self._told(ids, about):
            target = choice.place(ids[at])
            share = torch.ones(target.shape, device=ids.device) if weights is None else weights[at].float()
            if self.depth is None:
                nats = linear_cross_entropy(states, choice.rows(self.head.weight), target, share)
            else:
                nats = F.cross_entropy(states.float(), target, reduction="none") @ share
            total, count = total + nats, count + share.sum()
        if not count:
            raise ValueError("signal must hold something to tell, or weights count something, got nothing")
        return total / count

    def count(self, signal: Tensor) -> int:
        """Ids in documents ``[B, S, L]``."""
        return int(((signal != PAD) & (signal != EMPTY)).sum())

    def flops(self, signal: Tensor) -> int:
        """Floating-point operations of a training step on documents ``[B, S, L]`` with one in each row, without ``depth``."""
        rows = torch.zeros(self.vocabulary.size, dtype=torch.int64)  # of the output layer that a code is drawn among
        for stream in self.vocabulary.streams:
            for codebook, size in enumerate(stream.spec.codebook_sizes):
                codes = self.vocabulary.codes(stream.name, codebook)
                rows[codes.start : codes.stop] = size
        steps = self.transformer.flops_per_token(signal.shape[1] // 2, training=True) * signal[..., 0].numel()
        return steps + 6 * self.head.in_features * int(rows[signal.cpu()].sum())

    def _without_some_labels(self, ids: Tensor) -> Tensor:
        if not self.vocabulary.classes or not self.label_dropout:
            return ids
        labels = F.pad(ids[:, :-1, 0] == BOS, (1, 0))
        dropped = labels & (torch.rand(labels.shape, device=ids.device) < self.label_dropout)
        return torch.cat(
            [ids[..., :1].masked_fill(dropped[..., None], self.vocabulary.label(None)), ids[..., 1:]], dim=-1
        )

    def read(self, hidden: Tensor, pick: Pick) -> Tensor:
        """Ids ``[N, L]`` of a step after features ``[N, D]``."""
        if self.depth is not None:
            return self.depth.read(hidden, pick)
        return torch.stack([pick(lane, partial(self.logits, hidden)) for lane in range(self.vocabulary.lanes)], dim=1)

    def logits(self, features: Tensor, choices: Iterable[Choice]) -> Tensor:
        """Logits ``[N, V]`` of what may come; of all else they are zero and mean nothing."""
        weight = self.head.weight
        out = features.new_zeros(len(features), len(weight))
        for choice in choices:
            codes, marks = slice(choice.codes.start, choice.codes.stop), list(choice.marks)
            out[:, codes] = few_rows(features, weight, choice.codes)
            out[:, marks] = features @ weight[marks].T
        return out

    def generate(
        self,
        stream: str,
        prompt: Tokens | None = None,
        *,
        labels: Sequence[int | str | None] | None = None,
        before: Sequence[Sequence[Part]] | None = None,
        shape: Sequence[int] | None = None,
        count: int = 1,
        max_steps: int = 1024,
        sampling: Sampling | Sequence[Sampling] = Sampling(),
        seed: int | None = None,
        on_tokens: Callable[[Tokens], None] | None = None,
    ) -> Tokens:
        """Items of a stream, which its codec decodes.

        Args:
            stream: What to write.
            prompt: Beginnings of the items, one for each.
            labels: Of the documents, one for each item; None for none.
            before: Items that each document holds before, by stream, one list for each.
            shape: Of the items' grids, or of their first few scales; by default the model ends them, if they differ at all.
            count: Items, where nothing else tells.
            max_steps: Steps that are drawn at most; an item that is not complete by then ends with its last whole frame or scale.
            sampling: How ids are drawn, in all lanes or in each; guidance is away from documents without label and ``before``.
            seed: Of the draws; every item has its own, so that it does not depend on the others.
            on_tokens: Gets the new whole frames of a single item as they come.

        Raises:
            ValueError: If arguments contradict each other or the vocabulary, or a fixed grid is not complete.
        """
        counts = {len(given) for given in (prompt, labels, before) if given is not None} or {count}
        if len(counts) > 1 or (on_tokens is not None and counts != {1}):
            raise ValueError(
                f"prompt, labels and before must be of as many items, one with on_tokens, got {sorted(counts)}"
            )
        (rows,) = counts
        orders = [
            Order(
                stream,
                None if labels is None else labels[i],
                () if before is None else before[i],
                None if prompt is None else prompt[i],
                None if shape is None else tuple(shape),
            )
            for i in range(rows)
        ]
        source = self.vocabulary.stream(stream)
        if on_tokens is not None and (source.closed or source.marks_rows):
            raise ValueError(f"on_tokens needs a stream that goes on in time, {stream!r} has grids {source.grid}")
        report = None if on_tokens is None else _Reporter(source, on_tokens)
        writers = write(self, orders, max_steps, sampling, _generators(seed, rows, self.device), report)
        found = Tokens.cat([writer.parts[-1][1] for writer in writers])
        side = {} if prompt is None else {k: v for k, v in prompt.side.items() if k not in ("size", "missing")}
        return replace(found, side=side)

    def compose(
        self,
        labels: Sequence[int | str | None] | None = None,
        *,
        before: Sequence[Sequence[Part]] | None = None,
        count: int = 1,
        max_steps: int = 1024,
        sampling: Sampling | Sequence[Sampling] = Sampling(),
        seed: int | None = None,
    ) -> list[list[Part]]:
        """Whole documents: whatever items come until each ends; arguments as for :meth:`generate`."""
        rows = len(labels) if labels is not None else len(before) if before is not None else count
        orders = [
            Order(None, None if labels is None else labels[i], () if before is None else before[i]) for i in range(rows)
        ]
        return [w.parts for w in write(self, orders, max_steps, sampling, _generators(seed, rows, self.device))]

    @torch.no_grad()
    def score(self, tokens: Tokens, stream: str, labels: Sequence[int | str | None] | None = None) -> Tensor:
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


class _Reporter:
    """Passes on the frames of an item as they become whole."""

    def __init__(self, stream: Stream, tell: Callable[[Tokens], None]) -> None:
        self.stream, self.tell, self.told = stream, tell, 0

    def __call__(self, writer: Writer) -> None:
        if (frames := writer.frames) > self.told:
            item = writer.parts[-1][1]
            codes, _ = self.stream.codes(item)
            new = codes[self.told : frames]
            self.tell(self.stream.tokens(new, self.stream.open_shape(len(new))))
            self.told = frames


def _generators(seed: int | None, rows: int, device: torch.device) -> list[torch.Generator] | None:
    return None if seed is None else [torch.Generator(device).manual_seed(seed + row) for row in range(rows)]
