"""What texts go through before a codec or a language model meets them: spelling mistakes, and upper case.

The perturbations of "Hierarchical Autoregressive Transformers" (Neitemeier et al., ICLR 2025): 10 % of the characters of each
word are permuted, replaced or deleted. Details that the paper leaves open are ours: at least one change in words of three letters
or more; words with digits, and shorter ones, stay.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from tokenizers_mm.evaluation.condition import Condition

SHARE = 0.1  # of a word's characters
_WORD = re.compile(r"[^\W_]+")
Change = Callable[[list[str], int, random.Random, Sequence[str]], list[str]]


def perturbed(text: str, change: Change, seed: int) -> str:
    """A text with changed words; the same for the same seed.

    Args:
        text: The text.
        change: :func:`permute`, :func:`replace` or :func:`delete`.
        seed: Of the chance.
    """
    chance = random.Random(seed)
    letters = sorted({c for c in text if c.isalpha()}) or ["a"]

    def word(match: re.Match[str]) -> str:
        old = match[0]
        if len(old) < 3 or not old.isalpha():
            return old
        return "".join(change(list(old), max(1, round(SHARE * len(old))), chance, letters))

    return _WORD.sub(word, text)


def permute(word: list[str], count: int, chance: random.Random, letters: Sequence[str]) -> list[str]:
    """Swap neighbours ``count`` times."""
    for _ in range(count):
        at = chance.randrange(len(word) - 1)
        word[at], word[at + 1] = word[at + 1], word[at]
    return word


def replace(word: list[str], count: int, chance: random.Random, letters: Sequence[str]) -> list[str]:
    """Put random letters of the text in the place of ``count`` characters."""
    for at in chance.sample(range(len(word)), count):
        word[at] = chance.choice(letters)
    return word


def delete(word: list[str], count: int, chance: random.Random, letters: Sequence[str]) -> list[str]:
    """Leave ``count`` characters out."""
    gone = set(chance.sample(range(len(word)), count))
    return [c for at, c in enumerate(word) if at not in gone]


PERTURBATIONS: dict[str, Callable[[str, int], str]] = {
    "permute": lambda text, seed: perturbed(text, permute, seed),
    "replace": lambda text, seed: perturbed(text, replace, seed),
    "delete": lambda text, seed: perturbed(text, delete, seed),
    "upper": lambda text, seed: text.upper(),
}
"""Of a text, by a seed."""

_HOW = "in 10 % of the characters of each word (at least one from 3 letters on, none in words with digits)"
_DESCRIBED = {
    "permute": ("permuted", f"Neighbouring characters swapped {_HOW}."),
    "replace": ("replaced", f"Random letters of the text {_HOW}."),
    "delete": ("deleted", f"Characters left out {_HOW}."),
    "upper": ("upper case", "All letters in upper case."),
}


def _condition(key: str) -> Condition:
    return Condition(*_DESCRIBED[key], lambda text, spec, generator: PERTURBATIONS[key](text, generator.initial_seed()))


CONDITIONS: dict[str, Condition] = {key: _condition(key) for key in PERTURBATIONS}
