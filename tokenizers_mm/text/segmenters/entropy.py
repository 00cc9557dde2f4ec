"""Patches of the Byte Latent Transformer: a new one begins where a small language model of bytes is unsure of what comes.

Pagnoni et al., "Byte Latent Transformer: Patches Scale Better Than Tokens", 2024. Its model is a transformer; ours counts (see
:mod:`tokenizers_mm.text.ngram`), so that patches are the same in pieces and as a whole, and its threshold is calibrated on the
texts that it learned from and stored with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tokenizers_mm.text.language_models import shipped
from tokenizers_mm.text.ngram import ORDERS
from tokenizers_mm.text.segmenters.base import Segmenter, SegmentStream, cut_long


class Entropy(Segmenter):
    """A patch begins at bytes 0 and 1, and at each byte before which the entropy is above a threshold.

    Args:
        model: Name of a shipped model, or its folder.
        threshold: In nats; by default the model's own.
        max_bytes: Longest patch (see :class:`Segmenter`).
    """

    def __init__(
        self, model: str | Path = "byte-ngram", threshold: float | None = None, max_bytes: int | None = None
    ) -> None:
        super().__init__(max_bytes)
        self.model = shipped(str(model))
        self.threshold = self.model.threshold if threshold is None else threshold

    def word_starts(self, data: bytes) -> np.ndarray:
        starts = self.settled(data)[0]
        return starts[starts < len(data)]

    def settled(self, data: bytes) -> tuple[np.ndarray, int]:
        unsure = self.unsure(data)
        unsure[:1] = True
        return np.concatenate([[0], np.flatnonzero(unsure) + 1]), len(data)

    def restart(self, data: bytes, starts: np.ndarray) -> int:
        return 0  # what comes depends on the bytes before

    def unsure(self, data: bytes, before: bytes = b"") -> np.ndarray:
        """Whether a patch ends after each byte, bool ``[N]``, given what was ``before`` the first."""
        return self.model.entropies(data, before) > self.threshold

    def stream(self) -> SegmentStream:
        return _Stream(self)


class _Stream(SegmentStream):
    """Keeps the open patch, and as many bytes before what comes next as the model looks at."""

    segmenter: Entropy

    def __init__(self, segmenter: Entropy) -> None:
        super().__init__(segmenter)
        self._before: bytes | None = None

    def push(self, data: bytes | int) -> list[bytes]:
        data = bytes([data]) if isinstance(data, int) else data
        if not data:
            return []
        unsure = self.segmenter.unsure(data, self._before or b"")
        unsure[0] |= self._before is None
        starts = np.concatenate([[0], np.flatnonzero(unsure) + 1 + len(self._kept)])
        self._kept += data
        self._before = ((self._before or b"") + data)[-ORDERS:]
        if self.segmenter.max_bytes is not None:
            starts = cut_long(self._kept, starts, len(self._kept), self.segmenter.max_bytes)
        words = self._emit(starts[1:])
        self._kept, self._done = self.open, 0
        return words

    def flush(self) -> list[bytes]:
        words = [self._kept] if self._kept else []
        self._kept, self._done, self._before = b"", 0, None
        return words
