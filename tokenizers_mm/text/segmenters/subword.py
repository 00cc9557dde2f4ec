"""The tokens of a subword codec as words, for hierarchical models over a tokenizer's pieces."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from tokenizers_mm.text.segmenters.base import Segmenter, whole_characters
from tokenizers_mm.text.subword import SubwordCodec


class Subword(Segmenter):
    """A word is a token.

    Args:
        codec: A card's name, a codec's folder, or a tokenizer file (see :meth:`SubwordCodec.from_file`).
        max_bytes: Longest word (see :class:`Segmenter`).

    Raises:
        ValueError: If the tokens of a text do not join to it, as those of tokenizers that normalise.
    """

    def __init__(self, codec: str | Path = "bpe-8k", max_bytes: int | None = None) -> None:
        super().__init__(max_bytes)
        self.vocabulary = subword_codec(str(codec)).vocabulary
        if not self.vocabulary.exact:
            raise ValueError(f"codec must have tokens that join to every text, {str(codec)!r} changes some")
        self._lengths = np.array([len(token) for token in self.vocabulary.tokens])

    def word_starts(self, data: bytes) -> np.ndarray:
        whole = data.decode("utf-8", "surrogateescape")
        if not whole.isprintable() and any("\ud800" <= c <= "\udfff" for c in whole):
            return self._around(data)
        return self._starts(whole)

    def settled(self, data: bytes) -> tuple[np.ndarray, int]:
        reach = self.vocabulary.settled(data[: whole_characters(data)])
        starts = self.word_starts(data[:reach])
        return (np.append(starts, reach) if reach else np.zeros(1, dtype=np.int64)), reach

    def restart(self, data: bytes, starts: np.ndarray) -> int:
        return self.vocabulary.settled(data[: int(starts[-1]) + 1])

    def _starts(self, text: str) -> np.ndarray:
        lengths = self._lengths[self.vocabulary.encode(text)]
        return np.cumsum(lengths) - lengths

    def _around(self, data: bytes) -> np.ndarray:
        """Word starts of bytes that are not UTF-8 everywhere: those that are no character are words of their own."""
        starts, at = [np.zeros(0, dtype=np.int64)], 0
        while at < len(data):
            try:
                text, end = data[at:].decode("utf-8"), len(data)
            except UnicodeDecodeError as error:
                text, end = data[at : at + error.start].decode("utf-8"), at + error.start
            starts += [self._starts(text) + at] if text else []
            if end < len(data):
                starts.append(np.array([end]))
                end += 1
            at = end
        return np.concatenate(starts)


@functools.lru_cache(maxsize=4)
def subword_codec(source: str) -> SubwordCodec:
    """A codec by a card's name, a codec's folder, or a tokenizer file.

    Raises:
        ValueError: If it is no codec of subwords.
    """
    from tokenizers_mm import registry  # above the wings: what is found by name

    if source.endswith((".json", ".tiktoken", ".model")):
        return SubwordCodec.from_file(source)
    codec = registry.load(source)
    if not isinstance(codec, SubwordCodec):
        raise ValueError(f"codec must be a SubwordCodec, {source!r} is a {type(codec).__name__}")
    return codec
