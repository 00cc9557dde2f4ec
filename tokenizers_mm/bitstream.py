"""The ``.mmt`` file: Tokens in few bytes, readable on any machine and safe to open whoever wrote it.

Layout (numbers are LEB128 varints unless a width is given; everything else is little-endian)::

    "mmt" version (1 byte) | CRC-32 of all that follows (4 bytes) | spec fingerprint: SHA-256 of the spec JSON (first 8 bytes)
    head:    length, raw deflate with the preset dictionary below of
             spec JSON length, spec JSON | items, items x axes grid extents | side tensors | shared tensors
             (tensors: count, then each: name length, name, dtype + 128 if varints, dimensions, extents, values)
             | nothing, or the name of the codec that wrote the file: length (0 for none), UTF-8
             | nothing, or the names of the channels: count, then each: length, UTF-8
    columns, version 1: one block per codebook, over the real steps of all items in order, in the smallest of these codings
             0 packed   ceil(log2 size) bits per id, most significant bit first, padded to a byte
             1 uniform  length, ANS words with every id equally likely (gains where the size is no power of two)
             2 counted  length, raw deflate of [n, n ids as differences, n rounded counts] | length, ANS words
    ids, version 2: as a language model predicts them
             name of the model: length, UTF-8 | start of its fingerprint (8 bytes) | CRC-32 of the ids as int64 (4 bytes)
             | range coder words, of every item in order

:mod:`tokenizers_mm.coding` says how the numbers themselves are coded, :mod:`tokenizers_mm.lm.compression` how ids are under a
model.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.coding import BitstreamError, Reader, deflate, read_column, varints, with_length, write_column
from tokenizers_mm.tensor_coding import TensorReader, write_tensors
from tokenizers_mm.tokens import Tokens, TokenSpec

__all__ = ["MAX_IDS", "BitstreamError", "IdCoder", "codec_name", "dumps", "load", "loads", "save"]

MAX_IDS = 2**26
T = TypeVar("T")

_MAGIC, _PLAIN, _PREDICTED = b"mmt", 1, 2
_PREDICTED_HEAD = struct.Struct("<8sI")  # model, CRC-32 of the ids
_PREFIX = struct.Struct("<3sBI")  # magic, version, CRC-32
_MAX_SPEC_BYTES = 2**16
_MAX_CODEC_BYTES = 255
_MAX_LABEL_BYTES = 2**20  # of all channels' names together

# Text that heads are likely to repeat, likeliest last. Part of the format: a change needs a new version.
_DICTIONARY = (
    b'word_lengthsvocabularymeanscaledeviation"modality":"timeseries""modality":"text""modality":"eeg""modality":"image"'
    b'"scalable":"scales""scalable":"steps""scalable":"columns""sample_rate":null,"hop":null,"axes":["token"],'
    b'"axes":["scale"],"axes":["rank"],"axes":["channel","time"],"axes":["height","width"],"channels":3,"channels":0,'
    b'"hop":[16,16],"hop":[1,200],"hop":[600],"codebook_sizes":[1024,1024,1024,1024],"levels":[0,1,2,3,4,5,6,7],'
    b'"sample_rate":44100.0,"sample_rate":48000.0,"sample_rate":24000.0,{"axes":["time"],"channels":1,'
    b'"codebook_sizes":[4096],"hop":[320],"levels":[0],"modality":"audio","sample_rate":16000.0,"scalable":"none",'
    b'"scales":[]}\x01\x04size\x85\x02\x01\x01'
)


class IdCoder(Protocol):
    """What codes ids in the place of columns, such as :class:`tokenizers_mm.lm.compression.LMCoder`.

    Attributes:
        name: What files say of it, one printable line.
        fingerprint: Hex digits that differ between coders that do not read each other's words.
    """

    name: str
    fingerprint: str

    def encode(self, tokens: Tokens) -> bytes:
        """Words for all ids."""

    def decode(self, data: bytes, spec: TokenSpec, shapes: np.ndarray) -> np.ndarray:
        """The ids of grids ``[B, A]``, int64 ``[B, T, Q]``; ``BitstreamError`` if they are damaged."""


def save(tokens: Tokens, path: str | Path, *, codec: str | None = None, coder: IdCoder | None = None) -> None:
    """Write tokens to a ``.mmt`` file, whole or not at all: an older file of that name survives any failure.

    Args:
        tokens: Any batch, on any device.
        path: Where to write; the folder must exist.
        codec: See :func:`dumps`.
        coder: See :func:`dumps`.

    Raises:
        BitstreamError: If the tokens hold something that the format cannot (see :func:`dumps`).
        OSError: If the path cannot be written (``FileNotFoundError``, ``IsADirectoryError``, ...).
    """
    data = dumps(tokens, codec=codec, coder=coder)
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"path must name a file, got the directory {str(path)!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path must be in a folder that exists, got {str(path)!r}")
    partial = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path, *, max_ids: int = MAX_IDS, coder: IdCoder | None = None) -> Tokens:
    """Read a ``.mmt`` file, trusted or not.

    Args:
        path: A file that :func:`save` wrote.
        max_ids: See :func:`loads`.
        coder: See :func:`loads`.

    Returns:
        The tokens, on the CPU.

    Raises:
        BitstreamError: For anything that is not an intact ``.mmt`` file of at most ``max_ids`` ids.
        OSError: If the path cannot be read (``FileNotFoundError``, ``IsADirectoryError``, ...).
    """
    data = _read(path)
    try:
        return loads(data, max_ids=max_ids, coder=coder)
    except BitstreamError as error:
        raise BitstreamError(f"{str(path)!r}: {error}") from None


def codec_name(path: str | Path, *, max_ids: int = MAX_IDS) -> str | None:
    """What a ``.mmt`` file says wrote it; None if it says nothing. It is a hint of whoever made the file, not a fact.

    Args:
        path: A file that :func:`save` wrote.
        max_ids: See :func:`loads`.

    Raises:
        BitstreamError: For anything that is not an intact ``.mmt`` file of at most ``max_ids`` ids, or a name that is not
            one printable line.
        OSError: If the path cannot be read.
    """
    data = _read(path)
    try:
        return _checked(data, lambda reader, _: _parse_head(reader, max_ids).codec)
    except BitstreamError as error:
        raise BitstreamError(f"{str(path)!r}: {error}") from None


def dumps(tokens: Tokens, *, codec: str | None = None, coder: IdCoder | None = None) -> bytes:
    """Tokens as the bytes of a ``.mmt`` file.

    Args:
        tokens: Any batch, on any device. Padding is not written.
        codec: Name of the codec that made them (a card's, ``hf:owner/name``), one printable line of at most 255 bytes: codecs
            can share a spec, and tokens alone do not tell which decodes them.
        coder: Codes the ids, if they are not to be coded by how often each occurs. Such a file opens where the same model is.

    Returns:
        The file's bytes.

    Raises:
        BitstreamError: If a side or shared tensor has a dtype, name or number of dimensions that the format lacks, or
            the codec's name is too long or holds what does not print, or the channels' names are too long.
    """
    spec_text = json.dumps(tokens.spec.to_dict(), sort_keys=True, separators=(",", ":")).encode()
    if len(spec_text) > _MAX_SPEC_BYTES:
        raise BitstreamError(f"spec must fit {_MAX_SPEC_BYTES} bytes of JSON, got {len(spec_text)}")
    head = [with_length(spec_text), varints(len(tokens)), varints(tokens.shapes.cpu().numpy())]
    head += [write_tensors("side", tokens.side), write_tensors("shared", tokens.shared)]
    if codec is not None:
        head.append(with_length(_check_name("codec", codec).encode()))
    if tokens.names is not None:
        head += [*([varints(0)] if codec is None else []), _write_names(tokens.names)]
    body = [_fingerprint(spec_text), deflate(b"".join(head), _DICTIONARY)]
    body += _columns(tokens) if coder is None else _predicted(tokens, coder)
    checked = b"".join(body)
    return _PREFIX.pack(_MAGIC, _PLAIN if coder is None else _PREDICTED, zlib.crc32(checked)) + checked


def _columns(tokens: Tokens) -> list[bytes]:
    steps = tokens.ids[tokens.mask].cpu().numpy()  # [real steps, Q]
    sizes = tokens.spec.codebook_sizes
    return [write_column(np.ascontiguousarray(ids), size) for ids, size in zip(steps.T, sizes, strict=True)]


def _predicted(tokens: Tokens, coder: IdCoder) -> list[bytes]:
    checksum = zlib.crc32(tokens.ids[tokens.mask].cpu().numpy().astype("<i8").tobytes())
    model = _PREDICTED_HEAD.pack(bytes.fromhex(coder.fingerprint)[:8], checksum)
    return [with_length(_check_name("lm", coder.name).encode()), model, coder.encode(tokens)]


def loads(data: bytes, *, max_ids: int = MAX_IDS, coder: IdCoder | None = None) -> Tokens:
    """Inverse of :func:`dumps`, safe on bytes from anywhere.

    Nothing is parsed before the checksum fits, and nothing is allocated before its size is checked against the bytes
    that are left and against ``max_ids``: ids that cost no bits would else let a short file ask for any memory.

    Args:
        data: The bytes of a ``.mmt`` file.
        max_ids: Most ids that they may unfold to, padding included (items x longest item x codebooks, 8 bytes each);
            side and shared tensors together may take as many bytes again. Reading peaks at a few times that memory.
        coder: The language model that coded the ids; by default the shipped one that the file names, if it names one. Nothing is
            downloaded, and no other folder opened, because of what a file says.

    Returns:
        The tokens, on the CPU.

    Raises:
        BitstreamError: For anything that is not an intact ``.mmt`` file of at most ``max_ids`` ids.
    """
    return _checked(data, lambda reader, version: _parse(reader, version, max_ids, coder))


def _read(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        if file.peek(len(_MAGIC))[: len(_MAGIC)] != _MAGIC:  # not read further: it may be huge, or a device without end
            raise BitstreamError(f"{str(path)!r} is not a .mmt file")
        return file.read()


def _checked(data: bytes, parse: Callable[[Reader, int], T]) -> T:
    """``parse`` of what follows the checksum, once that fits, and the version; what goes wrong is a :class:`BitstreamError`."""
    if data[: len(_MAGIC)] != _MAGIC:
        raise BitstreamError("these bytes are not a .mmt file")
    if len(data) < _PREFIX.size:
        raise BitstreamError(f"truncated after {len(data)} bytes")
    _, version, checksum = _PREFIX.unpack_from(data)
    if version not in (_PLAIN, _PREDICTED):
        raise BitstreamError(
            f"this library reads versions {_PLAIN} and {_PREDICTED} of .mmt files, got version {version}"
        )
    body = memoryview(data)[_PREFIX.size :]
    if zlib.crc32(body) != checksum:
        raise BitstreamError("the checksum does not fit: damaged or truncated")
    try:
        return parse(Reader(body), version)
    except BitstreamError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, RuntimeError, AssertionError, zlib.error) as error:
        raise BitstreamError(f"malformed: {error}") from error


@dataclass(frozen=True)
class _Head:
    spec: TokenSpec
    shapes: np.ndarray  # B, A
    side: dict[str, Tensor]
    shared: dict[str, Tensor]
    codec: str | None
    names: tuple[str, ...] | None


def _parse_head(reader: Reader, max_ids: int) -> _Head:
    fingerprint = reader.take(8)
    head = reader.inflate(8 * max_ids + _MAX_SPEC_BYTES, _DICTIONARY)
    spec_text = head.take(head.number(_MAX_SPEC_BYTES))
    if _fingerprint(spec_text) != fingerprint:
        raise BitstreamError("the fingerprint is not that of the spec in the file")
    spec = TokenSpec.from_dict(json.loads(spec_text))
    shapes = _read_shapes(head, spec, max_ids)
    tensors = TensorReader(head, budget=8 * max_ids)
    side, shared = tensors.read(), tensors.read()
    codec = head.take(head.number(_MAX_CODEC_BYTES)).decode() if head.left else None
    names = _read_names(head) if head.left else None
    if codec is not None and (codec or names is None):
        codec = _check_name("codec", codec)
    head.finish()
    return _Head(spec, shapes, side, shared, codec or None, names)


def _write_names(names: tuple[str, ...]) -> bytes:
    texts = [name.encode() for name in names]
    if (total := sum(map(len, texts))) > _MAX_LABEL_BYTES:
        raise BitstreamError(f"names must take at most {_MAX_LABEL_BYTES} bytes together, got {total}")
    return varints(len(texts)) + b"".join(with_length(text) for text in texts)


def _read_names(head: Reader) -> tuple[str, ...]:
    names, budget = [], _MAX_LABEL_BYTES
    for _ in range(head.number(head.left)):  # each takes a byte at least
        text = head.take(head.number(budget))
        budget -= len(text)
        names.append(text.decode())
    return tuple(names)


def _check_name(kind: str, name: str) -> str:
    """A codec's or model's name that any terminal can show: one printable line, no control or direction characters."""
    if not name or not name.isprintable() or name != name.strip() or len(name.encode()) > _MAX_CODEC_BYTES:
        shown = ascii(name if len(name) <= 40 else f"{name[:40]}...")
        raise BitstreamError(f"{kind} must be one printable line of 1 to {_MAX_CODEC_BYTES} bytes, got {shown}")
    return name


def _parse(reader: Reader, version: int, max_ids: int, coder: IdCoder | None) -> Tokens:
    head = _parse_head(reader, max_ids)
    read = _read_columns(reader, head) if version == _PLAIN else _read_predicted(reader, head, coder)
    reader.finish()
    return Tokens(torch.from_numpy(read), head.spec, torch.from_numpy(head.shapes), head.side, head.shared, head.names)


def _read_columns(reader: Reader, head: _Head) -> np.ndarray:
    lengths = head.shapes.prod(axis=1)
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.zeros((*mask.shape, head.spec.num_codebooks), dtype=np.int64)
    for column, size in enumerate(head.spec.codebook_sizes):
        values = read_column(reader, int(lengths.sum()), size)
        if len(values):
            np.place(ids[..., column], mask, values)  # ids[mask, column] = would need two indices of 8 bytes per id
    return ids


def _read_predicted(reader: Reader, head: _Head, coder: IdCoder | None) -> np.ndarray:
    name = _check_name("lm", reader.take(reader.number(_MAX_CODEC_BYTES)).decode())
    model, checksum = _PREDICTED_HEAD.unpack(reader.take(_PREDICTED_HEAD.size))
    if coder is None:
        from tokenizers_mm.lm.compression import shipped_coder  # above this floor: what is found by name

        coder = shipped_coder(name)
    if not bytes.fromhex(coder.fingerprint).startswith(model):
        raise BitstreamError(
            f"its ids are coded with the language model {name!r} (fingerprint {model.hex()}), "
            f"got {coder.name!r} (fingerprint {coder.fingerprint[:16]})"
        )
    ids = coder.decode(reader.take(reader.left), head.spec, head.shapes)
    real = np.arange(ids.shape[1]) < head.shapes.prod(axis=1)[:, None]
    if zlib.crc32(ids[real].astype("<i8").tobytes()) != checksum:
        raise BitstreamError(
            f"its ids come out wrong: the language model {name!r} does not compute here as where the file was written "
            "(other processor, library version or device)"
        )
    return ids


def _read_shapes(head: Reader, spec: TokenSpec, max_ids: int) -> np.ndarray:
    """Every item's grid, ``[B, A]``, once the ids that they ask for are known to be at most ``max_ids``."""
    items, axes = head.number(), len(spec.axes)
    if items * axes > max_ids:
        raise BitstreamError(f"{items} items exceed max_ids={max_ids}; raise max_ids if you trust the file")
    shapes = head.varints(items * axes).reshape(items, axes)
    # Floating point, because a hostile product would wrap around in int64; "not <=" because it may even be NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        longest = shapes.prod(axis=1, dtype=np.float64).max(initial=0)
    if not items * longest * spec.num_codebooks <= max_ids:
        raise BitstreamError(
            f"{items} items x {longest:.0f} steps x {spec.num_codebooks} codebooks exceed max_ids={max_ids}; "
            "raise max_ids if you trust the file"
        )
    return shapes


def _fingerprint(spec_text: bytes) -> bytes:
    # Of the text in the file, not of TokenSpec.fingerprint, which changes for old files when TokenSpec gains a field.
    return hashlib.sha256(spec_text).digest()[:8]
