"""Embeddings of tokens that a language model's vocabulary lacks: the contract, the mean of the parts, a cache.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025; the mean is fast
vocabulary transfer (Gee et al., EMNLP 2022). A batch with more tokens than the cache has rows goes past it, where theirs stops.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tokenizers_mm.checks import at_least
from tokenizers_mm.text.byte_exact.pieces import Pieces
from tokenizers_mm.text.dynamic import pieces_of
from tokenizers_mm.text.subword import SubwordCodec

Parts = Callable[[bytes], Sequence[int]]
"""From a token's bytes to the ids of the base tokens that it is made of."""


class TokenEmbedder(Protocol):
    """Embeddings of tokens that a model's vocabulary lacks."""

    def __call__(self, tokens: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """Input and output embeddings of tokens, ``[n, D]`` each; the same tensor where the model ties them."""
        ...


def parts_of(codec: SubwordCodec | Pieces) -> Parts:
    """How a codec's vocabulary spells tokens: one of its own by its id, any other as a piece of text by itself.

    Args:
        codec: The codec, or how it cuts texts (see :func:`~tokenizers_mm.text.dynamic.pieces_of`).

    Raises:
        ValueError: If the codec is not byte-level or changes texts.
    """
    pieces = codec if isinstance(codec, Pieces) else pieces_of(codec)
    own = {token: (i,) for i, token in reversed(list(enumerate(pieces.tokens))) if token}

    def parts(token: bytes) -> Sequence[int]:
        return own[token] if token in own else pieces.model.encode(token)

    return parts


class MeanOfParts:
    """The mean of the embeddings of a token's parts.

    Args:
        parts: Of a token; see :func:`parts_of`.
        inputs: Embeddings of the base tokens ``[V, D]``, further rows left alone.
        outputs: Rows of the output layer ``[V, D]``; None where they are the same.
    """

    def __init__(self, parts: Parts, inputs: Tensor, outputs: Tensor | None = None) -> None:
        self.parts, self.inputs, self.outputs = parts, inputs, outputs

    @torch.no_grad()
    def __call__(self, tokens: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """See :class:`TokenEmbedder`. Raises: ValueError: If a token has no parts."""
        spelled = [list(self.parts(token)) for token in tokens]
        if not all(spelled):
            raise ValueError(f"tokens must have at least one part each, {tokens[spelled.index([])]!r} has none")
        ids = torch.tensor([i for row in spelled for i in row], dtype=torch.int64)
        sizes = torch.tensor([len(row) for row in spelled], dtype=torch.int64)
        inputs = _means(self.inputs, ids, sizes)
        return inputs, inputs if self.outputs is None else _means(self.outputs, ids, sizes)


def _means(rows: Tensor, ids: Tensor, sizes: Tensor) -> Tensor:
    owner = torch.arange(len(sizes)).repeat_interleave(sizes).to(rows.device)
    total = rows.new_zeros(len(sizes), rows.shape[1]).index_add_(0, owner, rows[ids.to(rows.device)])
    return total / sizes.to(rows.device, rows.dtype)[:, None]


class EmbeddingCache:
    """What an embedder found, kept until others need the room: the least recently used go first, never one of the running batch.

    Args:
        embedder: Asked for tokens that are not there, in one call.
        rows: Tokens that are kept. A batch of more different ones goes past the cache: what it lacks is made and not kept.

    Raises:
        ValueError: If ``rows`` is below 1.
    """

    def __init__(self, embedder: TokenEmbedder, rows: int = 5000) -> None:
        at_least(1, rows=rows)
        self.embedder, self.rows = embedder, rows
        self.hits = self.misses = 0
        self._place: OrderedDict[bytes, int] = OrderedDict()  # the least recently used first
        self._free = list(range(rows))
        self._kept: tuple[Tensor, Tensor] | None = None  # [rows, D] each

    def __contains__(self, token: object) -> bool:
        return token in self._place

    def __len__(self) -> int:
        return len(self._place)

    @torch.no_grad()
    def __call__(self, tokens: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """See :class:`TokenEmbedder`; tokens may repeat."""
        unique = list(dict.fromkeys(tokens))
        missing = [token for token in unique if token not in self._place]
        self.hits, self.misses = self.hits + len(unique) - len(missing), self.misses + len(missing)
        fresh = self.embedder(missing) if missing or self._kept is None else None
        if fresh is not None and len(unique) > self.rows:
            return self._past(tokens, missing, fresh)
        for token in unique:
            if token in self._place:
                self._place.move_to_end(token)
        if fresh is not None:
            self._keep(missing, fresh)
        assert self._kept is not None
        return _rows(self._kept, [self._place[token] for token in tokens])

    def _keep(self, missing: Sequence[bytes], fresh: tuple[Tensor, Tensor]) -> None:
        """Put rows in; those of this batch that were there already are the most recently used ones."""
        if self._kept is None:
            inputs = fresh[0].new_empty(self.rows, fresh[0].shape[1])
            self._kept = inputs, inputs if fresh[1] is fresh[0] else fresh[1].new_empty(self.rows, fresh[1].shape[1])
        while len(self._free) < len(missing):
            self._free.append(self._place.popitem(last=False)[1])
        at = [self._free.pop() for _ in missing]
        self._place.update(zip(missing, at, strict=True))
        for kept, rows in zip(self._kept, fresh, strict=True):
            kept[at] = rows.detach()

    def _past(
        self, tokens: Sequence[bytes], missing: Sequence[bytes], fresh: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        known = [token for token in dict.fromkeys(tokens) if token in self._place]
        place = {token: i for i, token in enumerate([*known, *missing])}
        if known and self._kept is not None:
            old = _rows(self._kept, [self._place[token] for token in known])
            inputs = torch.cat([old[0], fresh[0]])
            fresh = inputs, inputs if fresh[1] is fresh[0] else torch.cat([old[1], fresh[1]])
        return _rows(fresh, [place[token] for token in tokens])


def _rows(pair: tuple[Tensor, Tensor], at: Sequence[int]) -> tuple[Tensor, Tensor]:
    index = torch.tensor(at, dtype=torch.int64, device=pair[0].device)
    inputs = pair[0][index]
    return inputs, inputs if pair[1] is pair[0] else pair[1][index]
