"""Tasks whose symbols mean nothing beforehand: substitution ciphers, look-up and permutation by example.

The evaluations of Huang et al., "Lexinvariant Language Models", NeurIPS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    """A text's letters as places in an alphabet, in lower case; runs of what is not in it become one space.

    Raises:
        ValueError: If the alphabet has no space.
    """
    if " " not in alphabet:
        raise ValueError(f"alphabet must hold a space, which stands for all that is not in it, got {alphabet!r}")
    words = "".join(c if c in alphabet else " " for c in text.lower()).split()
    return torch.tensor([alphabet.index(c) for c in " ".join(words)], dtype=torch.int64)


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
    """

    def __init__(self, states: Tensor, plain: Tensor, symbols: int, ridge: float = 1.0) -> None:
        x = self._with_one(states).flatten(0, 1)
        y = torch.nn.functional.one_hot(plain.flatten(), symbols).double()
        penalty = ridge * torch.eye(x.shape[1], dtype=x.dtype)
        self.weight = torch.linalg.solve(x.T @ x + penalty, x.T @ y)

    def keys(self, states: Tensor, ids: Tensor) -> Tensor:
        """The likeliest plain symbol of each cipher symbol of each text, ``[B, V]``; -1 for those that do not occur."""
        scores = self._with_one(states) @ self.weight
        total = torch.zeros(len(ids), scores.shape[-1], scores.shape[-1], dtype=scores.dtype)
        total.scatter_add_(1, ids[..., None].expand_as(scores), scores)
        occurs = torch.zeros(len(ids), scores.shape[-1], dtype=torch.bool).scatter(1, ids, True)
        return total.argmax(dim=-1).where(occurs, -1)  # sums rank as means do

    def accuracy(self, states: Tensor, ids: Tensor, keys: Tensor) -> float:
        """Share of the cipher symbols that occur whose plain symbol is found."""
        found = self.keys(states, ids)
        return float((found == keys)[found >= 0].double().mean())

    @staticmethod
    def _with_one(states: Tensor) -> Tensor:
        states = states.detach().double().cpu()
        return torch.cat([states, torch.ones(*states.shape[:-1], 1, dtype=torch.float64)], dim=-1)


def _distinct(batch: int, symbols: int, generator: torch.Generator) -> Tensor:
    """A random order of all symbols for each row."""
    return torch.rand(batch, symbols, generator=generator).argsort(dim=1)
