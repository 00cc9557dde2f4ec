"""Inputs of bulk tokenization: files, folders, manifests and tar shards of any modality, their keys and their classes."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from torch import Tensor

from tokenizers_mm.evaluation.items import find_items
from tokenizers_mm.scale.columns import Label
from tokenizers_mm.scale.work import BROKEN, Example, Loaded
from tokenizers_mm.tokens import TokenSpec

FOLDER, PREFIX = "folder", "prefix"
"""Where classes come from besides a manifest's column: the folder that a file lies in, its name up to the first ``_``."""


@dataclass(frozen=True)
class Input:
    """A file, or one inside an uncompressed tar.

    Args:
        key: Its name relative to the folder, manifest or tar.
        path: The file, or the tar.
        label: Its class.
        offset: Where it begins in the tar; None for a file.
        size: Bytes that it has there.
    """

    key: str
    path: Path
    label: Label = None
    offset: int | None = None
    size: int = 0

    @contextmanager
    def file(self) -> Iterator[Path]:
        """A path under which it can be read: what lies in a tar is copied for that time."""
        if self.offset is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="tokenizers_mm-") as folder:
            copy = Path(folder) / PurePosixPath(self.key).name
            with open(self.path, "rb") as tar:
                tar.seek(self.offset)
                copy.write_bytes(tar.read(self.size))
            yield copy


def find_inputs(
    inputs: Sequence[Path], extensions: Iterable[str], *, label: str | None = None, split: str | None = None
) -> list[Input]:
    """The files to tokenize, in a fixed order.

    Args:
        inputs: Files; manifest CSVs (column ``path``, relative to them); folders, searched with their subfolders if they have
            no ``manifest.csv``; uncompressed tars.
        extensions: Suffixes of this modality's files, with dots.
        label: Column of the manifests with the classes; :data:`FOLDER` or :data:`PREFIX`; by default there are none.
        split: Rows of the manifests that count, by their column ``split``; by default all.

    Returns:
        Inputs whose classes are numbers if all are, else names, and None where there is none.

    Raises:
        FileNotFoundError: If an input does not exist.
        ValueError: If it holds no such files, two have one key, or there is no such label or split.
    """
    suffixes, found = frozenset(extensions), []
    for path in inputs:
        found += (
            _in_tar(path, suffixes, label, split)
            if path.suffix.lower() == ".tar"
            else _listed(path, suffixes, label, split)
        )
    seen: dict[str, Input] = {}
    for each in found:
        if seen.setdefault(each.key, each) is not each:
            raise ValueError(
                f"{seen[each.key].path} and {each.path} both hold {each.key!r}: tokenize the folder above them"
            )
    classes = {str(each.label) for each in found if each.label is not None}
    if label is not None and not classes:
        raise ValueError(f"label must be a column of the manifests, {FOLDER!r} or {PREFIX!r}, no input has {label!r}")
    if all(name.isdecimal() for name in classes):
        found = [each if each.label is None else replace(each, label=int(each.label)) for each in found]
    return found


def examples(
    inputs: Iterable[Input],
    files: ModuleType,
    spec: TokenSpec,
    *,
    window: float = 10.0,
    options: Mapping[str, Any] | None = None,
    lines: bool = False,
) -> Iterator[Example]:
    """Inputs as examples that are read when they are needed.

    Args:
        inputs: Where they lie.
        files: The wing's file room.
        spec: Of the codec.
        window: Longer signals, in seconds, come in pieces of that many.
        options: Arguments of the room's ``read`` and ``blocks``.
        lines: Every line of a file is an example; their keys end with the line's number.

    Raises:
        ValueError: If the modality's files have no lines.
    """
    options = options or {}
    if lines and not hasattr(files, "lines"):
        raise ValueError(f"{spec.modality} files have no lines")
    for each in inputs:
        if lines:
            yield from _lines(each, files, spec, options)
        else:
            yield Example(each.key, partial(_load, each, files, spec, window, options), each.label)


def _load(each: Input, files: ModuleType, spec: TokenSpec, window: float, options: Mapping[str, Any]) -> Loaded:
    with each.file() as path:
        if hasattr(files, "read_labelled"):
            return Loaded(*files.read_labelled(path, spec, **options))
        labels = {"labels": files.labels(path, spec, **options)} if hasattr(files, "labels") else {}
        if spec.frame_rate is not None and files.info(path).seconds > window:
            return Loaded(_blocks(each, files, spec, window, options), **labels)
        return Loaded(files.read(path, spec, **options), **labels)


def _blocks(
    each: Input, files: ModuleType, spec: TokenSpec, window: float, options: Mapping[str, Any]
) -> Iterator[Tensor]:
    with each.file() as path:
        yield from files.blocks(path, spec, window, **options)


def _lines(each: Input, files: ModuleType, spec: TokenSpec, options: Mapping[str, Any]) -> Iterator[Example]:
    """The lines of a file, and, where one cannot be read, an example that says so."""
    try:
        with each.file() as path:
            for number, line in files.lines(path, spec, **options):
                yield Example(f"{each.key}:{number}", line, each.label)
    except BROKEN as error:

        def fail(error: Exception = error) -> Loaded:
            raise error

        yield Example(each.key, fail, each.label)


def _listed(path: Path, suffixes: frozenset[str], label: str | None, split: str | None) -> list[Input]:
    items = find_items(path, suffixes, split=split)
    if split is not None and items.split is None:
        raise ValueError(f"split needs a manifest with a column 'split', {path} has none")
    return [Input(name, items.path(name), _label(name, label, items.about.get(name, {}))) for name in items.names]


def _in_tar(path: Path, suffixes: frozenset[str], label: str | None, split: str | None) -> list[Input]:
    if not path.is_file():
        raise FileNotFoundError(f"no tar at {path}")
    if split is not None:
        raise ValueError(f"split needs a manifest with a column 'split', {path} is a tar")
    try:
        with tarfile.open(path, "r:") as tar:
            members = [m for m in tar if m.isfile() and PurePosixPath(m.name).suffix.lower() in suffixes]
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not an uncompressed tar, or it is damaged: {error}") from None
    if not members:
        raise ValueError(f"{path} holds no files that end in {', '.join(sorted(suffixes))}")
    return [Input(f"{path.stem}/{m.name}", path, _label(m.name, label, {}), m.offset_data, m.size) for m in members]


def _label(name: str, label: str | None, about: Mapping[str, str]) -> Label:
    """Class of a file by its name and what a manifest says; None where there is none."""
    place = PurePosixPath(name)
    if label == FOLDER:
        return place.parent.name or None
    if label == PREFIX:
        return place.name.partition("_")[0] if "_" in place.name else None
    return None if label is None else about.get(label)
