"""A language model of bytes as an entropy coder: files that take what the model says that they take, to a few bytes.

Range coding (Martin, "Range encoding: an algorithm for removing redundancy from a digitised message", 1979) through constriction.
"""

from __future__ import annotations

from typing import Protocol

import constriction
import numpy as np

from tokenizers_mm.coding import BitstreamError, Reader, varints

_FAMILY = constriction.stream.model.Categorical(perfect=False)
_LONGEST = 2**30
_ROWS = 4096  # probabilities held at a time


class NextByte(Protocol):
    """A text that goes on, and a model of it: what any language model of bytes has to say to code texts."""

    def probabilities(self) -> np.ndarray:
        """Probability of each byte that may come next, float64 ``[256]``, none of them 0; the same for the same text."""

    def push(self, byte: int) -> None:
        """Add the byte that came."""


class Model(Protocol):
    """A language model of bytes."""

    def start(self) -> NextByte:
        """An empty text."""


def compress(data: bytes, model: Model) -> bytes:
    """Bytes coded by a model."""
    encoder, text = constriction.stream.queue.RangeEncoder(), model.start()
    values = np.frombuffer(data, dtype=np.uint8).astype(np.int32)
    for start in range(0, len(values), _ROWS):
        part = values[start : start + _ROWS]
        rows = np.empty((len(part), 256))
        for row, byte in zip(rows, part.tolist(), strict=True):
            row[:] = text.probabilities()
            text.push(byte)
        encoder.encode(part, _FAMILY, rows)
    return varints(len(data)) + encoder.get_compressed().astype("<u4").tobytes()


def decompress(coded: bytes, model: Model) -> bytes:
    """What :func:`compress` was given, with the same model.

    Raises:
        BitstreamError: If the bytes are damaged.
    """
    reader = Reader(memoryview(coded))
    length = reader.number(_LONGEST)
    rest = bytes(reader.take(reader.left))
    if len(rest) % 4:
        raise BitstreamError(f"coded text must be whole words of 4 bytes, got {len(rest)} bytes")
    decoder, text = (
        constriction.stream.queue.RangeDecoder(np.frombuffer(rest, dtype="<u4").astype(np.uint32)),
        model.start(),
    )
    out = bytearray()
    for _ in range(length):
        try:
            byte = int(decoder.decode(constriction.stream.model.Categorical(text.probabilities(), perfect=False)))
        except AssertionError as error:
            raise BitstreamError(f"damaged: {error}") from None
        text.push(byte)
        out.append(byte)
    return bytes(out)
