"""Sources of sequences for language models: tasks whose symbols mean nothing beforehand, and files of tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from tokenizers_mm.checks import at_least
from tokenizers_mm.lm.lexinvariant import PADDING
from tokenizers_mm.lm.symbols import lookup, permute, repeated_words
from tokenizers_mm.tokens import Tokens


class SequenceSource(ABC):
    """Where rows of ids come from."""

    @abstractmethod
    def row(self, length: int, generator: torch.Generator) -> Tensor:
        """Ids ``[n]``, of which ``length`` are used at most, :data:`PADDING` between documents."""


class RepeatedWords(SequenceSource):
    """Random words again and again (see :func:`repeated_words`).

    Args:
        symbols: V.
        words: Different words of a row.
        word_length: Symbols of a word.
    """

    def __init__(self, symbols: int, words: int = 4, word_length: int = 8) -> None:
        at_least(1, words=words, word_length=word_length)
        self.symbols, self.words, self.word_length = symbols, words, word_length

    def row(self, length: int, generator: torch.Generator) -> Tensor:
        count = -(-length // self.word_length)
        return repeated_words(1, self.words, self.word_length, count, self.symbols, generator)[0]


class LookUp(SequenceSource):
    """Keys with their values, then keys again (see :func:`lookup`).

    Args:
        symbols: V.
        pairs: Of a key and a value, in a row.
    """

    def __init__(self, symbols: int, pairs: int = 8) -> None:
        at_least(1, pairs=pairs)
        self.symbols, self.pairs = symbols, pairs

    def row(self, length: int, generator: torch.Generator) -> Tensor:
        return lookup(1, self.pairs, max(1, length // 2 - self.pairs), self.symbols, generator).ids[0]


class Permute(SequenceSource):
    """Words, each followed by itself in another order, the same throughout (see :func:`permute`).

    Args:
        symbols: V.
        word_length: Symbols of a word.
    """

    def __init__(self, symbols: int, word_length: int = 4) -> None:
        self.symbols, self.word_length = symbols, word_length

    def row(self, length: int, generator: torch.Generator) -> Tensor:
        return permute(1, self.word_length, max(2, length // (2 * self.word_length)), self.symbols, generator).ids[0]


class Stream(SequenceSource):
    """Stretches of documents one after the other, from anywhere on.

    Args:
        documents: Ids ``[n]`` of each.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, documents: list[Tensor]) -> None:
        between = torch.tensor([PADDING])
        parts = [part for document in documents if len(document) for part in (document.long(), between)]
        if not parts:
            raise ValueError("documents must hold ids, got none")
        self.ids = torch.cat(parts[:-1])

    def row(self, length: int, generator: torch.Generator) -> Tensor:
        start = int(torch.randint(max(len(self.ids) - length, 0) + 1, (1,), generator=generator))
        return self.ids[start : start + length]


class TokenFiles(Stream):
    """Tokens of any codec, as ``mmtok encode`` writes them: the ids of a step one after the other, each item a document.

    Args:
        path: A ``.mmt`` file, or a folder that is searched for them.

    Raises:
        FileNotFoundError: If there are none.
    """

    def __init__(self, path: str) -> None:
        files = sorted(Path(path).rglob("*.mmt")) if Path(path).is_dir() else [Path(path)]
        if not files:
            raise FileNotFoundError(f"path must hold files of tokens (.mmt), {path} has none")
        super().__init__([ids for file in files for ids in _sequences(Tokens.load(file))])


def _sequences(tokens: Tokens) -> list[Tensor]:
    """Ids of each item; those of codebook q come after those of the codebooks before it."""
    sizes = torch.tensor([0, *tokens.spec.codebook_sizes[:-1]]).cumsum(0)
    return [(tokens.ids[i, :n] + sizes).flatten() for i, n in enumerate(tokens.lengths.tolist())]
