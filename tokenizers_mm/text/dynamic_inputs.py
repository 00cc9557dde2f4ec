"""Batches for any model of ``transformers`` or a :class:`SubwordLM`: tokens merged within the batch, their embeddings and a mask.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025. Theirs embeds all tokens
anew; here those that the model has keep its own embeddings, so that without merges it is the model as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokenizers_mm.text.base_tokens import BaseTokens, CodecTokens, FastTokens, Prompt, Sequences, Words
from tokenizers_mm.text.dynamic import Budget, calibrate
from tokenizers_mm.text.embedders import EmbeddingCache, MeanOfParts, TokenEmbedder
from tokenizers_mm.text.flat import SubwordLM
from tokenizers_mm.text.merging import Boundary, Merged, Rule, merge

Padding = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class DynamicBatch:
    """A merged batch.

    Args:
        embeddings: ``[B, T, D]``, zeros at padding.
        mask: 1 for tokens, 0 for padding, int64 ``[B, T]``.
        merged: The tokens, and where each came from.
        words: Of each token the number of the word that its first part is of, None for special ones; where texts came as words.
        types: Segments of pairs, int64 ``[B, T]``.
    """

    embeddings: Tensor
    mask: Tensor
    merged: Merged
    words: list[list[int | None]] | None = None
    types: Tensor | None = None

    @property
    def model_inputs(self) -> dict[str, Tensor]:
        """Arguments for a model of ``transformers``, and for its ``generate``."""
        found = {"inputs_embeds": self.embeddings, "attention_mask": self.mask}
        return found if self.types is None else {**found, "token_type_ids": self.types}


class DynamicInputs:
    """Texts to a model's input embeddings, frequent neighbours merged.

    Args:
        base: The model's tokenizer.
        embedding: The model's own input embedding, ids ``[...]`` to ``[..., D]``; must not change while a cache holds what was
            made of it.
        embedder: Of tokens that the model lacks.
        padding: Encoders are padded on the right, decoders on the left.
        boundary: What merged tokens stay within.
        max_bytes: Of a merged token; None for no limit.
        segments: Whether the model takes segments of pairs.
    """

    def __init__(
        self,
        base: BaseTokens,
        embedding: Callable[[Tensor], Tensor],
        embedder: TokenEmbedder,
        *,
        padding: Padding,
        boundary: Boundary = "pretokens",
        max_bytes: int | None = None,
        segments: bool = False,
    ) -> None:
        self.base, self.embedding, self.embedder = base, embedding, embedder
        self.padding, self.segments = padding, segments
        self.rule = Rule(boundary, base.pieces, max_bytes)

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any = None,
        embedder: TokenEmbedder | None = None,
        *,
        padding: Padding | None = None,
        boundary: Boundary = "pretokens",
        max_bytes: int | None = None,
    ) -> DynamicInputs:
        """For a model.

        Args:
            model: Of ``transformers``, or a :class:`SubwordLM`.
            tokenizer: Its fast tokenizer or :class:`SubwordCodec`; a :class:`SubwordLM` has its own.
            embedder: Of tokens that the model lacks; by default the mean of their parts, cached.
            padding: By default left for models that generate, right for others.
            boundary: What merged tokens stay within.
            max_bytes: Of a merged token; None for no limit.

        Raises:
            TypeError: If the tokenizer is none of these.
            ValueError: If it has ids that the model lacks, or is a codec that changes texts.
        """
        base = base_of(model, tokenizer)
        embedding = model.embedding if isinstance(model, SubwordLM) else model.get_input_embeddings()
        if (size := embedding.weight.shape[0]) < len(base.tokens):
            raise ValueError(f"tokenizer has {len(base.tokens)} tokens, the model embeds {size}")
        embedder = embedder or EmbeddingCache(MeanOfParts(base.parts, *embedding_rows(model)))
        generates = isinstance(model, SubwordLM) or (hasattr(model, "can_generate") and model.can_generate())
        segments = getattr(model.config, "type_vocab_size", 0) > 1
        side: Padding = padding or ("left" if generates else "right")
        return cls(base, embedding, embedder, padding=side, boundary=boundary, max_bytes=max_bytes, segments=segments)

    def __call__(
        self,
        texts: Sequence[Prompt | Words],
        pairs: Sequence[str] | None = None,
        *,
        merges: int | None = 0,
        max_length: int | None = None,
    ) -> DynamicBatch:
        """A batch.

        Args:
            texts: Strings; bytes, which may end inside a character; or lists of words.
            pairs: The second text of each, merged in one sequence with it, never across special tokens.
            merges: Pairs of tokens that are merged at most; None for all that may.
            max_length: Base tokens of a sequence, special ones among them, at most.

        Raises:
            ValueError: If the batch is empty or a sequence has no tokens, or as merging and the tokenizer say.
        """
        found = self.sequences(texts, pairs, max_length)
        merged = self.merge(found, merges)
        mask = self._pad([torch.ones(len(row), dtype=torch.int64) for row in merged.rows])
        embeddings = self._embed(merged)
        return DynamicBatch(
            self._pad(list(embeddings.split([len(row) for row in merged.rows]))),
            mask.to(embeddings.device),
            merged,
            None if found.words is None else _first_parts(found.words, merged.starts),
            self._types(found, merged, embeddings.device),
        )

    def sequences(
        self, texts: Sequence[Prompt | Words], pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> Sequences:
        """Base tokens of a batch. Raises: ValueError: If it is empty or a sequence has no tokens."""
        if not texts:
            raise ValueError("texts must hold at least one text, got an empty batch")
        found = self.base.encode(texts, pairs, max_length)
        if empty := [i for i, row in enumerate(found.rows) if not row]:
            raise ValueError(
                f"every text must have a token, the one at {empty[0]} has none and the tokenizer adds none in front"
            )
        return found

    def merge(self, found: Sequences, merges: int | None) -> Merged:
        """The tokens of a batch after at most so many merges, None for all."""
        return merge(found.rows, self.base.tokens, self.rule, merges, self.base.special)

    def calibrate(
        self, texts: Sequence[str], batch_size: int = 32, percents: Iterable[float] = range(0, 101, 10)
    ) -> list[Budget]:
        """How many merges save how much; see :meth:`DynamicCodec.calibrate`."""
        return calibrate(lambda batch: self.merge(self.sequences(batch), None), texts, batch_size, percents)

    def _embed(self, merged: Merged) -> Tensor:
        """Embeddings of all tokens, row after row."""
        size = len(self.base.tokens)
        device = next(iter(self.embedding.parameters())).device if isinstance(self.embedding, nn.Module) else None
        ids = torch.tensor(list(chain.from_iterable(merged.rows)), device=device)
        rows = self.embedding(ids.where(ids < size, 0))
        new, place = ids[ids >= size].unique(return_inverse=True)
        if not len(new):
            return rows
        made, _ = self.embedder([merged.added[i - size] for i in new.tolist()])
        return rows.index_put((ids >= size,), made[place].to(rows))

    def _types(self, found: Sequences, merged: Merged, device: torch.device) -> Tensor | None:
        if found.types is None or not self.segments:
            return None
        return self._pad([torch.tensor(row) for row in _first_parts(found.types, merged.starts)]).to(device)

    def _pad(self, rows: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=self.padding)


def base_of(model: Any, tokenizer: Any = None) -> BaseTokens:
    """The tokens of a model, by its tokenizer; a :class:`SubwordLM` has its own."""
    if isinstance(model, SubwordLM):
        return CodecTokens(model.codec[0], model.start, further=2)
    return FastTokens(tokenizer) if hasattr(tokenizer, "backend_tokenizer") else CodecTokens(tokenizer)


@torch.no_grad()
def embedding_rows(model: Any) -> tuple[Tensor, Tensor | None]:
    """Input embeddings ``[V, D]`` as a model looks them up, scaled where it does so, and its output matrix if it is another."""
    if isinstance(model, SubwordLM):
        return model.embedding.weight.detach(), None
    module, head = model.get_input_embeddings(), model.get_output_embeddings()
    weight = module.weight.detach()
    plain = type(module) is nn.Embedding
    rows = weight if plain else module(torch.arange(len(weight), device=weight.device)).detach()
    own = getattr(head, "weight", None)
    return rows, None if own is None or (plain and own is module.weight) else own.detach()


def _first_parts(values: list[list[Any]], starts: list[list[int]]) -> list[list[Any]]:
    return [[row[at] for at in places] for row, places in zip(values, starts, strict=True)]
