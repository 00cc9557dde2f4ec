"""Text files <-> strings: UTF-8, plain or compressed by xz or gzip, kept as they are to the last line end and byte-order mark."""

from __future__ import annotations

import gzip
import lzma
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers_mm.text.codec import Errors
from tokenizers_mm.tokens import TokenSpec

EXTENSIONS: tuple[str, ...] = (".txt", ".md", ".text", ".jsonl", ".py", ".xz", ".gz")
SAMPLE = "byte"
"""What rates of this modality refer to."""
DOCUMENTS = "docs.tsv"
"""Beside line-aligned files: a header, then document and split of each line."""
MAX_BYTES = 2**30
"""Most that a compressed file may unfold to: a small file can claim to be a huge one."""
_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}


def read(path: str | Path, spec: TokenSpec, *, split: str | None = None, errors: Errors = "strict") -> str:
    """The text of a file.

    Args:
        path: The file.
        spec: Of a text codec.
        split: Only the lines of documents of this split, as :data:`DOCUMENTS` beside the file says.
        errors: ``"replace"`` puts U+FFFD where bytes are not UTF-8.

    Raises:
        FileNotFoundError: If there is no such file, or no list of documents for ``split``.
        IsADirectoryError: If it is a folder.
        ValueError: If it is not UTF-8, damaged or too large, or the spec is no text's.
    """
    if spec.modality != "text":
        raise ValueError(f"expected a text spec, got {spec.modality}")
    path = Path(path)
    text = decode(_bytes(path), str(path), errors)
    return text if split is None else "".join(line for line, _ in _of_split(text, path, split))


def decode(data: bytes, name: str, errors: Errors = "strict") -> str:
    """Text of UTF-8 bytes; a ``ValueError`` with the place of what is none."""
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        hint = "it looks like UTF-16: convert it first" if utf16 else "--read errors=replace puts U+FFFD there"
        bad = data[error.start : error.start + 4].hex(" ")
        raise ValueError(f"{name} is not UTF-8 at byte {error.start} ({bad}); {hint}") from None


def write(path: str | Path, signal: str, spec: TokenSpec) -> None:
    """Write a text to a file, whole or not at all; ``.xz`` and ``.gz`` compress it.

    Raises:
        TypeError: If the signal is not a string.
        IsADirectoryError: If ``path`` is a folder.
    """
    path = Path(path)
    if not isinstance(signal, str):
        raise TypeError(f"expected a str, got {type(signal).__name__}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with _OPENERS.get(path.suffix.lower(), open)(partial, "wb") as file:
            file.write(signal.encode("utf-8"))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def reading(options: Mapping[str, object]) -> dict[str, Any]:
    """Options of :func:`read` by name, as the command line gives them.

    Raises:
        ValueError: For others, or values that are none of theirs.
    """
    if unknown := sorted(set(options) - {"split", "errors"}):
        raise ValueError(f"text files are read with the options split and errors, got {', '.join(unknown)}")
    if options.get("errors", "strict") not in ("strict", "replace"):
        raise ValueError(f"errors must be 'strict' or 'replace', got {options['errors']!r}")
    return dict(options)


def lines(
    path: str | Path, spec: TokenSpec, *, split: str | None = None, errors: Errors = "strict"
) -> Iterator[tuple[int, str]]:
    """Numbers, from 0, and texts of the lines that are not blank, without their ends, one in memory at a time.

    Arguments and errors are those of :func:`read`; damage shows when the iterator reaches it.
    """
    path = Path(path)
    if split is not None:
        found = ((n, line) for n, line in enumerate(read(path, spec, split=split, errors=errors).split("\n")))
        yield from ((n, line.removesuffix("\r")) for n, line in found if line.strip())
        return
    try:
        with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            for number, line in enumerate(file):
                if line.strip():
                    yield number, decode(line.rstrip(b"\r\n"), f"{path}, line {number}", errors)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or not compressed so: {error}") from None


def texts(paths: Iterable[Path], split: str | None = None) -> Iterator[str]:
    """Texts to learn from: each file as one, or with ``split`` each of its documents of that split."""
    for path in paths:
        if path.name == DOCUMENTS:
            continue
        if split is None:
            yield decode(_bytes(path), str(path))
        else:
            yield from ("".join(lines) for _, lines in documents(path, split))


def documents(path: Path, split: str) -> list[tuple[str, list[str]]]:
    """Documents of one split of a line-aligned file: the name of each and its lines, with their ends.

    Raises:
        FileNotFoundError, ValueError: As :func:`read`.
    """
    found: dict[str, list[str]] = {}
    for line, document in _of_split(decode(_bytes(path), str(path)), path, split):
        found.setdefault(document, []).append(line)
    return list(found.items())


def _of_split(text: str, path: Path, split: str) -> list[tuple[str, str]]:
    """Lines of a split, and the document of each."""
    listed, lines = _listed(path), _split(text)
    if len(lines) != len(listed):
        raise ValueError(f"{path} has {len(lines)} lines, {path.with_name(DOCUMENTS)} lists {len(listed)}")
    if split not in (splits := {of for _, of in listed}):
        raise ValueError(f"split must be one of {sorted(splits)}, got {split!r}")
    return [(line, document) for line, (document, of) in zip(lines, listed, strict=True) if of == split]


def _split(text: str) -> list[str]:
    """Lines with their ends; only U+000A ends a line."""
    lines = text.split("\n")
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _listed(path: Path) -> list[tuple[str, str]]:
    """Document and split of each line."""
    table = path.with_name(DOCUMENTS)
    if not table.is_file():
        raise FileNotFoundError(f"split needs the list of documents {table}, which does not exist")
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").split("\n")[1:] if line]
    if any(len(row) != 2 for row in rows):
        raise ValueError(f"{table} must hold document and split in each line")
    return [(document, of) for document, of in rows]


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise IsADirectoryError(f"expected a text file, {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(f"no text file at {path}")
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        return path.read_bytes()
    try:
        with opener(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not compressed so: {error}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} holds more than {MAX_BYTES:,} bytes: cut it first")
    return data
