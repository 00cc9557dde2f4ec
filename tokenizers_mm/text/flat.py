"""Transformers without a hierarchy, for comparison: over bytes, and over the tokens of a subword vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenizers_mm.lm.backbone import Transformer
from tokenizers_mm.text.model import Scores, Session, TextLM, costs
from tokenizers_mm.text.rows import END, START, Rows
from tokenizers_mm.text.segmenters.base import whole_characters
from tokenizers_mm.text.subword import SubwordCodec
from tokenizers_mm.weights import CONFIG, WEIGHTS

_PADDING = (-100, 0, -1, 0, 0)


class ByteLM(TextLM):
    """A decoder-only transformer over bytes.

    Args:
        dim: Width.
        layers: Blocks.
        heads: Of attention.
        window: Bytes that one sees at most; None for all.
        dropout: Of all blocks.
    """

    def __init__(
        self, dim: int = 768, layers: int = 12, heads: int = 12, window: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, dim)
        self.backbone = Transformer(dim, layers, heads, dropout=dropout, window=window)
        self.head = nn.Linear(dim, 256, bias=False)
        for weight in (self.embedding.weight, self.head.weight):
            nn.init.normal_(weight, std=0.02)

    def score(self, signal: Tensor) -> Scores:
        rows = Rows.of(signal, lambda data: torch.zeros(1, dtype=torch.int64).numpy())  # words are all the same here
        before = torch.cat([rows.ids[:, :1], rows.ids[:, :-1]], dim=1)
        x = self.embedding(before.where(rows.position > 0, START))
        logits = self.head(self.backbone.packed(x, rows.position, rows.document))
        nats, right = costs(logits, rows.ids.where(rows.valid, -100))
        return Scores(nats, right)

    def session(self, prompts: Sequence[bytes], room: int) -> FlatSession:
        return FlatSession(self, [[START, *prompt] for prompt in prompts], room)

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for."""
        return bytes([token])


class SubwordLM(TextLM):
    """A decoder-only transformer over the tokens of a subword vocabulary, input and output layer the same.

    Args:
        vocabulary: Folder of a :class:`SubwordCodec` without prefix space, whose tokens join to the text.
        dim: Width.
        layers: Blocks.
        heads: Of attention.
        dropout: Of all blocks.

    Raises:
        ValueError: If the vocabulary changes texts.
    """

    def __init__(
        self, vocabulary: str, dim: int = 2048, layers: int = 16, heads: int = 16, dropout: float = 0.0
    ) -> None:
        super().__init__()
        codec = SubwordCodec.from_pretrained(vocabulary)
        self.codec = (codec,)  # not a part of the weights: it has a folder of its own
        self.vocabulary = codec.vocabulary
        if not self.vocabulary.exact:
            raise ValueError(f"vocabulary must be byte-level and change no text, {vocabulary} does")
        self._single = {token[0]: i for i, token in enumerate(self.vocabulary.tokens) if len(token) == 1}
        self.start = len(self.vocabulary.tokens)
        self.end = self.start + 1
        self.embedding = nn.Embedding(self.end + 1, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.backbone = Transformer(dim, layers, heads, dropout=dropout)
        self.head = nn.Linear(dim, self.end + 1, bias=False)
        self.head.weight = self.embedding.weight

    def score(self, signal: Tensor) -> Scores:
        tokens, positions, documents, last, width = self._tokens(signal)
        before = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1).where(positions > 0, self.start)
        features = self.backbone.packed(self.embedding(before.clamp(min=0)), positions, documents)
        real = tokens >= 0
        cost, true = costs(self.head(features[real]), tokens[real])
        row = torch.arange(len(signal), device=signal.device)[:, None].expand_as(tokens)[real]
        last, width = last[real], width[real]
        nats = cost.new_zeros(signal.shape).index_put((row, last), cost)
        right = torch.zeros_like(signal, dtype=torch.bool)
        for back in range(int(width.max()) if len(width) else 0):
            inside = back < width
            right[row[inside], last[inside] - back] = true[inside]
        return Scores(nats, right)

    def _tokens(self, signal: Tensor) -> tuple[Tensor, ...]:
        """Tokens ``[B, T]`` (-100 for padding), places and numbers of their documents, last bytes and widths."""
        rows = []
        for values in signal.tolist():
            row: list[tuple[int, int, int, int, int]] = []
            for number, (begin, data) in enumerate(_documents(values)):
                at = begin
                for place, token in enumerate(self.encode(data)):
                    size = len(self.bytes_of(token))
                    at += size
                    row.append((token, place, number, at - 1, size))
            rows.append(torch.tensor(row or [_PADDING], dtype=torch.int64))
        longest = max(map(len, rows))
        padding = torch.tensor([_PADDING])
        padded = [torch.cat([row, padding.expand(longest - len(row), -1)]) for row in rows]
        return torch.stack(padded).to(signal.device).unbind(dim=-1)

    def encode(self, data: bytes) -> list[int]:
        """Tokens of a document: of its whole characters, of each byte after them, and its end's."""
        text = data.removesuffix(bytes([END]))
        whole = whole_characters(text)
        ids = self.vocabulary.encode(text[:whole].decode("utf-8")).tolist()
        return [*ids, *(self._single[byte] for byte in text[whole:]), *[self.end] * (len(text) < len(data))]

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for."""
        return b"" if token == self.start else bytes([END]) if token == self.end else self.vocabulary.tokens[token]

    def session(self, prompts: Sequence[bytes], room: int) -> FlatSession:
        return FlatSession(self, [[self.start, *self.encode(prompt)] for prompt in prompts], room)

    @property
    def config(self) -> dict[str, Any]:
        """The ``__init__`` arguments but the vocabulary, which a folder holds whole."""
        return {key: value for key, value in super().config.items() if key != "vocabulary"}

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        self.codec[0].save_pretrained(save_directory / "vocabulary")

    @classmethod
    def _restored(cls, config: dict[str, Any], find: Callable[[str], Path]) -> dict[str, Any]:
        files = [find(f"vocabulary/{name}") for name in (CONFIG, WEIGHTS)]
        return {"vocabulary": str(files[0].parent), **config}


class FlatSession(Session):
    """A key-value cache, a token at a time."""

    @torch.no_grad()
    def __init__(self, model: ByteLM | SubwordLM, prompts: Sequence[Sequence[int]], room: int) -> None:
        self.model, device = model, model.head.weight.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.slots = model.backbone.slots(len(prompts), int(lengths.max()) + room)
        ids = nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True).to(device)
        step = torch.arange(ids.shape[1], device=device).expand_as(ids)
        self.rows, self.next = torch.arange(len(ids), device=device), lengths
        places = step.where(step < lengths[:, None], -1)
        y = model.backbone.advance(model.embedding(ids), self.slots, self.rows, places)
        self._predict(y[self.rows, lengths - 1])

    @torch.no_grad()
    def push(self, ids: Tensor) -> list[bytes]:
        x = self.model.embedding(ids)[:, None]
        self._predict(self.model.backbone.advance(x, self.slots, self.rows, self.next[:, None])[:, 0])
        self.next = self.next + 1
        return [self.model.bytes_of(token) for token in ids.tolist()]

    def _predict(self, features: Tensor) -> None:
        self.logits = self.model.head(features)
        self.allowed = torch.ones_like(self.logits, dtype=torch.bool)


def _documents(values: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """First bytes and bytes of the documents of a row."""
    begin = None
    for at, value in enumerate([*values, -1]):
        if value >= 0 and begin is None:
            begin = at
        elif value < 0 and begin is not None:
            yield begin, bytes(values[begin:at])
            begin = None
