"""Tokenizers that change with every batch, for training a hypernetwork to embed whatever tokens come.

Minixhofer, Ponti and Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024: a Unigram vocabulary from the substrings of recent
texts, with noise. Or, what a network for dynamic tokenization meets (Feher, Vulić and Minixhofer, ACL 2025): the merges of the
batch. Where theirs cuts text by GPT-2's pattern, the base tokenizer's own cuts here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import nn

from tokenizers_mm.checks import at_least
from tokenizers_mm.text.base_models import BaseLM
from tokenizers_mm.text.byte_exact.pieces import Pieces
from tokenizers_mm.text.merging import Rule, merge
from tokenizers_mm.text.vocabulary import ALPHABET


@dataclass(frozen=True)
class Sampled:
    """Texts in a vocabulary of their own.

    Args:
        tokens: Those of the vocabulary that want embeddings.
        rows: Ids of each text: the base's, or from the base's size on those of ``tokens``.
        prefix: How many ids of each row are of the vocabulary; the rest is base tokens and told among these alone.
        closed: Whether the prefix is told among ``tokens`` alone, not base tokens too.
    """

    tokens: list[bytes]
    rows: list[list[int]]
    prefix: list[int]
    closed: bool


class Sampler(nn.Module, ABC):
    """Draws a tokenizer for a batch of texts and applies it."""

    @abstractmethod
    def forward(self, texts: Sequence[str], base: BaseLM) -> Sampled:
        """The texts in the drawn tokenizer's tokens."""


class BatchMerges(Sampler):
    """The merges of the batch itself, as many as drawn.

    A merged text scored by merged tokens knows its own vocabulary; so part of each text can stay in base tokens, told by the
    base's output layer from what was merged before it.

    Args:
        least: Fewest merges; how many there are is drawn log-uniformly.
        most: Most merges.
        share: Part of each text that is merged is drawn between these; ``(1, 1)`` merges all of it.

    Raises:
        ValueError: If the bounds are out of range or order.
    """

    def __init__(self, least: int = 5, most: int = 200, share: tuple[float, float] = (0.3, 0.9)) -> None:
        super().__init__()
        if not 1 <= least <= most or not 0 < share[0] <= share[1] <= 1:
            raise ValueError(f"least, most and share must be in order and in range, got {least}, {most}, {share}")
        self.least, self.most, self.share = least, most, share

    def forward(self, texts: Sequence[str], base: BaseLM) -> Sampled:
        merges = round(self.least * (self.most / self.least) ** float(torch.rand(())))
        low, high = self.share
        return merge_prefixes(base, texts, (low + (high - low) * torch.rand(len(texts))).tolist(), merges)


def merge_prefixes(base: BaseLM, texts: Sequence[str], shares: Sequence[float], merges: int | None) -> Sampled:
    """Merge the beginnings of a batch of texts, and leave what follows in base tokens.

    Args:
        base: Whose tokens they are.
        texts: The batch.
        shares: How much of each text's base tokens the prefix is, about: it ends where the tokenizer cuts.
        merges: At most so many pairs; None for all.
    """
    pieces, rows = base.pieces, [base.codec.vocabulary.encode(text).tolist() for text in texts]
    cuts = [_cut(pieces, text, row, share) for text, row, share in zip(texts, rows, shares, strict=True)]
    prefixes = [row[:cut] for row, cut in zip(rows, cuts, strict=True)]
    found = merge(prefixes, pieces.tokens, Rule("pretokens", pieces.pieces), merges)
    joined = [[*merged, *row[cut:]] for merged, row, cut in zip(found.rows, rows, cuts, strict=True)]
    return Sampled(found.added, joined, [len(row) for row in found.rows], False)


def _cut(pieces: Pieces, text: str, row: Sequence[int], share: float) -> int:
    """The number of tokens next to ``share`` of a row after which a piece begins."""
    if share == 1:
        return len(row)
    begins = set(accumulate(len(piece.encode("utf-8")) for piece in pieces.split(text)))
    ends = accumulate(len(pieces.tokens[i]) for i in row)
    places = [place for place, end in enumerate(ends, 1) if end in begins]
    return min(places, key=lambda place: abs(place - share * len(row)), default=0)


class SampledUnigram(Sampler):
    """A Unigram vocabulary of the substrings of the last texts.

    Args:
        size: Tokens N of a vocabulary, single bytes and white space among them.
        batches: Of the last texts that substrings are of; after a resumed run they are collected anew.
        longest: Bytes of a substring.
        stride: Substrings begin at every so manieth byte of a piece of text.
        noise: Median standard deviation of what is added to the probability of a token.
        spread: Standard deviation of its logarithm.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        size: int = 32768,
        batches: int = 16,
        longest: int = 15,
        stride: int = 4,
        noise: float = 1e-5,
        spread: float = 4.0,
    ) -> None:
        super().__init__()
        at_least(256 + longest, size=size)
        at_least(1, batches=batches, longest=longest, stride=stride)
        at_least(0, noise=noise, spread=spread)
        self.size, self.longest, self.stride, self.noise, self.spread = size, longest, stride, noise, spread
        self.recent: deque[Counter[bytes]] = deque(maxlen=batches - 1)

    def forward(self, texts: Sequence[str], base: BaseLM) -> Sampled:
        from tokenizers.models import Unigram

        cut = [[piece.encode("utf-8") for piece in base.pieces.split(text)] for text in texts]
        counts = Counter(piece for row in cut for piece in row)
        scores = self.vocabulary([*self.recent, counts])
        if self.training:
            self.recent.append(counts)
        model = Unigram([(_spelled(token), score) for token, score in scores.items()])
        first, known = len(base.pieces.tokens), {}
        for piece in {piece for row in cut for piece in row}:
            known[piece] = [first + token.id for token in model.tokenize(_spelled(piece))]
        rows = [[i for piece in row for i in known[piece]] for row in cut]
        return Sampled(list(scores), rows, [len(row) for row in rows], True)

    def vocabulary(self, batches: Sequence[Counter[bytes]]) -> dict[bytes, float]:
        """Tokens and their log-probabilities, drawn from the pieces of text of some batches."""
        weights: Counter[bytes] = Counter()
        for piece, count in sum(batches, Counter[bytes]()).items():
            for start in range(0, len(piece), self.stride):
                for end in range(start + 1, min(start + self.longest, len(piece)) + 1):
                    weights[piece[start:end]] += count * (end - start)
        tokens, values = list(weights), np.array(list(weights.values()), dtype=np.float64)
        std = self.noise * math.exp(self.spread * float(torch.randn(())))
        values = values / max(values.sum(), 1.0) + std * torch.randn(len(values), dtype=torch.float64).numpy()
        kept = {tokens[i]: float(np.log(values[i])) for i in np.argsort(-values) if values[i] > 0}
        worst = min(kept.values(), default=0.0)
        always = [bytes([b]) for b in range(256)] + [b" " * n for n in range(2, self.longest + 1)]
        chosen = {token: kept.get(token, worst) for token in always}
        for token, score in kept.items():
            if len(chosen) >= self.size:
                break
            chosen[token] = score
        return chosen


def _spelled(token: bytes) -> str:
    return "".join([ALPHABET[byte] for byte in token])
