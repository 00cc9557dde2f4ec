"""Canonical encodings: which token sequences a tokenizer can give, for bytes that a text begins with.

A language model that was trained on a tokenizer's output knows only these. Phan et al., "Exact Byte-Level Probabilities from
Tokenized Language Models for FIM-Tasks and Model Ensembles", ICLR 2025, call them valid. Ours are decided on bytes, so that a
text may break off inside a character, and hold for any tokenizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

Ids = tuple[int, ...]
_WHITE = frozenset(b" \t\n\v\f\r")
_REMEMBERED = 512  # masks


class Canonical(ABC):
    """What a tokenizer makes of bytes.

    Args:
        tokens: Bytes of each id; empty for ids that text never gives.
        prefix: Bytes that the tokenizer puts in front of every text (SentencePiece's space).

    Raises:
        ValueError: If no token has bytes.
    """

    def __init__(self, tokens: Sequence[bytes], prefix: bytes = b"") -> None:
        if not any(tokens):
            raise ValueError("tokens must hold at least one that stands for bytes, got none")
        self.tokens, self.prefix = tuple(tokens), prefix
        self.longest = max(map(len, tokens))
        inside = {token[at - 1] for token in tokens for at in range(1, len(token)) if token[at] == 0x20}
        self._crossed = inside | _WHITE
        self._masks: OrderedDict[object, np.ndarray] = OrderedDict()

    @abstractmethod
    def encodings(self, data: bytes) -> list[Ids]:
        """Canonical sequences of ``data``, where a text begins with it: one, more inside a character, none for bytes that no
        text holds."""

    def border(self, data: bytes) -> int:
        """The last place before which no continuation of ``data`` changes the tokens: a space that no token reaches over."""
        at = data.rfind(b" ", 1)
        while at > 0 and (data[at - 1] in self._crossed or (data[at - 1] >= 0x80 and _white_before(data, at))):
            at = data.rfind(b" ", 1, at)
        return max(at, 0)

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """What ids stand for."""
        return b"".join([self.tokens[i] for i in ids])

    def open_from(self, ids: Ids) -> int:
        """Index of the first of ``ids`` that what comes next can still change."""
        window = 8
        while True:
            first = max(0, len(ids) - window)
            at = first
            border = self.border(self.bytes_of(ids[first:]))
            while border > 0:
                border -= len(self.tokens[ids[at]])
                at += 1
            if border == 0 and at > first:
                return at
            if first == 0:
                return 0
            window *= 2

    def valid(self, ids: Ids) -> bool:
        """Whether some text begins with exactly these tokens."""
        left = ids[self.open_from(ids) :]
        return left in self.encodings(self.bytes_of(left))

    def follows(self, ids: Ids) -> np.ndarray:
        """Which ids may follow canonical ``ids``, bool ``[V]``; those without bytes may not."""
        left = ids[self.open_from(ids) :]
        return self.remember(left, lambda: self._follows(left))

    def _follows(self, left: Ids) -> np.ndarray:
        data = self.bytes_of(left)
        return np.array(
            [bool(token) and (*left, i) in self.encodings(data + token) for i, token in enumerate(self.tokens)]
        )

    def remember(self, key: object, make: Callable[[], np.ndarray]) -> np.ndarray:
        """A mask from the last ones made, or made now."""
        mask = self._masks.pop(key, None)
        self._masks[key] = mask = make() if mask is None else mask
        if len(self._masks) > _REMEMBERED:
            self._masks.popitem(last=False)
        return mask


class Encoded(Canonical):
    """Any tokenizer that is a function of bytes: longest match, a table, a toy.

    Args:
        tokens: Bytes of each id; empty for ids that text never gives.
        encode: Bytes to ids. The start of an encoding must be the encoding of its bytes, as that of BPE, Unigram and longest
            match is.
        prefix: Bytes in front of every text, which ``encode`` gets too.
    """

    def __init__(self, tokens: Sequence[bytes], encode: Callable[[bytes], Sequence[int]], prefix: bytes = b"") -> None:
        super().__init__(tokens, prefix)
        self._encode = encode

    def encodings(self, data: bytes) -> list[Ids]:
        ids = tuple(self._encode(data))
        return [ids] if self.bytes_of(ids) == data else []


class Characters(Canonical):
    """A tokenizer of strings that spells characters without a token in bytes (SentencePiece with byte fallback).

    Args:
        tokens: Bytes of each id; empty for ids that text never gives.
        encode: Strings to ids; each begins with the prefix, if there is one.
        prefix: Bytes in front of every text.
    """

    def __init__(self, tokens: Sequence[bytes], encode: Callable[[str], Sequence[int]], prefix: bytes = b"") -> None:
        super().__init__(tokens, prefix)
        self._encode = encode
        # Among tokens of one byte, those that are no characters come from byte fallback; ASCII may have both.
        self._byte = {token[0]: i for i, token in enumerate(tokens) if len(token) == 1 and token[0] >= 0x80}

    def encodings(self, data: bytes) -> list[Ids]:
        try:
            text, rest = data.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text, rest = data[: error.start].decode("utf-8"), data[error.start :]
            if error.reason != "unexpected end of data" or any(byte not in self._byte for byte in rest):
                return []
        ids = tuple(self._encode(text)) if text else ()
        return (
            [(*ids, *(self._byte[byte] for byte in rest))]
            if self.bytes_of(ids) == data[: len(data) - len(rest)]
            else []
        )


def _white_before(data: bytes, at: int) -> bool:
    return data[max(0, at - 4) : at].decode("utf-8", "ignore")[-1:].isspace()
