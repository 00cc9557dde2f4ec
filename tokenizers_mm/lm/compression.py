"""A language model of tokens as the entropy coder of their ids: files take what the model says that they take, to a few bytes.

Delétang et al., "Language Modeling Is Compression", ICLR 2024; range coding through constriction. Frequencies are whole numbers,
at least one for each id, so that none is impossible; they are made from predictions one id at a time, by the same operations when
writing and when reading. What a model computes from sums and products of tables (:mod:`tokenizers_mm.lm.ngram`) reads anywhere; a
network's files open where its arithmetic comes out bit for bit the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
from constriction import stream

from tokenizers_mm.coding import TOTAL, BitstreamError, whole_model
from tokenizers_mm.lm.document_model import predictor
from tokenizers_mm.lm.predicts import Predicts
from tokenizers_mm.threads import one_thread
from tokenizers_mm.tokens import Tokens, TokenSpec

UNNAMED = "weights:"
"""Begins the name that files give to a model that does not ship; the start of its fingerprint follows."""
_MAX_SIZE = 2**20  # entries of a codebook: above, a frequency of one each leaves too little for the likely ones


class LMCoder:
    """Codes ids as a language model predicts them.

    Args:
        model: The model.
        name: What files say of it; by default :data:`UNNAMED` with the start of its fingerprint.
    """

    def __init__(self, model: Predicts, name: str | None = None) -> None:
        self.model, self.fingerprint = model, model.fingerprint
        self.name = name or UNNAMED + self.fingerprint[:16]

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """A coder by the name of a model that ships, or by its folder.

        Raises:
            FileNotFoundError, ValueError: As :func:`tokenizers_mm.language_models.load_lm`.
            TypeError: If the model is of something else than codecs' tokens.
        """
        from tokenizers_mm.language_models import list_lms, load_lm  # above: what is found by name

        ships = not Path(source).is_dir() and str(source) in list_lms()
        return cls(predictor(load_lm(source)), str(source) if ships else None)

    def encode(self, tokens: Tokens) -> bytes:
        """Range coder words for all ids, item after item, little-endian.

        Raises:
            ValueError: If the model knows no such tokens, or a codebook is too large.
        """
        coder = stream.queue.RangeEncoder()

        def code(weights: np.ndarray, known: int) -> int:
            coder.encode(known, whole_model(weights))
            return known

        for item in tokens:
            self._walk(item.spec, tuple(item.shapes[0].tolist()), item.ids[0].flatten().tolist(), code)
        return coder.get_compressed().astype("<u4").tobytes()

    def decode(self, data: bytes, spec: TokenSpec, shapes: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`encode` for items of grids ``shapes`` ``[B, A]``: int64 ``[B, T, Q]``, 0 in the padding.

        Raises:
            BitstreamError: If the words are damaged.
            ValueError: If the model knows no such tokens.
        """
        if len(data) % 4:
            raise BitstreamError(f"predicted ids must be whole words of 4 bytes, got {len(data)} bytes")
        decoder = stream.queue.RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))

        def code(weights: np.ndarray, _: int) -> int:
            try:
                return int(decoder.decode(whole_model(weights)))
            except AssertionError as error:
                raise BitstreamError(f"predicted ids are damaged: {error}") from None

        lengths = shapes.prod(axis=1)
        ids = np.zeros((len(shapes), lengths.max(initial=0), spec.num_codebooks), dtype=np.int64)
        for row, shape, steps in zip(ids, shapes.tolist(), lengths.tolist(), strict=True):
            known = self._walk(spec, tuple(shape), [0] * (steps * spec.num_codebooks), code)
            row[:steps] = np.reshape(known, (steps, spec.num_codebooks))
        if not decoder.maybe_exhausted():
            raise BitstreamError("predicted ids do not end where they should")
        return ids

    def ideal_bits(self, tokens: Tokens) -> float:
        """Bits of all ids under the frequencies that the coder uses."""
        found = []

        def code(weights: np.ndarray, known: int) -> int:
            found.append(math.log2(TOTAL) - math.log2(weights[known] + 1))
            return known

        for item in tokens:
            self._walk(item.spec, tuple(item.shapes[0].tolist()), item.ids[0].flatten().tolist(), code)
        return math.fsum(found)

    def _walk(
        self, spec: TokenSpec, shape: tuple[int, ...], ids: list[int], code: Callable[[np.ndarray, int], int]
    ) -> list[int]:
        """Go through one item in the model's order, replacing each id by what ``code`` makes of its weights and itself."""
        if max(spec.codebook_sizes) > _MAX_SIZE:
            raise ValueError(f"codebooks must have at most {_MAX_SIZE} entries, got {spec.codebook_sizes}")
        state = self.model.start(spec, shape)
        with one_thread():
            for place in self.model.coding_order(spec, shape).tolist():
                size = spec.codebook_sizes[place % spec.num_codebooks]
                ids[place] = code(whole_weights(state.probabilities(), size), ids[place]) if size > 1 else 0
                state.push(ids[place])
        return ids


@functools.lru_cache(maxsize=2)
def shipped_coder(name: str) -> LMCoder:
    """The coder that a file names, loaded once, if its model ships; no other folder is opened, whatever the name.

    Raises:
        BitstreamError: If it does not.
    """
    from tokenizers_mm import registry  # above: what is found by name
    from tokenizers_mm.language_models import list_lms, load_lm

    if name not in list_lms():
        raise BitstreamError(
            f"its ids are coded with the language model {name!r}, which does not ship: give its folder as lm"
        )
    return LMCoder(predictor(load_lm(registry.data_path("checkpoints") / name)), name)


def whole_weights(probabilities: np.ndarray, size: int) -> np.ndarray:
    """Whole numbers that sum to ``TOTAL - size`` as nearly in proportion to probabilities as is, the rest for the likeliest.

    Raises:
        ValueError: If these are not ``size`` probabilities.
    """
    if probabilities.shape != (size,) or probabilities.dtype != np.float64:
        raise ValueError(f"probabilities must be float64 [{size}], got {probabilities.dtype} {probabilities.shape}")
    if not (probabilities.min() >= 0 and abs(probabilities.sum() - 1) < 1e-9):  # NaN fails, too
        raise ValueError(f"probabilities must be 0 or more and sum to 1, got a sum of {probabilities.sum()}")
    free = TOTAL - size
    weights = np.floor(probabilities * free)
    weights[probabilities.argmax()] += free - weights.sum()
    return weights
