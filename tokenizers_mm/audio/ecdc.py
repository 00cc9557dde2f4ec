"""The ``.ecdc`` file of EnCodec's own program: codes packed at 10 bits, or coded with its language model.

Layout (numbers in the head are big-endian)::

    "ECDC" | version 0 (1 byte) | length of the JSON (4 bytes) | JSON: m model, al samples, nc codebooks, lm
    per chunk: its scale (float32, 48 kHz only) | its codes, step by step, padded to a byte

Plain codes take 10 bits each, lowest bit first. Where ``lm`` is true, an arithmetic coder writes them under the probabilities
of :class:`~tokenizers_mm.audio.ecdc_lm.EcdcLM`; such a file opens only where those come out bit for bit the same: same weights,
same kind of processor, version of PyTorch and number of threads. Ours (``.mmt``) have no such tie.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.audio.arithmetic import ArithmeticDecoder, ArithmeticEncoder
from tokenizers_mm.audio.ecdc_lm import EcdcLM, quantised_cdf
from tokenizers_mm.bitstream import MAX_IDS
from tokenizers_mm.coding import BitstreamError, Reader
from tokenizers_mm.tokens import Tokens, TokenSpec

_MAGIC, _VERSION = b"ECDC", 0
_HEAD = struct.Struct("!4sBI")
_FLOAT = struct.Struct("!f")
_MAX_JSON_BYTES = 4096
_WIDTH = 10  # bits of a code
SCALE = "scale"  # in ``side``, [B, chunks]


MODELS = {
    "encodec_24khz": TokenSpec(
        modality="audio", codebook_sizes=(1024,) * 32, hop=(320,), sample_rate=24000, scalable="columns"
    ),
    "encodec_48khz": TokenSpec(
        modality="audio",
        codebook_sizes=(1024,) * 16,
        hop=(320,),
        sample_rate=48000,
        channels=2,
        scalable="columns",
        window=48000,
        stride=47520,
    ),
}
"""The published models, and what their tokens are. Windows are the file's chunks, and have scales."""


def write(tokens: Tokens, path: str | Path, model: str | None = None, *, lm: EcdcLM | None = None) -> None:
    """Write a ``.ecdc`` file.

    Args:
        tokens: One item of EnCodec's tokens.
        path: Where to write.
        model: The published model that made them, a key of :data:`MODELS`; by default the one with that spec.
        lm: The model's language model, to code the tokens under it; without it they are packed.

    Raises:
        ValueError: If these are not one item of that model's tokens.
        OSError: If the path cannot be written.
    """
    Path(path).write_bytes(dumps(tokens, model, lm=lm))


def read(path: str | Path, *, lm: EcdcLM | None = None) -> Tokens:
    """Read a ``.ecdc`` file, trusted or not.

    Args:
        path: The file.
        lm: The language model that it was written with; needed where the file says so.

    Returns:
        One item; ``side`` holds the signal's size, and the chunks' scales where the model has them.

    Raises:
        BitstreamError: For anything that is not an intact ``.ecdc`` file of a known model.
        ValueError: If the file needs a language model and none is given.
        OSError: If the path cannot be read.
    """
    with open(path, "rb") as file:
        if file.peek(len(_MAGIC))[: len(_MAGIC)] != _MAGIC:  # not read further: it may be huge, or a device without end
            raise BitstreamError(f"{str(path)!r} is not an .ecdc file")
        data = file.read()
    try:
        return loads(data, lm=lm)
    except ValueError as error:
        raise type(error)(f"{str(path)!r}: {error}") from None


def model_of(path: str | Path) -> str:
    """Name of the published model whose codes a file holds; only its head is read.

    Raises:
        BitstreamError: If it is no ``.ecdc`` file of a known model.
    """
    with open(path, "rb") as file:
        try:
            return _read_head(Reader(file.read(_HEAD.size + _MAX_JSON_BYTES)))[0]
        except BitstreamError as error:
            raise BitstreamError(f"{str(path)!r}: {error}") from None


def dumps(tokens: Tokens, model: str | None = None, *, lm: EcdcLM | None = None) -> bytes:
    """The bytes of a ``.ecdc`` file: see :func:`write`."""
    spec, columns = tokens.spec, tokens.spec.num_codebooks
    fitting = [name for name, own in MODELS.items() if columns <= own.num_codebooks and own.prefix(columns) == spec]
    if not fitting or model not in (None, *fitting):
        raise ValueError(f"tokens must be of {model or ' or '.join(MODELS)}, got {spec}")
    if len(tokens) != 1:
        raise ValueError(f"an .ecdc file holds one item, got {len(tokens)}")
    steps = int(tokens.lengths[0])
    samples = int(tokens.side["size"][0, -1]) if "size" in tokens.side else spec.samples(steps)
    if samples < 1 or spec.steps(samples) != steps:
        raise ValueError(
            f"tokens must be {spec.steps(max(samples, 0))} steps, 1 or more, of {samples} samples, got {steps}"
        )
    text = json.dumps({"m": fitting[0], "al": samples, "nc": columns, "lm": lm is not None}).encode()
    out = [_HEAD.pack(_MAGIC, _VERSION, len(text)), text]
    chunks = tokens.ids[0, :steps].cpu().split(spec.window_steps(steps))
    for ids, scale in zip(chunks, _scales(tokens, len(chunks)), strict=True):
        out += [b"" if scale is None else _FLOAT.pack(scale), _pack(ids) if lm is None else _encode(ids, lm)]
    return b"".join(out)


def loads(data: bytes, *, lm: EcdcLM | None = None) -> Tokens:
    """Inverse of :func:`dumps`, safe on bytes from anywhere: see :func:`read`."""
    reader = Reader(data)
    model, samples, columns, coded = _read_head(reader)
    spec = MODELS[model].prefix(columns)
    steps = spec.steps(samples)
    if steps * columns > MAX_IDS:
        raise BitstreamError(f"{steps} steps x {columns} codebooks exceed {MAX_IDS} ids")
    if coded and lm is None:
        raise ValueError(
            f"its codes are coded with the language model of {model}: give that as lm "
            "(`mmtok convert encodec-lm` makes it from the published file)"
        )
    if not coded and steps * columns * _WIDTH > 8 * reader.left:
        raise BitstreamError(f"truncated: {steps} steps x {columns} codebooks do not fit {reader.left} bytes")
    parts, scales = [], []
    for chunk in spec.window_steps(steps):
        if spec.window:
            scales.append(_FLOAT.unpack(reader.take(_FLOAT.size))[0])
        parts.append(_decode(reader, chunk, columns, lm) if coded and lm else _unpack(reader, chunk, columns))
    if reader.left:
        raise BitstreamError(f"{reader.left} bytes too many")
    if not all(map(math.isfinite, scales)):
        raise BitstreamError("a scale is not a finite number")
    side = {SCALE: torch.tensor([scales], dtype=torch.float32)} if spec.window else {}
    return Tokens(torch.cat(parts)[None], spec, side={**side, "size": torch.tensor([[samples]])})


def _scales(tokens: Tokens, chunks: int) -> list[float] | list[None]:
    """The scale of each chunk, or None for each where the model has none."""
    if not tokens.spec.window:
        return [None] * chunks
    scales = tokens.side.get(SCALE, torch.empty(1, 0))
    if scales.ndim != 2 or scales.shape[1] < chunks or not bool(torch.isfinite(scales).all()):
        raise ValueError(f"side[{SCALE!r}] must hold {chunks} finite scales, got {list(scales.shape)}")
    return scales[0, :chunks].tolist()


def _read_head(reader: Reader) -> tuple[str, int, int, bool]:
    """Model, samples, codebooks, whether a language model codes."""
    magic, version, length = _HEAD.unpack(reader.take(_HEAD.size))
    if magic != _MAGIC:
        raise BitstreamError("these bytes are no .ecdc file")
    if version != _VERSION:
        raise BitstreamError(f"this library reads version {_VERSION} of .ecdc files, got version {version}")
    if length > _MAX_JSON_BYTES:
        raise BitstreamError(f"the head must be at most {_MAX_JSON_BYTES} bytes of JSON, got {length}")
    try:
        head = json.loads(reader.take(length))
    except BitstreamError:
        raise
    except (ValueError, RecursionError) as error:
        raise BitstreamError(f"the head is not JSON: {error}") from None
    wanted = {"m": str, "al": int, "nc": int, "lm": bool}
    if not isinstance(head, dict) or any(type(head.get(key)) is not kind for key, kind in wanted.items()):
        raise BitstreamError(
            f"the head must hold m (text), al and nc (whole numbers), lm (true or false), got {head!r:.200}"
        )
    if head["m"] not in MODELS:
        raise BitstreamError(f"model must be one of {', '.join(MODELS)}, got {head['m']!r:.200}")
    most = MODELS[head["m"]].num_codebooks
    if head["al"] < 1 or not 1 <= head["nc"] <= most:
        raise BitstreamError(
            f"expected at least 1 sample and 1 to {most} codebooks, got al={head['al']}, nc={head['nc']}"
        )
    return head["m"], head["al"], head["nc"], head["lm"]


# Four codes are 40 bits are five bytes: packed as one number of five bytes, lowest first.


def _pack(ids: Tensor) -> bytes:
    codes = ids.numpy().reshape(-1)
    fours = np.append(codes, np.zeros(-len(codes) % 4, dtype=np.int64)).reshape(-1, 4)
    numbers = (fours << _WIDTH * np.arange(4)).sum(axis=1)
    return (numbers[:, None] >> 8 * np.arange(5)).astype(np.uint8).tobytes()[: _packed_bytes(len(codes))]


def _unpack(reader: Reader, steps: int, codebooks: int) -> Tensor:
    count = steps * codebooks
    size = _packed_bytes(count)
    fives = np.frombuffer(reader.take(size) + bytes(-size % 5), dtype=np.uint8).reshape(-1, 5)
    numbers = (fives.astype(np.int64) << 8 * np.arange(5)).sum(axis=1)
    codes = (numbers[:, None] >> _WIDTH * np.arange(4) & (1 << _WIDTH) - 1).reshape(-1)
    if codes[count:].any():
        raise BitstreamError("the bits that pad the last byte are not zero")
    return torch.from_numpy(codes[:count].copy()).view(steps, codebooks)


def _packed_bytes(count: int) -> int:
    return -(-count * _WIDTH // 8)


@torch.no_grad()
def _encode(ids: Tensor, lm: EcdcLM) -> bytes:
    coder, state, before = ArithmeticEncoder(), None, torch.zeros(1, 1, ids.shape[1], dtype=torch.long)
    for row in ids:
        probabilities, state = lm(before, state)
        for code, cdf in zip(row.tolist(), quantised_cdf(probabilities[0, :, :, 0]).T.tolist(), strict=True):
            coder.push(code, cdf)
        before = 1 + row.view(1, 1, -1)
    return coder.finish()


@torch.no_grad()
def _decode(reader: Reader, steps: int, codebooks: int, lm: EcdcLM) -> Tensor:
    decoder, state, before = (
        ArithmeticDecoder(reader.data[reader.at :]),
        None,
        torch.zeros(1, 1, codebooks, dtype=torch.long),
    )
    rows = []
    for _ in range(steps):
        probabilities, state = lm(before, state)
        rows.append([decoder.pull(cdf) for cdf in quantised_cdf(probabilities[0, :, :, 0]).T.tolist()])
        before = 1 + torch.tensor(rows[-1]).view(1, 1, -1)
    reader.take(decoder.bytes_used)
    return torch.tensor(rows)
