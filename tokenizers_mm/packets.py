"""Tokens through a pipe as they come: a header, then a packet for each few steps, readable before the stream ends.

A stream holds one signal. Its header is ``mmts``, a version byte, the length (uint32) and JSON of the :class:`TokenSpec`. Each
packet is one byte, the number of steps (at most 127; the top bit marks the last packet), then their ids, each in
``ceil(log2(codebook size))`` bits, most significant first, padded to whole bytes; the last packet ends with the signal's samples
(uint64). All numbers are big-endian. A finished signal takes fewer bytes as a ``.mmt`` file (:mod:`tokenizers_mm.bitstream`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.coding import BitstreamError
from tokenizers_mm.tokens import Tokens, TokenSpec

_MAGIC, _VERSION = b"mmts", 1
_HEADER = struct.Struct(">4sBI")
_SAMPLES = struct.Struct(">Q")
_LAST, _MOST = 128, 127
_MAX_SPEC = 2**20  # bytes of a header that are read on its word


class PacketWriter:
    """Writes one signal's tokens to a binary file or pipe; the header goes out at once.

    Args:
        file: Where to write; flushed after every packet.
        spec: What the tokens are, along one axis.
    """

    def __init__(self, file: BinaryIO, spec: TokenSpec) -> None:
        self.file, self.spec, self.widths = file, spec, _widths(spec)
        text = json.dumps(spec.to_dict()).encode()
        file.write(_HEADER.pack(_MAGIC, _VERSION, len(text)) + text)
        file.flush()

    def write(self, tokens: Tokens, samples: int | None = None) -> None:
        """Packets of the next tokens, one item; with the signal's ``samples`` they are the last."""
        if len(tokens) != 1 or tokens.spec != self.spec:
            raise ValueError(f"tokens must be one item of {self.spec}, got {len(tokens)} of {tokens.spec}")
        packets = list(tokens.ids[0].cpu().split(_MOST)) if tokens.ids.shape[1] else []
        if samples is not None and not packets:
            packets = [tokens.ids[0].cpu()]
        for i, ids in enumerate(packets):
            last = samples is not None and i == len(packets) - 1
            self.file.write(bytes([len(ids) | (_LAST if last else 0)]) + self._pack(ids))
            if samples is not None and last:
                self.file.write(_SAMPLES.pack(samples))
        self.file.flush()

    def _pack(self, ids: Tensor) -> bytes:
        bits = [ids[:, q, None].numpy() >> np.arange(width)[::-1] & 1 for q, width in enumerate(self.widths)]
        return np.packbits(np.concatenate(bits, axis=1).astype(np.uint8)).tobytes()


class PacketReader:
    """Reads what :class:`PacketWriter` wrote, packet by packet.

    Args:
        file: Where to read; its ``read(n)`` may wait, but returns fewer bytes only at the end.

    Raises:
        BitstreamError: If the file does not start as a token stream.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        magic, version, size = _HEADER.unpack(self._read(_HEADER.size))
        if magic != _MAGIC or version != _VERSION or size > _MAX_SPEC:
            raise BitstreamError(
                f"a token stream starts with {_MAGIC!r} and version {_VERSION}, got {magic!r} and {version}"
            )
        try:
            self.spec = TokenSpec.from_dict(json.loads(self._read(size)))
        except (ValueError, TypeError, RecursionError) as error:
            raise BitstreamError(f"the token stream's header holds no TokenSpec: {error}") from None
        if len(self.spec.axes) != 1:
            raise BitstreamError(f"a token stream has one axis, got {self.spec.axes}")
        self.widths = _widths(self.spec)

    def __iter__(self) -> Iterator[tuple[Tokens, int | None]]:
        """The tokens of each packet, and with those of the last one the signal's samples.

        Raises:
            BitstreamError: If the stream ends before its last packet does, or holds ids that no codebook has.
        """
        samples = None
        while samples is None:
            head = self._read(1)[0]
            ids = self._unpack(head & _MOST)
            if head & _LAST:
                (samples,) = _SAMPLES.unpack(self._read(_SAMPLES.size))
            try:
                yield Tokens(ids, self.spec), samples
            except ValueError as error:
                raise BitstreamError(f"a packet is damaged: {error}") from None

    def _unpack(self, steps: int) -> Tensor:
        per_step = sum(self.widths)
        data = np.frombuffer(self._read(-(-steps * per_step // 8)), dtype=np.uint8)
        bits = np.unpackbits(data, count=steps * per_step).reshape(steps, per_step).astype(np.int64)
        columns = np.split(bits, np.cumsum(self.widths)[:-1], axis=1)
        ids = [column @ (1 << np.arange(column.shape[1], dtype=np.int64)[::-1]) for column in columns]
        return torch.from_numpy(np.stack(ids, axis=1))[None]

    def _read(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) < count:
            raise BitstreamError("the token stream ends before its last packet")
        return data


def _widths(spec: TokenSpec) -> list[int]:
    return [(size - 1).bit_length() for size in spec.codebook_sizes]
