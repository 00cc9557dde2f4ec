"""HAT as in "Hierarchical Autoregressive Transformers: Combining Byte- and Word-Level Processing" (Neitemeier et al., ICLR 2025).

An encoder reads the bytes of each word alone, a backbone the words, a decoder writes the bytes of the next word and its end.
Documents begin with a learned guide instead of a dummy word, and a learned vector is added to all guides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenizers_mm.lm.backbone import Transformer
from tokenizers_mm.text.model import Scores, Session, TextLM, costs, shift
from tokenizers_mm.text.rows import MARKS, START, WORD, Rows, cutter, words_of
from tokenizers_mm.text.segmenters import segmenter as make_segmenter

_LEFT_OUT = -100
_IS_MARK = torch.tensor([bool(MARKS.match(bytes([value]))) for value in range(256)])


class HATPaper(TextLM):
    """Words of bytes with predicted ends; the published 1B model by default.

    Args:
        dim: Width of encoder and decoder.
        encoder_layers: Blocks that read a word.
        decoder_layers: Blocks that write one.
        heads: Of both.
        backbone_dim: Width over words.
        backbone_layers: Blocks over words.
        backbone_heads: Of them.
        hidden: Width of the feed-forward layers of encoder and decoder; 8/3 of ``dim``, up to a multiple of 32, by default.
        segmenter: Name of what cuts words (see :func:`tokenizers_mm.text.segmenters.segmenter`).
        segmenter_options: Its options.
        dropout: Of all blocks.
    """

    ends_words = True

    def __init__(
        self,
        dim: int = 768,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        heads: int = 6,
        backbone_dim: int = 2304,
        backbone_layers: int = 18,
        backbone_heads: int = 18,
        hidden: int | None = None,
        segmenter: str = "whitespace",
        segmenter_options: dict[str, Any] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.cut = cutter(make_segmenter(segmenter, **segmenter_options or {}))
        self.embedding = nn.Embedding(256, dim)
        self.encoder = Transformer(dim, encoder_layers, heads, hidden=hidden, dropout=dropout, causal=False)
        self.to_word = nn.Linear(dim, backbone_dim, bias=False)
        self.backbone = Transformer(backbone_dim, backbone_layers, backbone_heads, dropout=dropout)
        self.to_byte = nn.Linear(backbone_dim, dim, bias=False)
        self.first = nn.Parameter(torch.zeros(dim))
        self.decoder = Transformer(dim, decoder_layers, heads, hidden=hidden, dropout=dropout)
        self.head = nn.Linear(dim, 256, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Wide enough that words differ from the first step on: with small weights and a constant start of each word the backbone
        soon says the same whatever it reads, and does not come back.
        """
        for stack in (self.encoder, self.backbone, self.decoder):
            scale = (2 * max(len(stack.blocks), 1)) ** -0.5
            for name, weight in stack.named_parameters():
                if weight.ndim == 2:
                    std = weight.shape[1] ** -0.5 * (scale if name.endswith(("out.weight", "down.weight")) else 1.0)
                    nn.init.normal_(weight, std=std)
        for matrix, std in (
            (self.embedding.weight, 0.3), (self.to_word.weight, self.to_word.in_features**-0.5),
            (self.to_byte.weight, self.to_byte.in_features**-0.5), (self.head.weight, 0.02),
        ):  # fmt: skip
            nn.init.normal_(matrix, std=std)
        with torch.no_grad():
            self.embedding.weight[WORD] = 0

    def encode(self, ids: Tensor, inside: Tensor) -> Tensor:
        """Vectors ``[n, D]`` of words ``[n, S]``, padded where not ``inside``."""
        ids = torch.cat([ids.new_full((len(ids), 1), WORD), ids], dim=1)
        inside = torch.cat([inside.new_ones(len(inside), 1), inside], dim=1)
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self.to_word(self.encoder.packed(self.embedding(ids), places, inside.long())[:, 0])

    def begin(self, guides: Tensor) -> Tensor:
        """What the decoder begins a word with: its guide and what all words begin with."""
        return guides + self.embedding.weight[START]

    def score(self, signal: Tensor) -> Scores:
        rows = Rows.of(signal, self.cut)
        buckets = list(rows.buckets())
        ids = rows.ids.flatten()
        vectors = ids.new_zeros(rows.lengths.numel(), self.backbone.dim, dtype=self.first.dtype)
        if buckets:
            found = torch.cat([self.encode(ids[b.index], b.inside) for b in buckets])
            vectors = vectors.index_copy(0, torch.cat([b.words for b in buckets]), found)
        features = self.backbone.packed(vectors.view(*rows.lengths.shape, -1), rows.word_position, rows.word_document)
        guides = shift(self.to_byte(features), self.first, rows.word_position == 0).flatten(0, 1)
        open_ = self._open(rows).flatten()
        nats, right = [], []
        for b in buckets:
            x = torch.cat([self.begin(guides[b.words])[:, None], self.embedding(ids[b.index])], dim=1)
            targets = _targets(ids[b.index], b.inside, open_[b.words])
            cost, true = costs(self.head(self.decoder(x)), targets)
            end = b.inside.sum(dim=1)[:, None]
            counted = targets != _LEFT_OUT
            true, ended = true | ~counted, cost.gather(1, end)
            last = torch.arange(b.inside.shape[1], device=end.device) == end - 1
            nats.append((cost[:, :-1] * b.inside + ended * last)[b.inside])
            right.append((true[:, :-1] & (true.gather(1, end) | ~last))[b.inside])
        out = torch.zeros_like(ids, dtype=self.first.dtype)
        true_out = torch.zeros_like(ids, dtype=torch.bool)
        if buckets:
            at = torch.cat([b.index[b.inside] for b in buckets])
            out, true_out = out.index_copy(0, at, torch.cat(nats)), true_out.index_copy(0, at, torch.cat(right))
        return Scores(out.view_as(signal), true_out.view_as(signal))

    @staticmethod
    def _open(rows: Rows) -> Tensor:
        """Words ``[B, W]`` whose end is not to be predicted: marks, and the last of a document that goes on elsewhere."""
        of_next = torch.cat([rows.word_document[:, 1:], rows.word_document.new_full((len(rows.ids), 1), -1)], dim=1)
        return (of_next != rows.word_document) | _IS_MARK.to(rows.ids.device)[rows.ids.gather(1, rows.starts)]

    def session(self, prompts: Sequence[bytes], room: int) -> HATPaperSession:
        return HATPaperSession(self, prompts, room)


def _targets(ids: Tensor, inside: Tensor, open_: Tensor) -> Tensor:
    """Bytes, then the word's end unless it is ``open_ [n]``: ``[n, S] -> [n, S + 1]``."""
    targets = torch.cat([ids.where(inside, _LEFT_OUT), ids.new_full((len(ids), 1), _LEFT_OUT)], dim=1)
    ends = torch.where(open_, _LEFT_OUT, WORD)
    return targets.scatter(1, inside.sum(dim=1, keepdim=True), ends[:, None])


class HATPaperSession(Session):
    """The word that is being written has a cache of its own; a finished one is encoded and takes one step of the backbone."""

    @torch.no_grad()
    def __init__(self, model: HATPaper, prompts: Sequence[bytes], room: int) -> None:
        self.model, device = model, model.first.device
        words = [words_of(prompt, model.cut) for prompt in prompts]
        self.open = [bytearray(row[-1]) if row else bytearray() for row in words]
        self.closed = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        self.backbone = model.backbone.slots(len(prompts), max([len(row) for row in words], default=0) + room + 1)
        self.decoder = model.decoder.slots(len(prompts), max(map(len, self.open)) + room + 1)
        self.guides = model.first.expand(len(prompts), -1).clone()
        self._close([row[:-1] for row in words])
        size = max(map(len, self.open)) + 1
        ids = torch.zeros(len(prompts), size, dtype=torch.int64, device=device)
        places = torch.full_like(ids, -1)
        for i, word in enumerate(self.open):
            ids[i, 1 : len(word) + 1] = torch.tensor(list(word), dtype=torch.int64)
            places[i, : len(word) + 1] = torch.arange(len(word) + 1)
        x = model.embedding(ids)
        x[:, 0] = model.begin(self.guides)
        y = model.decoder.advance(x, self.decoder, torch.arange(len(prompts), device=device), places)
        self._predict(y[torch.arange(len(prompts)), (places >= 0).sum(dim=1) - 1])

    @torch.no_grad()
    def push(self, ids: Tensor) -> list[bytes]:
        ends = (ids == WORD).tolist()
        self._close([[bytes(word)] if end else [] for word, end in zip(self.open, ends, strict=True)])
        places = torch.zeros_like(ids)
        for i, (value, end) in enumerate(zip(ids.tolist(), ends, strict=True)):
            if end:
                self.open[i] = bytearray()
                self.decoder.forget(i, 0)
            else:
                self.open[i].append(value)
                places[i] = len(self.open[i])
        x = torch.where((ids == WORD)[:, None], self.model.begin(self.guides), self.model.embedding(ids))
        rows = torch.arange(len(ids), device=ids.device)
        self._predict(self.model.decoder.advance(x[:, None], self.decoder, rows, places[:, None])[:, 0])
        return [b"" if value == WORD else bytes([value]) for value in ids.tolist()]

    def _close(self, words: list[list[bytes]]) -> None:
        """Encode complete words of each row and move its guide on."""
        rows = [i for i, found in enumerate(words) if found]
        if not rows:
            return
        device, model = self.guides.device, self.model
        flat = [word for found in words for word in found]
        size = max(map(len, flat))
        ids = torch.tensor([list(word.ljust(size, b"\0")) for word in flat], device=device)
        lengths = torch.tensor([len(word) for word in flat], device=device)
        vectors = model.encode(ids, torch.arange(size, device=device) < lengths[:, None])
        counts = torch.tensor([len(words[i]) for i in rows], device=device)
        x = nn.utils.rnn.pad_sequence(list(vectors.split(counts.tolist())), batch_first=True)
        at = torch.tensor(rows, device=device)
        step = torch.arange(x.shape[1], device=device)
        places = torch.where(step < counts[:, None], self.closed[at, None] + step, -1)
        features = model.backbone.advance(x, self.backbone, at, places)
        self.guides[at] = model.to_byte(features[torch.arange(len(at)), counts - 1])
        self.closed[at] += counts

    def _predict(self, features: Tensor) -> None:
        self.logits = self.model.head(features)
        self.allowed = torch.ones_like(self.logits, dtype=torch.bool)
        self.allowed[:, WORD] = torch.tensor([len(word) > 0 for word in self.open], device=features.device)
