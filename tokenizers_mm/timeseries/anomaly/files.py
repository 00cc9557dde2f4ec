"""Series with labels as signals ``[C + 1, N]``, the labels last, and NAB's one table of many series as a file of each.

Rows are steps as they are: labels belong to rows, so that nothing is put on a regular clock.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.timeseries import files
from tokenizers_mm.timeseries.series import Series
from tokenizers_mm.tokens import TokenSpec

EXTENSIONS = (".csv", ".tsv", ".parquet", ".npz")
LABELS = ("label", "labels", "in_window", "is_anomaly", "anomaly")
"""Names of the column that holds the labels, in any case."""
SAMPLE = "step"


def read(path: str | Path, spec: TokenSpec) -> Tensor:
    """A series with its labels as the last channel, float64 ``[C + 1, N]``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or no column or several are called as labels are, or labels are not 0 and 1.
    """
    series = files.load(path)
    where = [i for i, name in enumerate(series.names) if name.lower() in LABELS]
    if len(where) != 1:
        raise ValueError(
            f"{path} needs one column of labels ({', '.join(LABELS)}), its columns are {list(series.names)}"
        )
    labels, values = series.values[where[0]], np.delete(series.values, where[0], axis=0)
    if not np.isin(labels, (0, 1)).all() or not len(values):
        raise ValueError(f"{path} must have labels of 0 and 1, and at least one column of values")
    return torch.from_numpy(np.concatenate([values, labels[None]]))


def write(path: str | Path, signal: Tensor, spec: TokenSpec) -> None:
    """Scores ``[1, N]``, or a series with labels ``[C + 1, N]``, as a file."""
    names = ("score",) if len(signal) == 1 else (*(f"value-{i}" for i in range(len(signal) - 1)), LABELS[0])
    files.save(path, Series(signal.detach().cpu().double().numpy(), names))


def unpack(table: Path, folder: Path) -> None:
    """A table with columns ``series``, ``value`` and ``in_window`` (NAB's) as one file for each series.

    Raises:
        ValueError: If it is no such table.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    try:
        with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["series"], []).append((row["value"], row["in_window"]))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise ValueError(f"{table} is not a gzipped table of series, value and in_window: {error!r}") from None
    for name, rows in found.items():
        path = folder / (re.sub(r"[^\w./-]", "_", name).removesuffix(".csv").lstrip("./") + ".csv")
        if ".." in path.parts:
            raise ValueError(f"{table} names a series {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows([("value", LABELS[0]), *rows])


ARCHIVES: dict[str, Callable[[Path, Path], None]] = {".csv.gz": unpack}
"""By extension, how a file of many items becomes a folder of files."""
