"""What dynamic tokenization has to know of a tokenizer, ours or one of ``transformers``: bytes of tokens, and how text is cut.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025, convert every tokenizer
to a byte-level one. Here each stays as it is: merging asks only what bytes a token stands for, whatever it is spelled as.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers_mm.text.byte_exact.pieces import Pieces
from tokenizers_mm.text.byte_exact.tokenizer import canonical
from tokenizers_mm.text.dynamic import pieces_of
from tokenizers_mm.text.embedders import Parts, parts_of
from tokenizers_mm.text.segmenters.base import whole_characters
from tokenizers_mm.text.subword import SubwordCodec
from tokenizers_mm.text.vocabulary import read_vocabulary

Prompt = str | bytes
Words = Sequence[str]


@dataclass(frozen=True)
class Sequences:
    """Base tokens of a batch, special ones among them.

    Args:
        rows: Ids of each sequence.
        words: Number of the word that each token is of, None for special ones; where texts came as words.
        types: Segment of each token; of pairs, where the tokenizer tells their texts apart so.
    """

    rows: list[list[int]]
    words: list[list[int | None]] | None = None
    types: list[list[int]] | None = None


class BaseTokens(ABC):
    """A tokenizer as merging sees it.

    Args:
        tokens: Bytes of each id; empty for special ones, which never merge.
        pieces: Into how many pieces the tokenizer cuts a string.
        parts: How it spells a token that it lacks.
        special: Ids that stand for no text.
    """

    def __init__(self, tokens: Sequence[bytes], pieces: Callable[[str], int], parts: Parts) -> None:
        self.tokens, self.pieces, self.parts = tuple(tokens), pieces, parts
        self.special = frozenset(i for i, token in enumerate(self.tokens) if not token)
        self._single = {token[0]: i for i, token in reversed(list(enumerate(self.tokens))) if len(token) == 1}

    @abstractmethod
    def encode(
        self, texts: Sequence[Prompt | Words], pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> Sequences:
        """Ids of texts with the special tokens that a model expects, cut to ``max_length`` of them."""

    @abstractmethod
    def answer(self, text: str) -> list[int]:
        """Ids of a text that goes on with another: no special tokens."""

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """What ids stand for; nothing for special ones."""
        return b"".join([self.tokens[i] for i in ids])

    def open_end(self, data: bytes) -> tuple[str, list[int]]:
        """The whole characters of bytes, and an id for each byte of the character that they end inside.

        Raises:
            ValueError: If the bytes are not UTF-8 up to their last character, or one has no token.
        """
        whole = whole_characters(data)
        if missing := [byte for byte in data[whole:] if byte not in self._single]:
            raise ValueError(f"prompt ends inside a character and the tokenizer has no token for 0x{missing[0]:02x}")
        try:
            return data[:whole].decode("utf-8"), [self._single[byte] for byte in data[whole:]]
        except UnicodeDecodeError as error:
            raise ValueError(f"prompt must be UTF-8 but for its last character, got {data[:40]!r}: {error}") from None


class CodecTokens(BaseTokens):
    """A byte-level subword codec of ours.

    Args:
        codec: Whose tokens merge.
        start: Id that each sequence begins with, beyond the codec's own; None for none.
        further: Ids of a model beyond the codec's own, which stand for no text.
    """

    def __init__(self, codec: SubwordCodec, start: int | None = None, further: int = 0) -> None:
        pieces = pieces_of(codec)
        super().__init__((*pieces.tokens, *[b""] * further), pieces.pieces, parts_of(codec))
        self.codec, self.start = codec, start

    def encode(
        self, texts: Sequence[Prompt | Words], pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> Sequences:
        """See :meth:`BaseTokens.encode`. Raises: TypeError: For pairs or words, which a codec knows nothing of."""
        if pairs is not None or not all(isinstance(text, str | bytes) for text in texts):
            raise TypeError("texts must be str or bytes without pairs: a codec joins no pairs and takes no words")
        rows = []
        for text in texts:
            whole, rest = self.open_end(text) if isinstance(text, bytes) else (str(text), [])
            begun = [] if self.start is None else [self.start]
            rows.append([*begun, *self.answer(whole), *rest][:max_length])
        return Sequences(rows)

    def answer(self, text: str) -> list[int]:
        return self.codec.vocabulary.encode(text).tolist()


class FastTokens(BaseTokens):
    """A fast tokenizer of ``transformers``, byte-level or not.

    Args:
        tokenizer: Whose template of special tokens and whose word numbers are kept.

    Raises:
        TypeError: If it has no ``backend_tokenizer``.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise TypeError(f"tokenizer must be a fast one of transformers, got {type(tokenizer).__name__}")
        backend = tokenizer.backend_tokenizer
        vocabulary = read_vocabulary(backend.to_str().encode(), "tokenizers", None)
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        marks = getattr(backend.model, "continuing_subword_prefix", None) if _is_wordpiece(backend) else None
        tokens = [
            b"" if i in special else token if marks is None else _unmarked(token, marks.encode())
            for i, token in enumerate(vocabulary.tokens)
        ]
        found = canonical(vocabulary) if vocabulary.exact else None
        if isinstance(found, Pieces):
            own = {token: (i,) for i, token in reversed(list(enumerate(tokens))) if token}
            super().__init__(tokens, found.pieces, lambda token: own.get(token) or found.model.encode(token))
        else:
            super().__init__(tokens, _counter(backend.pre_tokenizer), fewest_parts(tokens))
        self.tokenizer = tokenizer

    def encode(
        self, texts: Sequence[Prompt | Words], pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> Sequences:
        """See :meth:`BaseTokens.encode`. Raises: ValueError: If pairs are not as many as texts; TypeError: For bytes in pairs."""
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"pairs must be as many as texts, got {len(pairs)} for {len(texts)}")
        if pairs is not None and any(isinstance(text, bytes) for text in texts):
            raise TypeError("texts must be str where they have pairs, got bytes")
        words = not isinstance(texts[0], str | bytes)
        ends = [self.open_end(text) if isinstance(text, bytes) else (text, []) for text in texts]
        found = self.tokenizer(
            [whole for whole, _ in ends],
            None if pairs is None else list(pairs),
            truncation=max_length is not None,
            max_length=max_length,
            is_split_into_words=words,
            return_token_type_ids=pairs is not None,
        )
        rows = [self._before_specials(ids, rest) for ids, (_, rest) in zip(found["input_ids"], ends, strict=True)]
        numbers = [found.word_ids(i) for i in range(len(rows))] if words else None
        return Sequences(rows, numbers, found.get("token_type_ids"))

    def _before_specials(self, ids: list[int], rest: list[int]) -> list[int]:
        """A row with ids put where its text ends."""
        end = len(ids)
        while end and ids[end - 1] in self.special:
            end -= 1
        return [*ids[:end], *rest, *ids[end:]] if rest and end else [*ids, *rest]

    def answer(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def fewest_parts(tokens: Sequence[bytes]) -> Parts:
    """The spelling of bytes with the fewest of ``tokens``, the longest first of equals; empty if there is none."""
    ids = {token: i for i, token in reversed(list(enumerate(tokens))) if token}
    longest = max(map(len, ids), default=0)

    def parts(token: bytes) -> Sequence[int]:
        best: list[list[int] | None] = [None] * len(token) + [[]]
        for at in reversed(range(len(token))):
            for size in range(min(longest, len(token) - at), 0, -1):
                rest = best[at + size]
                found = best[at]
                if rest is not None and token[at : at + size] in ids and (found is None or len(rest) + 1 < len(found)):
                    best[at] = [ids[token[at : at + size]], *rest]
        return best[0] or ()

    return parts


def _is_wordpiece(backend: Any) -> bool:
    return type(backend.model).__name__ == "WordPiece"


def _unmarked(token: bytes, marks: bytes) -> bytes:
    """Bytes of a token of WordPiece: one that goes on with a word has marks, one that begins a word stands after a space."""
    return token.removeprefix(marks) if token.startswith(marks) and token != marks else b" " + token


def _counter(before: Any) -> Callable[[str], int]:
    if before is None:
        return lambda text: 1
    return functools.lru_cache(maxsize=2**16)(lambda text: len(before.pre_tokenize_str(text)))
