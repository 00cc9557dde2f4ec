"""Which files an evaluation runs on, and the fingerprint that says whether two evaluations used the same ones."""

from __future__ import annotations

import csv
import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

MANIFEST = "manifest.csv"
Unpack = Callable[[Path, Path], None]
"""Turns a file of many items (the first) into a folder of files (the second)."""


@dataclass(frozen=True)
class Items:
    """Files below one folder.

    Args:
        root: The folder.
        names: Paths relative to it, with forward slashes, sorted.
        split: The manifest's split that they are, None where nothing was split.
        about: What the manifest says of them: its columns, by name.
    """

    root: Path
    names: tuple[str, ...]
    split: str | None = None
    about: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, name: str) -> Path:
        return self.root / name

    def fingerprint(self) -> str:
        """SHA-256 over names and contents; a file that cannot be read counts by its name alone."""
        total = hashlib.sha256()
        for name in self.names:
            total.update(name.encode() + b"\0")
            try:
                with open(self.path(name), "rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
            except OSError:
                total.update(b"unreadable")
        return total.hexdigest()


def find_items(
    data: str | Path,
    extensions: Collection[str],
    *,
    split: str | None = "test",
    limit: int | None = None,
    archives: Mapping[str, Unpack] | None = None,
) -> Items:
    """The files that ``data`` stands for.

    Args:
        data: A file, a manifest CSV (column ``path`` relative to it, optional column ``split``), a folder with a
            ``manifest.csv``, a folder searched with its subfolders, or a tar of such files, unpacked until the process ends.
        extensions: Suffixes of this modality's files, with dots.
        split: Rows of a manifest that count; None for all.
        limit: At most so many, in the order of their names.
        archives: By extension, functions that unpack a file of many items to a folder.

    Raises:
        FileNotFoundError: If ``data`` does not exist.
        ValueError: If it holds no files of this kind, or the manifest lacks the column or the split.
    """
    data = Path(data)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not data.exists():
        raise FileNotFoundError(f"data must be a folder, a manifest or a file, got {str(data)!r}, which does not exist")
    manifest = data / MANIFEST if data.is_dir() else data
    if manifest.is_file() and manifest.suffix == ".csv" and (data.is_dir() or not _is_item(manifest, extensions)):
        about, split = _listed(manifest, split)
        return Items(manifest.parent, tuple(sorted(about))[:limit], split, about)
    if data.is_file() and (unpack := _unpacker(data, {".tar": _untar, **(archives or {})})):
        data = unpacked(data.resolve(), unpack)
    elif data.is_file():
        return Items(data.parent, (data.name,))
    found = (p for p in data.rglob("*") if p.suffix.lower() in extensions and p.is_file())
    names = tuple(sorted(p.relative_to(data).as_posix() for p in found))
    if not names:
        raise ValueError(f"{data} holds no files that end in {', '.join(sorted(extensions))}")
    return Items(data, names[:limit])


def _is_item(table: Path, extensions: Collection[str]) -> bool:
    """Whether a table is a signal itself: where tables are signals, those that list no paths."""
    if ".csv" not in extensions:
        return False
    with open(table, encoding="utf-8-sig", errors="replace") as file:
        return "path" not in next(csv.reader(file), [])


def _unpacker(data: Path, archives: Mapping[str, Unpack]) -> Unpack | None:
    """How a file of many items is unpacked, by its extension; None for a file that is one item."""
    return next((unpack for extension, unpack in archives.items() if data.name.lower().endswith(extension)), None)


@lru_cache(maxsize=8)
def unpacked(archive: Path, unpack: Unpack) -> Path:
    """A temporary folder, called like the archive, with its content.

    Raises:
        ValueError: If it is no such archive.
    """
    folder = (
        Path(_scratch().name) / hashlib.sha256(str(archive).encode()).hexdigest()[:8] / archive.stem.partition(".")[0]
    )
    unpack(archive, folder)
    return folder


def _untar(archive: Path, folder: Path) -> None:
    """Extract a tar; it must hold folders and plain files below the folder only."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                target = (folder / member.name).resolve()
                if not (member.isfile() or member.isdir()) or not target.is_relative_to(folder.resolve()):
                    raise ValueError(f"{archive} must hold plain files below one folder, got {member.name!r}")
                if member.isfile():  # by hand: before Python 3.11.4 ``extractall`` has no filter for what is hostile
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as source, open(target, "wb") as copy:  # type: ignore[union-attr]
                        shutil.copyfileobj(source, copy)
    except tarfile.TarError as error:
        raise ValueError(f"{archive} is not a tar of plain files: {error}") from None


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="tokenizers_mm-")


def _listed(manifest: Path, split: str | None) -> tuple[dict[str, dict[str, str]], str | None]:
    """Rows of one split of a manifest by path, and the split if it has any."""
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{manifest} is not a CSV file: {error}") from None
    if "path" not in columns:
        raise ValueError(f"{manifest} must have a column 'path', got {list(columns)}")
    if "split" not in columns or split is None:
        chosen, split = rows, None
    else:
        chosen = [row for row in rows if row["split"] == split]
    about = {Path(row["path"]).as_posix(): {k: v for k, v in row.items() if k and v} for row in chosen if row["path"]}
    if not about:
        splits = sorted({str(row.get("split")) for row in rows})
        raise ValueError(f"{manifest} lists no file of split {split!r}: its splits are {splits}")
    return about, split
