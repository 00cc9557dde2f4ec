"""The arithmetic coder of ``.ecdc`` files: an interval of whole numbers that shrinks with each symbol.

Rissanen and Langdon, "Arithmetic Coding" (1979). EnCodec's program computes it with
floating-point quotients; all of its numbers stay below 2^53, so these whole ones give the same bits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from tokenizers_mm.coding import BitstreamError

TOTAL_BITS = 24


class _Interval:
    """Where the number lies that the bits spell: ``[low, low + width)`` in ``bits`` bits that are not settled yet."""

    def __init__(self) -> None:
        self.low, self.high, self.bits = 0, 0, 0

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    def double(self) -> None:
        """One bit more of resolution."""
        self.low, self.high, self.bits = 2 * self.low, 2 * self.high + 1, self.bits + 1

    def narrow(self, start: int, end: int) -> None:
        """Keep the share ``[start, end)`` of ``2 ** TOTAL_BITS``."""
        width = self.width
        self.high = self.low + ((end - 1) * width >> TOTAL_BITS)
        self.low += -(-start * width >> TOTAL_BITS)

    def settle(self) -> int | None:
        """The leading bit, taken off, if it is the same all over the interval; else None."""
        if self.bits == 0 or (bit := self.low >> (self.bits - 1)) != self.high >> (self.bits - 1):
            return None
        self.bits -= 1
        self.low, self.high = self.low - (bit << self.bits), self.high - (bit << self.bits)
        return bit


class ArithmeticEncoder:
    """Symbols to bits: :meth:`push` each with its distribution, then take :meth:`finish`."""

    def __init__(self) -> None:
        self.interval = _Interval()
        self.out: list[int] = []

    def push(self, symbol: int, cdf: Sequence[int]) -> None:
        """Code one symbol.

        Args:
            symbol: Its number.
            cdf: Ends of all symbols' ranges, at most ``2 ** 24`` together.
        """
        while self.interval.width < 1 << TOTAL_BITS:
            self.interval.double()
        self.interval.narrow(cdf[symbol - 1] if symbol else 0, cdf[symbol])
        while (bit := self.interval.settle()) is not None:
            self.out.append(bit)

    def finish(self) -> bytes:
        """All bits, the first in the lowest bit of the first byte."""
        low, bits = self.interval.low, self.interval.bits
        rest = [low >> i & 1 for i in reversed(range(bits))]
        return np.packbits(np.array(self.out + rest, dtype=np.uint8), bitorder="little").tobytes()


class ArithmeticDecoder:
    """Bits to symbols; must be given the distributions that the encoder had.

    Args:
        data: Bytes that start with an encoder's; what follows them is left alone.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.interval, self.value = _Interval(), 0
        self.data, self.used = data, 0

    @property
    def bytes_used(self) -> int:
        """Bytes that the symbols so far took."""
        return -(-self.used // 8)

    def pull(self, cdf: Sequence[int]) -> int:
        """The next symbol.

        Raises:
            BitstreamError: If the bits end, or spell no symbol of this distribution.
        """
        while self.interval.width < 1 << TOTAL_BITS:
            if self.used == 8 * len(self.data):
                raise BitstreamError(f"truncated after {len(self.data)} bytes of codes")
            self.value = 2 * self.value + (self.data[self.used // 8] >> self.used % 8 & 1)
            self.interval.double()
            self.used += 1
        symbol = bisect_right(cdf, ((self.value - self.interval.low) << TOTAL_BITS) // self.interval.width)
        if symbol < len(cdf):
            self.interval.narrow(cdf[symbol - 1] if symbol else 0, cdf[symbol])
        if symbol == len(cdf) or self.value > self.interval.high:
            raise BitstreamError(
                "the bits spell no code: damaged, or not the language model that the file was written with"
            )
        while (bit := self.interval.settle()) is not None:
            self.value -= bit << self.interval.bits
        return symbol
