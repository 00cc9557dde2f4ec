"""Tasks whose symbols mean nothing beforehand: substitution ciphers, look-up and permutation by example.

The evaluations of Huang et al., "Lexinvariant Language Models", NeurIPS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

ALPHABET = "abcdefghijklmnopqrstuvwxyz "


@dataclass(frozen=True)
class Task:
    """Sequences and what of them is asked for.

    Args:
        ids: ``[B, L]``.
        answers: Which of them follow from what stands before, bool ``[B, L]``.
    """

    ids: Tensor
    answers: Tensor

    def accuracy(self, logits: Tensor) -> float:
        """Share of answers that are the likeliest, by logits ``[B, L, V]`` of each id given those before it."""
        return float((logits.argmax(dim=-1) == self.ids)[self.answers].double().mean())


def lookup(batch: int, pairs: int, queries: int, symbols: int, generator: torch.Generator) -> Task:
    """Keys and their values, then keys again: the values are asked for.

    Raises:
        ValueError: If there are fewer symbols than keys.
    """
    if not 1 <= pairs <= symbols or queries < 1:
        raise ValueError(
            f"pairs must be 1 to {symbols}, as many as symbols, and queries 1 or more, got {pairs}, {queries}"
        )
    keys = _distinct(batch, symbols, generator)[:, :pairs]
    values = torch.randint(symbols, (batch, pairs), generator=generator)
    which = torch.cat(
        [torch.arange(pairs).expand(batch, -1), torch.randint(pairs, (batch, queries), generator=generator)], dim=1
    )
    ids = torch.stack([keys.gather(1, which), values.gather(1, which)], dim=-1).flatten(1)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    answers[:, 2 * pairs + 1 :: 2] = True
    return Task(ids, answers)


def permute(batch: int, length: int, examples: int, symbols: int, generator: torch.Generator) -> Task:
    """Words of distinct symbols, each followed by itself in another order, the same order throughout: from the second word on the
    reordered ones are asked for.

    Raises:
        ValueError: If there are fewer symbols than a word has, or fewer than two examples.
    """
    if not 2 <= length <= symbols or examples < 2:
        raise ValueError(f"length must be 2 to {symbols} and examples 2 or more, got {length}, {examples}")
    order = _distinct(batch, length, generator)
    parts = []
    for _ in range(examples):
        word = _distinct(batch, symbols, generator)[:, :length]
        parts += [word, word.gather(1, order)]
    ids = torch.cat(parts, dim=1)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    for example in range(1, examples):
        start = 2 * length * example + length
        answers[:, start : start + length] = True
    return Task(ids, answers)


def repeated_words(batch: int, words: int, length: int, count: int, symbols: int, generator: torch.Generator) -> Tensor:
    """Sequences ``[batch, count * length]`` of a few random words, again and again: what is easy to learn within a sequence."""
    found = torch.randint(symbols, (batch, words, length), generator=generator)
    which = torch.randint(words, (batch, count), generator=generator)
    return found.gather(1, which[..., None].expand(-1, -1, length)).flatten(1)


def plain_ids(text: str, alphabet: str = ALPHABET) -> Tensor:
    """A text's letters as places in an alphabet, in lower case where that has no capitals; runs of what is not in it, and of
    white space, become one space.

    Raises:
        ValueError: If the alphabet has no space, or a letter twice.
    """
    if " " not in alphabet or len(set(alphabet)) < len(alphabet):
        raise ValueError(f"alphabet must be different letters, a space among them, got {alphabet!r}")
    places = {letter: place for place, letter in enumerate(alphabet)}
    text = text.lower() if alphabet == alphabet.lower() else text
    words = "".join(c if c in places else " " for c in text).split()
    return torch.tensor([places[c] for c in " ".join(words)], dtype=torch.int64)


def cipher(plain: Tensor, symbols: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Plain ids ``[B, L]`` with each sequence's symbols replaced by others.

    Returns:
        Ids ``[B, L]``, and the keys ``[B, V]``: the plain symbol of each cipher symbol.
    """
    there = _distinct(len(plain), symbols, generator)
    return there.gather(1, plain), there.argsort(dim=1)


class KeyProbe:
    """Reads the key of a cipher off a model's states, by one linear layer.

    Args:
        states: ``[B, L, D]`` of ciphered texts, to learn from.
        plain: What they stand for, ``[B, L]``.
        symbols: V.
        ridge: Weight of the penalty on the layer's weights.
        balanced: Whether rare symbols weigh as much as frequent ones.
    """

    def __init__(
        self, states: Tensor, plain: Tensor, symbols: int, ridge: float = 1.0, *, balanced: bool = False
    ) -> None:
        x = self._with_one(states).flatten(0, 1)
        y = F.one_hot(plain.flatten(), symbols).double()
        weights = torch.ones(symbols, dtype=x.dtype)
        if balanced:
            weights = len(y) / symbols / y.sum(dim=0).clamp(min=1)
        weighted = x * weights[plain.flatten()][:, None]
        penalty = ridge * torch.eye(x.shape[1], dtype=x.dtype)
        self.weight = torch.linalg.solve(weighted.T @ x + penalty, weighted.T @ y)

    @classmethod
    def of(cls, weight: Tensor) -> KeyProbe:
        """A probe that was learned before, by its ``weight [D + 1, V]``."""
        probe = cls.__new__(cls)
        probe.weight = weight.double()
        return probe

    def scores(self, states: Tensor, ids: Tensor) -> Tensor:
        """How much speaks for each plain symbol, averaged over the places of a cipher symbol, ``[B, cipher, plain]``; 0 for
        cipher symbols that do not occur."""
        scores = self._with_one(states) @ self.weight
        total = torch.zeros(len(ids), scores.shape[-1], scores.shape[-1], dtype=scores.dtype)
        total.scatter_add_(1, ids[..., None].expand_as(scores), scores)
        return total / occurrences(ids, scores.shape[-1]).clamp(min=1)[..., None]

    def keys(self, states: Tensor, ids: Tensor) -> Tensor:
        """The likeliest plain symbol of each cipher symbol of each text, ``[B, V]``; -1 for those that do not occur."""
        scores = self.scores(states, ids)
        return scores.argmax(dim=-1).where(occurrences(ids, scores.shape[-1]) > 0, -1)

    def accuracy(self, states: Tensor, ids: Tensor, keys: Tensor) -> float:
        """Share of the cipher symbols that occur whose plain symbol is found."""
        return key_accuracy(self.keys(states, ids), keys)

    @staticmethod
    def _with_one(states: Tensor) -> Tensor:
        states = states.detach().double().cpu()
        return torch.cat([states, torch.ones(*states.shape[:-1], 1, dtype=torch.float64)], dim=-1)


def occurrences(ids: Tensor, symbols: int) -> Tensor:
    """How often each symbol occurs in each text: ids ``[B, L]`` to ``[B, V]``."""
    return torch.zeros(len(ids), symbols, dtype=torch.int64).scatter_add_(1, ids, torch.ones_like(ids))


def key_accuracy(found: Tensor, keys: Tensor) -> float:
    """Share of the cipher symbols with the right plain symbol, of keys ``[B, V]``; -1 are those that do not occur."""
    return float((found == keys)[found >= 0].double().mean())


def frequency_keys(ids: Tensor, counts: Tensor) -> Tensor:
    """Keys ``[B, V]`` that match symbols by how frequent they are: what a model of texts has to beat.

    Args:
        ids: Ciphered texts ``[B, L]``.
        counts: How often each plain symbol occurs in other texts, ``[V]``.
    """
    found = occurrences(ids, len(counts))
    rank = found.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return counts.argsort(descending=True)[rank].where(found > 0, -1)


def one_to_one(scores: Tensor, ids: Tensor) -> Tensor:
    """Keys ``[B, V]`` without two cipher symbols for one plain symbol, of the largest total score.

    Args:
        scores: As of :meth:`KeyProbe.scores`.
        ids: Ciphered texts ``[B, L]``.
    """
    found = torch.full(scores.shape[:2], -1)
    for row, score, count in zip(found, scores, occurrences(ids, scores.shape[1]), strict=True):
        present = count.nonzero()[:, 0]
        which, plain = linear_sum_assignment(score[present].numpy(), maximize=True)
        row[present[torch.from_numpy(which)]] = torch.from_numpy(plain)
    return found


def _distinct(batch: int, symbols: int, generator: torch.Generator) -> Tensor:
    """A random order of all symbols for each row."""
    return torch.rand(batch, symbols, generator=generator).argsort(dim=1)
