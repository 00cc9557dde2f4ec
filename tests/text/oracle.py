"""A source of texts whose every probability is known, and the language model over tokens that knows it perfectly."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

Ids = tuple[int, ...]


class Source:
    """Random probabilities of all strings of up to ``longest`` symbols.

    Args:
        symbols: What strings are made of, as bytes each.
        longest: Symbols of a string at most.
        seed: Of the probabilities.
    """

    def __init__(self, symbols: Sequence[bytes], longest: int, seed: int) -> None:
        texts = [b"".join(t) for n in range(longest + 1) for t in itertools.product(symbols, repeat=n)]
        weights = np.random.default_rng(seed).exponential(size=len(texts)) ** 3
        self.weights = dict(zip(texts, weights / weights.sum(), strict=True))
        self.begins: dict[bytes, float] = defaultdict(float)
        for text, weight in self.weights.items():
            for end in range(len(text) + 1):
                self.begins[text[:end]] += weight

    def next_symbol(self, data: bytes) -> np.ndarray:
        """Probabilities of the next byte, and of the end, after ``data``, ``[257]``."""
        found = [self.begins.get(data + bytes([b]), 0.0) for b in range(256)]
        return np.array([*found, self.weights.get(data, 0.0)]) / self.begins[data]


class Oracle:
    """The language model of a source's encodings: ids of a tokenizer, then the end's.

    Args:
        source: Of texts.
        encode: The tokenizer.
        size: Of its vocabulary; the end's id.
    """

    def __init__(self, source: Source, encode: Callable[[bytes], Sequence[int]], size: int) -> None:
        self.end, self.calls = size, 0
        self.weights: dict[Ids, float] = defaultdict(float)
        for text, weight in source.weights.items():
            ids = (*encode(text), size)
            for end in range(len(ids) + 1):
                self.weights[ids[:end]] += weight
        self.canonical = {ids for ids in self.weights if size not in ids}

    def __call__(self, rows: Sequence[Ids]) -> np.ndarray:
        self.calls += 1
        found = np.zeros((len(rows), self.end + 1))
        for row, ids in zip(found, rows, strict=True):
            if ids in self.weights:
                row[:] = [self.weights.get((*ids, v), 0.0) / self.weights[ids] for v in range(self.end + 1)]
            else:
                row[:] = 1 / (self.end + 1)  # never asked for what cannot be, it would say anything
        with np.errstate(divide="ignore"):
            return np.log(found)


def random_lm(size: int, seed: int = 0) -> Callable[[Sequence[Ids]], np.ndarray]:
    """A model whose distributions depend on all ids before, and give every id some probability."""

    def lm(rows: Sequence[Ids]) -> np.ndarray:
        logits = np.stack([np.random.default_rng([seed, *ids]).normal(scale=2, size=size) for ids in rows])
        top = logits.max(axis=1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))

    return lm


def covers(encode: Callable[[bytes], Sequence[int]], tokens: Sequence[bytes], data: bytes, reach: int) -> set[Ids]:
    """All covers of ``data`` by trying every text that goes on with up to ``reach`` bytes of those that occur in tokens."""
    alphabet = sorted({byte for token in tokens for byte in token})
    found = set()
    for n in range(reach + 1):
        for more in itertools.product(alphabet, repeat=n):
            ids, size = [], 0
            for i in encode(data + bytes(more)):
                if size >= len(data):
                    break
                ids.append(i)
                size += len(tokens[i])
            if size >= len(data):
                found.add(tuple(ids))
    return found
