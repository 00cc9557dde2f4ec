"""Manifests: CSV files that name data files, one a row, which every wing's sources read alike."""

from __future__ import annotations

import csv
from pathlib import Path


def manifest_paths(manifest: Path, split: str | None = None) -> list[Path]:
    """Files in a manifest's column ``path``, relative to it, of the rows of a ``split`` (of all rows for None).

    Raises:
        FileNotFoundError: If there is no such manifest.
        ValueError: If it lacks a column.
    """
    if not manifest.is_file():
        raise FileNotFoundError(f"no manifest at {manifest}")
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns, rows = reader.fieldnames or [], list(reader)
    for column in ("path",) if split is None else ("path", "split"):
        if column not in columns:
            raise ValueError(f"{manifest} needs a column {column!r}, it has {list(columns)}")
    return [manifest.parent / row["path"] for row in rows if split is None or row["split"] == split]
