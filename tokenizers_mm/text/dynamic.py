"""DynamicCodec: a vocabulary made for each batch, by merging frequent neighbours among a subword codec's tokens.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025. The vocabulary of a batch
travels with its tokens, so that decoding is exact; what a text's tokens are depends on the texts beside it, by design.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tokenizers_mm.text.byte_exact.pieces import Pieces
from tokenizers_mm.text.byte_exact.tokenizer import canonical
from tokenizers_mm.text.codec import TextCodec
from tokenizers_mm.text.merging import Boundary, Merged, Rule, merge
from tokenizers_mm.text.segmenters.subword import subword_codec
from tokenizers_mm.text.subword import SubwordCodec
from tokenizers_mm.tokens import Tokens, TokenSpec

VOCABULARY, LENGTHS = "vocabulary", "vocabulary_lengths"
"""Names in ``shared``: bytes of a batch's own tokens, one after the other, uint8, and how many each has, int64."""


@dataclass(frozen=True)
class Budget:
    """How many merges shorten batches by how much.

    Args:
        percent: Of what merging everything saves, at least this is saved.
        merges: The fewest that do.
        tokens: Mean tokens of a text then.
    """

    percent: float
    merges: int
    tokens: float


class DynamicCodec(TextCodec):
    """A byte-level subword codec and the merges of each batch.

    Args:
        base: A card's name, a codec's folder, or a tokenizer file (see :meth:`SubwordCodec.from_file`).
        merges: Pairs that are merged at most, so many new tokens at most.
        boundary: What merged tokens stay within (see :class:`~tokenizers_mm.text.merging.Rule`).
        max_bytes: Of a merged token; None for no limit.

    Shape:
        ``x`` list of str; tokens ``[B, T, 1]``, ids from the base's size on are of ``shared["vocabulary"]``.

    Raises:
        ValueError: If the base changes texts or is not byte-level, or an option is out of range.
    """

    def __init__(
        self,
        base: str = "bpe-8k",
        merges: int = 100,
        boundary: Boundary = "pretokens",
        max_bytes: int | None = None,
    ) -> None:
        super().__init__()
        if merges < 0:
            raise ValueError(f"merges must be 0 or more, got {merges}")
        codec = subword_codec(base)
        self.merges, self._base = merges, (codec,)  # not a part of the weights: it has a name of its own
        self._pieces = pieces_of(codec)
        self.rule = Rule(boundary, self._pieces.pieces, max_bytes)
        size = codec.spec.codebook_sizes[0]
        self.spec = TokenSpec(modality="text", codebook_sizes=(size + merges,), axes=("token",))

    @property
    def base(self) -> SubwordCodec:
        """The codec whose tokens are merged."""
        return self._base[0]

    @property
    def streamable(self) -> bool:
        return False

    def merged(self, texts: Sequence[str], merges: int | None = None) -> Merged:
        """The tokens of a batch as ids, with where each came from; ``merges`` None merges all that the rule allows."""
        rows = [self.base.vocabulary.encode(text).tolist() for text in texts]
        return merge(rows, self._pieces.tokens, self.rule, merges)

    def _encode(self, x: Any, lengths: Any) -> Tokens:
        found = self.merged(x, self.merges)
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row, dtype=torch.int64) for row in found.rows], batch_first=True
        )
        shared = {
            VOCABULARY: torch.tensor(list(b"".join(found.added)), dtype=torch.uint8),
            LENGTHS: torch.tensor([len(token) for token in found.added], dtype=torch.int64),
        }
        shapes = torch.tensor([[len(row)] for row in found.rows])
        return Tokens(
            ids[..., None], self.spec, shapes, {"size": torch.tensor([[len(item)] for item in lengths])}, shared
        )

    def _decode(self, tokens: Tokens) -> Any:
        table = [*self.base.vocabulary.tokens, *vocabulary_of(tokens)]
        rows = [row[:n] for row, n in zip(tokens.ids[..., 0].tolist(), tokens.lengths.tolist(), strict=True)]
        if (most := max((max(row, default=0) for row in rows), default=0)) >= len(table):
            raise ValueError(f"tokens must have ids below {len(table)}, as their own vocabulary says, got {most}")
        return [b"".join([table[i] for i in row]) for row in rows]

    def _ids(self, text: str, data: bytes) -> np.ndarray:
        return np.array(self.merged([text], self.merges).rows[0], dtype=np.int64)

    def _bytes(self, ids: np.ndarray) -> bytes:
        return self.base._bytes(ids)  # a batch's own need its vocabulary: see _decode

    def _settled(self, data: bytes) -> int:
        return 0

    def stream(self, *, decode: bool = False) -> Any:
        """Raises: ValueError: Always; a batch is merged as a whole."""
        raise ValueError("DynamicCodec is not causal: it merges a batch as a whole and cannot stream; its base can")

    def calibrate(
        self, texts: Sequence[str], batch_size: int = 32, percents: Iterable[float] = range(0, 101, 10)
    ) -> list[Budget]:
        """How many merges it takes to save how much, on batches of the size that will be used: it depends on it.

        Args:
            texts: A sample; batches are taken in order.
            batch_size: Texts of a batch.
            percents: Of the saving of all merges.

        Raises:
            ValueError: If there are no texts, no batch size, or a percentage is none.
        """
        return calibrate(self.merged, texts, batch_size, percents)


def calibrate(
    merged: Callable[[Sequence[str]], Merged],
    texts: Sequence[str],
    batch_size: int = 32,
    percents: Iterable[float] = range(0, 101, 10),
) -> list[Budget]:
    """As :meth:`DynamicCodec.calibrate`, of anything that merges all that it may of a batch."""
    percents = list(percents)
    if not texts or batch_size < 1 or any(not 0 <= p <= 100 for p in percents):
        raise ValueError(
            f"texts must not be empty, batch_size positive and percents 0 to 100, got {len(texts)}, {batch_size}, {percents}"
        )
    batches = [merged(texts[at : at + batch_size]).lengths for at in range(0, len(texts), batch_size)]
    longest = max(map(len, batches))
    total = np.sum([np.pad(lengths, (0, longest - len(lengths)), mode="edge") for lengths in batches], axis=0)
    at = merges_for(total, percents)
    return [Budget(p, m, float(total[m]) / len(texts)) for p, m in zip(percents, at, strict=True)]


def merges_for(lengths: Sequence[int] | np.ndarray, percents: Iterable[float]) -> list[int]:
    """The fewest merges that save so many percent of what all save, from the tokens that are left after 0, 1, 2, ... of them."""
    saved = lengths[0] - np.asarray(lengths, dtype=float)
    return [int(np.argmax(saved >= saved[-1] * percent / 100 - 1e-9)) for percent in percents]


def vocabulary_of(tokens: Tokens) -> list[bytes]:
    """The tokens that a batch brought along; none if it has no table.

    Raises:
        ValueError: If the table is none or contradicts itself.
    """
    if not tokens.shared:
        return []  # the base's alone
    data, sizes = tokens.shared.get(VOCABULARY), tokens.shared.get(LENGTHS)
    if data is None or sizes is None:
        raise ValueError(f"shared must hold {VOCABULARY!r} and {LENGTHS!r}, got {sorted(tokens.shared)}")
    if data.dtype != torch.uint8 or data.ndim != 1 or sizes.dtype != torch.int64 or sizes.ndim != 1:
        raise ValueError(f"shared[{VOCABULARY!r}] must be uint8 [bytes] and [{LENGTHS!r}] int64 [tokens]")
    lengths = sizes.tolist()
    if any(n < 1 for n in lengths) or sum(lengths) != len(data):
        raise ValueError(f"shared[{LENGTHS!r}] must hold positive lengths that sum to {len(data)}, got {sum(lengths)}")
    joined, out, at = bytes(data.tolist()), [], 0
    for n in lengths:
        out.append(joined[at : at + n])
        at += n
    return out


class LongestPrefix:
    """Encoding with a large fixed vocabulary: within what the base cuts text into, always the longest token that fits.

    Args:
        base: A byte-level codec; its tokens come first, special ones among them left out of texts.
        added: Further tokens, a million of them if need be; their ids follow.

    Raises:
        ValueError: If the base changes texts, lacks a byte, or an added token is empty.
    """

    def __init__(self, base: SubwordCodec, added: Sequence[bytes]) -> None:
        self._pieces = pieces_of(base)
        if not all(added):
            raise ValueError("added must hold tokens of at least one byte, got an empty one")
        self.tokens = (*self._pieces.tokens, *added)
        self._ids = {token: i for i, token in reversed(list(enumerate(self.tokens))) if token}
        if missing := [b for b in range(256) if bytes([b]) not in self._ids]:
            raise ValueError(f"base must have a token for every byte, 0x{missing[0]:02x} has none")
        self._longest = max(map(len, self._ids))
        self._known = lru_cache(maxsize=2**18)(self._piece)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return [i for piece in self._pieces.split(text) for i in self._known(piece)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ids stand for."""
        return b"".join([self.tokens[i] for i in ids]).decode("utf-8")

    def _piece(self, piece: str) -> tuple[int, ...]:
        data, found, at = piece.encode("utf-8"), [], 0
        while at < len(data):
            size = min(self._longest, len(data) - at)
            while data[at : at + size] not in self._ids:
                size -= 1
            found.append(self._ids[data[at : at + size]])
            at += size
        return tuple(found)


def pieces_of(codec: SubwordCodec) -> Pieces:
    """How a codec cuts texts.

    Raises:
        ValueError: If it is not byte-level or changes texts.
    """
    found = canonical(codec) if codec.vocabulary.exact else None
    if not isinstance(found, Pieces):
        raise ValueError("base must be byte-level and keep every text as it is, this one is not or does not")
    return found
