"""Numbers as few bytes: varints, deflate, and the three codings of a codebook's ids that a ``.mmt`` file chooses from.

The entropy coder is constriction's 64-bit ANS (Bamler, "Understanding Entropy Coding With Asymmetric Numeral Systems",
2022) with 32-bit words and probabilities in units of 2^-24. Its model is integers from end to end: counts are stored
rounded to 4 significant bits, scaled by integer division, and given to constriction as whole numbers for which its own
fixed-point conversion is exact (see :func:`whole_model`), so that no rounding mode, math library or machine can make
two readers differ.
"""

from __future__ import annotations

import zlib

import numpy as np
from constriction import stream

PACKED, UNIFORM, COUNTED = range(3)
TOTAL = 2**24  # of which constriction's default coders count probabilities
_MAX_UNIFORM = 2**20  # entries of a codebook that the uniform coding takes: above, 2^-24 is too coarse to gain a bit
_MAX_SYMBOLS = 2**16  # distinct ids of a counted column
_BLOCK = 2**16  # numbers handled at once, which bounds temporaries; a multiple of 8, so that packed blocks end on bytes


class BitstreamError(ValueError):
    """The bytes are no intact ``.mmt`` file, or the tokens hold something that the format cannot."""


class Reader:
    """A cursor over bytes that refuses to run past their end and allocates nothing that they do not back."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data, self.at = memoryview(data), 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self.left:
            raise BitstreamError(f"{count} bytes wanted where {self.left} are left")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def varints(self, count: int) -> np.ndarray:
        """The next ``count`` numbers that :func:`varints` wrote, int64."""
        if count > self.left:
            raise BitstreamError(f"{count} numbers wanted where {self.left} bytes are left")
        values = np.zeros(count, dtype=np.int64)
        for i in range(0, count, _BLOCK):
            block = values[i : i + _BLOCK]
            window = np.frombuffer(self.data[self.at : self.at + 9 * len(block)], dtype=np.uint8)
            ends = np.flatnonzero(window < 128)[: len(block)] + 1
            lengths = np.diff(ends, prepend=0)
            if len(ends) < len(block) or lengths.max() > 9:
                raise BitstreamError("a number runs past the end or is longer than 9 bytes")
            for k in range(lengths.max()):
                has = lengths > k
                block[has] |= (window[(ends - lengths)[has] + k].astype(np.int64) & 127) << 7 * k
            self.at += int(ends[-1])
        return values

    def number(self, most: int = 2**62) -> int:
        """One number of at most ``most``."""
        value = int(self.varints(1)[0])
        if value > most:
            raise BitstreamError(f"a number must be at most {most}, got {value}")
        return value

    def inflate(self, most: int, dictionary: bytes = b"") -> Reader:
        """A reader of the next deflated part, which may unfold to ``most`` bytes."""
        coder = zlib.decompressobj(-15, zdict=dictionary)
        data = coder.decompress(self.take(self.number()), most)
        if not coder.eof or coder.unused_data:
            raise BitstreamError(f"a deflated part is damaged or longer than {most} bytes")
        return Reader(data)

    def finish(self) -> None:
        """Refuse bytes that nothing has read."""
        if self.left:
            raise BitstreamError(f"{self.left} bytes too many")


def varints(values: np.ndarray | int) -> bytes:
    """Numbers from 0 to 2^63 - 1, 7 bits per byte, lowest first; the top bit says that the number goes on."""
    values = np.asarray(values, dtype=np.int64).reshape(-1)
    lengths = np.ones(len(values), dtype=np.int64)
    for k in range(1, 9):
        lengths += values >> 7 * k > 0
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for k in range(lengths.max(initial=0)):
        has = lengths > k
        out[starts[has] + k] = values[has] >> 7 * k & 127 | (lengths[has] > k + 1) << 7
    return out.tobytes()


def with_length(data: bytes) -> bytes:
    """Bytes after their count."""
    return varints(len(data)) + data


def deflate(data: bytes, dictionary: bytes = b"") -> bytes:
    """Inverse of :meth:`Reader.inflate`."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=dictionary)
    return with_length(coder.compress(data) + coder.flush())


def write_column(ids: np.ndarray, size: int) -> bytes:
    """The ids of one codebook of ``size`` entries, int64 ``[N]``, in the smallest of the three codings."""
    width = (size - 1).bit_length()
    blocks = [bytes([PACKED]) + _pack(ids, width)]
    if len(ids) and size <= _MAX_UNIFORM and size != 1 << width:
        blocks.append(bytes([UNIFORM]) + with_length(_encode(ids, stream.model.Uniform(size))))
    if len(ids) and size > 1:
        symbols, ranks, counts = np.unique(ids, return_inverse=True, return_counts=True)
        if len(symbols) <= _MAX_SYMBOLS:
            rounded = _round_counts(counts)
            model = deflate(varints(len(symbols)) + varints(np.diff(symbols, prepend=0)) + rounded.tobytes())
            coded = _encode(ranks, _counted_model(rounded)) if len(symbols) > 1 else b""
            blocks.append(bytes([COUNTED]) + model + with_length(coded))
    return min(blocks, key=len)


def read_column(reader: Reader, count: int, size: int) -> np.ndarray:
    """Inverse of :func:`write_column`: ``count`` ids as integers ``[N]``; packed ids may exceed ``size``.

    The caller bounds ``count``: a column that holds one id only costs no bits, however long it is.
    """
    coding = reader.take(1)[0]
    if coding == PACKED:
        width = (size - 1).bit_length()
        return _unpack(reader.take(-(-count * width // 8)), count, width)
    if coding == UNIFORM and 2 <= size <= _MAX_UNIFORM:
        return _decode(reader.take(reader.number()), count, stream.model.Uniform(size))
    if coding != COUNTED:
        raise BitstreamError(f"coding {coding} is not one for a codebook of {size}")
    model = reader.inflate(10 * _MAX_SYMBOLS + 9)
    used = model.number(_MAX_SYMBOLS)
    symbols = np.cumsum(model.varints(used))  # a sum past 2^63 wraps to a negative one, refused below
    rounded = np.frombuffer(model.take(used), dtype=np.uint8)
    model.finish()
    coded = reader.take(reader.number())
    if not used or symbols.min() < 0 or symbols.max() >= size or (np.diff(symbols) < 1).any() or not rounded.all():
        raise BitstreamError(f"the model of a codebook of {size} is malformed")
    if used == 1 and not coded:
        return np.broadcast_to(symbols, (count,))
    return symbols[_decode(coded, count, _counted_model(rounded))]


def whole_model(weights: np.ndarray) -> stream.model.Categorical:
    """The model of n symbols in which symbol i has the probability ``(weights[i] + 1) / TOTAL``, exactly.

    constriction gives symbol i, with float weights w, the quantiles from ``i + floor((w_0 + ... + w_{i-1}) * s)`` where
    ``s = (2^24 - n) / sum(w)``. Here all w are whole and sum to 2^24 - n, so each of those operations is exact.

    Args:
        weights: Whole numbers, 0 and above, ``[n >= 2]``, that sum to ``TOTAL - n``.
    """
    return stream.model.Categorical(weights.astype(np.float64), perfect=False)


def _pack(ids: np.ndarray, width: int) -> bytes:
    blocks = (ids[i : i + _BLOCK].astype(">u8").view(np.uint8) for i in range(0, len(ids) if width else 0, _BLOCK))
    return b"".join(np.packbits(np.unpackbits(b).reshape(-1, 64)[:, 64 - width :]).tobytes() for b in blocks)


def _unpack(data: bytes, count: int, width: int) -> np.ndarray:
    ids = np.zeros(count, dtype=np.int64)
    for i in range(0, count if width else 0, _BLOCK):
        n = min(_BLOCK, count - i)
        block = np.frombuffer(data, dtype=np.uint8)[i * width // 8 : -(-(i + n) * width // 8)]
        bits = np.zeros((n, 64), dtype=np.uint8)
        bits[:, 64 - width :] = np.unpackbits(block, count=n * width).reshape(n, width)
        ids[i : i + n] = np.packbits(bits).view(">u8")
    return ids


def _encode(symbols: np.ndarray, model: stream.model.Model) -> bytes:
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(symbols.astype(np.int32), model)
    return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")  # the last word is never 0


def _decode(data: bytes, count: int, model: stream.model.Model) -> np.ndarray:
    words = np.frombuffer(data + bytes(-len(data) % 4), dtype="<u4").astype(np.uint32)
    coder = stream.stack.AnsCoder(words)
    symbols = coder.decode(model, count)
    if not coder.is_empty():
        raise BitstreamError("entropy-coded ids do not end where they should")
    return symbols


def _round_counts(counts: np.ndarray) -> np.ndarray:
    """Counts in one byte each, rounded down to 4 significant bits (which costs about 0.001 bits per id)."""
    shift = np.maximum(np.frexp(counts.astype(np.float64))[1] - 4, 0)
    return np.minimum(8 * shift + (counts >> shift), 255).astype(np.uint8)


def _counted_model(rounded: np.ndarray) -> stream.model.Categorical:
    """The model of rounded counts: probabilities that are whole multiples of 2^-24, at least one for each symbol."""
    code = rounded.astype(np.int64)
    shift = np.maximum(code // 8 - 1, 0)
    counts = (code - 8 * shift) << shift
    free = TOTAL - len(counts)
    weights = counts * free // counts.sum()
    weights[np.argmax(counts)] += free - weights.sum()
    return whole_model(weights)
