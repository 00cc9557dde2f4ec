"""What a model of tokens has to say to be sampled, scored and used as an entropy coder: the next id of one item, repeatedly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from tokenizers_mm.tokens import Tokens, TokenSpec


class Prediction(Protocol):
    """One item as far as it is known, and what comes next in its model's order."""

    def probabilities(self) -> np.ndarray:
        """Probability of each id of the next one's codebook, float64 ``[K]``; the same for the same ids on the same machine."""

    def push(self, code: int) -> None:
        """Add the id that came."""


@runtime_checkable
class Predicts(Protocol):
    """A model of the ids of an item, one after the other in an order that depends on the item's grid alone."""

    def coding_order(self, spec: TokenSpec, shape: Sequence[int]) -> np.ndarray:
        """Which id comes when: places ``step * Q + column``, int64 ``[T * Q]``, each once.

        Raises:
            ValueError: If the model knows no tokens of that spec.
        """

    def start(self, spec: TokenSpec, shape: Sequence[int]) -> Prediction:
        """An item of a grid ``shape`` of which nothing is known."""

    def nll(self, tokens: Tokens) -> Tensor:
        """Nats of each id given those before it, float64 ``[B, T, Q]``; 0 in the padding."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that the predictions depend on, but for library versions."""

    @property
    def num_parameters(self) -> int:
        """How many numbers the model was trained to: weights, or counts."""
