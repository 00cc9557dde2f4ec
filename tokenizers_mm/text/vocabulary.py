"""Vocabularies of subword tokenizers: tokens as byte strings, and encoding through the library that a tokenizer's file is for.

Text is cut at borders that no token of the vocabulary crosses, and what stands between borders is tokenized once and
remembered: words repeat. Only byte-level tokenizers that change nothing have such borders; others go through their library as
they are.
"""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np

from tokenizers_mm.text.segmenters.base import code_points
from tokenizers_mm.text.segmenters.unicode_data import kinds

# Letters with their marks, numbers of up to three digits, runs of other characters, lines' ends, white space: the pattern of
# cl100k_base, but that marks belong to letters, without which the words of many scripts fall apart.
PATTERN = r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPACE = ord(" ")
_REMEMBERED = 2**18  # words
_LONGEST = 64  # characters of a word that is worth remembering
_METASPACE = "\u2581"


class Vocabulary(ABC):
    """Tokens, and text to their ids.

    Args:
        tokens: UTF-8 (or parts of it) of each id.
        exact: Whether the tokens of any text join to it, by the tokenizer's construction.
        prefix: Whether the tokenizer puts a space in front of a text.
    """

    def __init__(self, tokens: Sequence[bytes], *, exact: bool, prefix: bool = False) -> None:
        self.tokens, self.exact, self.prefix = tuple(tokens), exact, prefix
        self._words: dict[str, tuple[int, ...]] = {}

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Ids of texts, straight from the library."""

    def encode(self, text: str) -> np.ndarray:
        """Ids ``[T]`` of a text."""
        if self._crossed is None or len(text) <= _LONGEST:
            return np.array(self.tokenize([text])[0] if text else [], dtype=np.int64)
        words, known = self._cut(text), self._words
        if len(known) > _REMEMBERED:
            known.clear()
        new = [word for word in dict.fromkeys(words) if word not in known]
        known.update(zip(new, self._of_words(new), strict=True))
        ids = np.array(list(chain.from_iterable(map(known.__getitem__, words))), dtype=np.int64)
        for word in new:
            if len(word) > _LONGEST:
                del known[word]
        return ids

    def _of_words(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of each of different words in the order of a text, from one call: what joins them are borders too."""
        ids = list(self.tokenize(["".join(words)])[0]) if words else []
        ends = np.cumsum(self._joined[1][ids])
        wanted = np.cumsum([len(word.encode("utf-8")) for word in words])
        cuts = [0, *(np.searchsorted(ends, wanted) + 1).tolist()]
        return [tuple(ids[a:b]) for a, b in pairwise(cuts)]

    def decode(self, ids: np.ndarray) -> bytes:
        """What ids ``[T]`` stand for."""
        starts, lengths, joined = self._joined
        each = lengths[ids]
        ends = np.cumsum(each)
        at = np.repeat(starts[ids] - (ends - each), each) + np.arange(int(ends[-1]) if len(ends) else 0)
        data = joined[at].tobytes()
        return data[1:] if self.prefix and data.startswith(b" ") else data

    @cached_property
    def _joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each token's bytes start among those of all, how many there are, and those of all."""
        lengths = np.array([len(token) for token in self.tokens])
        return np.cumsum(lengths) - lengths, lengths, np.frombuffer(b"".join(self.tokens), dtype=np.uint8)

    def settled(self, data: bytes) -> int:
        """Up to where the tokens of a text that begins with ``data`` are certain: its last border, 0 without any."""
        if self._crossed is None:
            return 0
        points, offsets = code_points(data)
        borders = self._borders(points)
        return 0 if not len(borders) else int(borders[-1] if offsets is None else offsets[borders[-1]])

    @cached_property
    def _crossed(self) -> np.ndarray | None:
        """Code points after which a space is no border; None where a tokenizer has no borders that are certain."""
        if not self.exact:
            return None
        inside = {token[at - 1] for token in self.tokens for at in range(1, len(token)) if token[at] == _SPACE}
        crossed = kinds().flags["White_Space"][kinds().of]
        crossed[[byte for byte in inside if byte < 0x80]] = True
        if any(byte >= 0x80 for byte in inside):
            crossed[0x80:] = True
        return crossed

    def _borders(self, points: np.ndarray) -> np.ndarray:
        """Characters that are a space after something that no token holds together with a space after it."""
        assert self._crossed is not None
        at = np.flatnonzero(points[1:] == _SPACE)
        return at[~self._crossed[points[at]]] + 1

    def _cut(self, text: str) -> list[str]:
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        edges = [0, *self._borders(points).tolist(), len(text)]
        return [text[a:b] for a, b in pairwise(edges)]


class _Tokenizers(Vocabulary):
    """A file of the ``tokenizers`` library."""

    def __init__(self, data: bytes) -> None:
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_buffer(data)
            layout = json.loads(data)
        except Exception as error:  # the library raises plain exceptions
            raise ValueError(f"not a file of tokenizers: {error}") from None
        self.tokenizer.encode_special_tokens = True  # text never becomes a special token
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        parts = list(_parts(layout))
        levels = [part for part in parts if part.get("type") == "ByteLevel"]
        added = {entry["id"]: entry["content"] for entry in layout.get("added_tokens") or ()}
        size = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        names = [self.tokenizer.id_to_token(i) or "" for i in range(size)]
        tokens = [
            added[i].encode() if i in added else from_alphabet(name) if levels else from_piece(name)
            for i, name in enumerate(names)
        ]
        has_bytes = {token for token in tokens if len(token) == 1} >= {bytes([b]) for b in range(256)}
        plain = any(
            entry.get("normalized", False) or entry.get("lstrip") or entry.get("rstrip")
            for entry in layout.get("added_tokens") or ()
        )
        prefix = any(part.get("add_prefix_space") for part in levels if part in _before(layout))
        changes = layout.get("normalizer") is not None or plain
        splits = all(
            part.get("type") in ("ByteLevel", "Split", "Sequence", "Digits")
            and part.get("behavior") in (None, "Isolated")
            for part in _before(layout)
        )
        super().__init__(
            tokens,
            exact=bool(levels) and has_bytes and not changes and not prefix and splits,
            prefix=prefix
            or any(part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never" for part in parts)
            or any(part.get("type") == "Prepend" for part in parts),
        )

    def tokenize(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


class _Tiktoken(Vocabulary):
    """A ``.tiktoken`` file: a line per token, base64 and rank."""

    def __init__(self, data: bytes, pattern: str | None) -> None:
        import tiktoken

        if pattern is None:
            raise ValueError("pattern is needed: .tiktoken files do not hold it")
        try:
            pairs = [line.split() for line in data.splitlines() if line]
            ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
        except ValueError as error:
            raise ValueError(f"not a .tiktoken file: {error}") from None
        tokens = [b""] * (max(ranks.values(), default=-1) + 1)
        for token, rank in ranks.items():
            tokens[rank] = token
        if missing := [b for b in range(256) if bytes([b]) not in ranks]:
            raise ValueError(f"not a .tiktoken file: byte {missing[0]} has no token")
        self.encoding = tiktoken.Encoding("file", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        super().__init__(tokens, exact=True)

    def tokenize(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        return self.encoding.encode_ordinary_batch(list(texts), num_threads=1)


class _SentencePiece(Vocabulary):
    """A SentencePiece model."""

    def __init__(self, data: bytes) -> None:
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(data)
            count = self.processor.GetPieceSize()
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"not a SentencePiece model: {error}") from None
        p = self.processor
        tokens = [b"" if p.IsControl(i) or p.IsUnknown(i) else from_piece(p.IdToPiece(i)) for i in range(count)]
        super().__init__(tokens, exact=False, prefix=p.EncodeAsPieces("a")[0].startswith(_METASPACE))

    def tokenize(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        return self.processor.EncodeAsIds(list(texts))


def read_vocabulary(
    data: bytes, format: Literal["tokenizers", "tiktoken", "sentencepiece"], pattern: str | None
) -> Vocabulary:
    """The vocabulary in a tokenizer file's bytes.

    Raises:
        ValueError: If it is no such file, or the format is unknown.
        ImportError: If the format's library is not installed; the message says what to install.
    """
    try:
        if format == "tokenizers":
            return _Tokenizers(data)
        if format == "tiktoken":
            return _Tiktoken(data, pattern)
        if format == "sentencepiece":
            return _SentencePiece(data)
    except ImportError as error:
        raise ImportError(
            f"{format} files need the package {format}: pip install 'tokenizers_mm[text]' ({error})"
        ) from None
    raise ValueError(f"format must be 'tokenizers', 'tiktoken' or 'sentencepiece', got {format!r}")


def train_vocabulary(texts: Iterable[str], size: int, algorithm: Literal["bpe", "unigram"]) -> bytes:
    """A file of ``tokenizers`` with ``size`` tokens learned from texts: byte-level, lossless, without special tokens.

    Raises:
        ValueError: If the vocabulary does not even hold the bytes, the texts are too few for it, or the algorithm is unknown.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if size < 256:
        raise ValueError(f"vocabulary_size must be at least the 256 bytes, got {size}")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if algorithm == "bpe":
        tokenizer = Tokenizer(models.BPE())
        trainer: Any = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    elif algorithm == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    else:
        raise ValueError(f"algorithm must be 'bpe' or 'unigram', got {algorithm!r}")
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainer)
    if (found := tokenizer.get_vocab_size()) != size:
        raise ValueError(f"these texts give {found} tokens, not {size}: take more text or a smaller vocabulary_size")
    return tokenizer.to_str().encode()


def _before(layout: dict[str, Any]) -> list[dict[str, Any]]:
    """Steps of a tokenizer file that cut text into what is tokenized."""
    return list(_steps(layout.get("pre_tokenizer")))


def _parts(layout: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        yield from _steps(layout.get(name))


def _steps(step: Any) -> Iterable[dict[str, Any]]:
    if isinstance(step, dict):
        yield step
        for name in ("normalizers", "pretokenizers", "decoders"):
            for inner in step.get(name) or ():
                yield from _steps(inner)


def _alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _alphabet()
ALPHABET = {byte: c for c, byte in _BYTE_OF.items()}
"""GPT-2's printable character of each byte."""


def from_alphabet(token: str) -> bytes:
    """Bytes of a token in GPT-2's printable characters; UTF-8 of one that has others."""
    return bytes(_BYTE_OF[c] for c in token) if all(c in _BYTE_OF for c in token) else token.encode()


def from_piece(piece: str) -> bytes:
    """A piece in SentencePiece's spelling: U+2581 for the space, ``<0xNN>`` for a byte."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(_METASPACE, " ").encode()
