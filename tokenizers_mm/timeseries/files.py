"""Files of series <-> tensors: CSV (also gzipped), Parquet, NumPy. Rows are points in time, columns are channels.

Timestamps sort the rows and decide where values are missing; series with irregular steps are put on a regular clock
(:meth:`tokenizers_mm.timeseries.series.Series.regular`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from torch import Tensor

from tokenizers_mm.labels import Labels
from tokenizers_mm.timeseries.formats import EXTENSIONS, read_table, save
from tokenizers_mm.timeseries.series import Duplicates, Series, from_pandas, ticks, time_column
from tokenizers_mm.tokens import TokenSpec

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EXTENSIONS",
    "SAMPLE",
    "Series",
    "SeriesInfo",
    "from_pandas",
    "info",
    "load",
    "load_groups",
    "read",
    "read_labelled",
    "reading",
    "save",
    "write",
]

SAMPLE = "value"
"""What rates of this modality refer to."""
_ETT_ROWS, _ETT_WINDOW = (8640, 11520, 14400), 96  # ends of training, validation and test (Zhou et al., 2021)


@dataclass(frozen=True)
class SeriesInfo:
    """What is in a file of series.

    Args:
        names: Columns of values.
        samples: Rows.
        start: First timestamp, None without times.
        end: Last timestamp.
        step: Median step.
        regular: Whether all steps are equal.
        missing: Empty cells.
    """

    names: tuple[str, ...]
    samples: int
    start: np.datetime64 | None
    end: np.datetime64 | None
    step: np.timedelta64 | None
    regular: bool
    missing: int


def unpack_ett(table: Path, folder: Path) -> None:
    """The test rows of an hourly ETT table, standardised by its training rows, as windows of 96 rows in a file each.

    The first window is the look-back of the first test row, as the protocol has it.

    Raises:
        ValueError: If the table has fewer than 14,400 rows.
    """
    series = load(table)
    if len(series) < _ETT_ROWS[2]:
        raise ValueError(f"{table} must have at least {_ETT_ROWS[2]} rows, got {len(series)}")
    scaled = scaled_by(series, series.rows(0, _ETT_ROWS[0]))
    for start in range(_ETT_ROWS[1] - _ETT_WINDOW, _ETT_ROWS[2], _ETT_WINDOW):
        part = scaled.rows(start, start + _ETT_WINDOW)
        values = part.values.astype(np.float32)
        save(folder / f"rows-{start}.csv", Series(values, part.names, part.times))


ARCHIVES = {f"etth{i}.csv{gz}": unpack_ett for i in (1, 2) for gz in ("", ".gz")}
"""Files that hold many items, by the end of their names: how an evaluation takes them apart."""


def info(path: str | Path) -> SeriesInfo:
    """What is in a file; errors as :func:`load`."""
    series = load(path)
    start, end = (None, None) if series.times is None else (series.times[0], series.times[-1])
    return SeriesInfo(
        series.names, len(series), start, end, series.step, series.is_regular, int(np.isnan(series.values).sum())
    )


def load(
    path: str | Path,
    *,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    duplicates: Duplicates = "error",
) -> Series:
    """A file as a series, sorted by time.

    Args:
        path: ``.csv``, ``.tsv`` or either with ``.gz``; ``.parquet``; ``.npy`` with ``[N]`` or ``[N, C]``; ``.npz`` with one
            array ``[N]`` per channel, or one of ``[N, C]``.
        time: Column of timestamps; by default found by its type or name.
        columns: Columns of values, in this order; by default all that are not the time.
        duplicates: What becomes of rows with one timestamp: an error, or their mean.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If it cannot be read as that format, a column is not of numbers, or timestamps are unreadable or duplicate.
        ImportError: If the package that reads this format is not installed.
    """
    path = Path(path)
    table = read_table(path)
    if isinstance(table, Series):
        return table if columns is None else table.pick(columns)
    if columns is not None:
        _check_columns(table, columns, path)
        table = table[_with_time(table, columns, time)]
    series = from_pandas(table, time=time, duplicates=duplicates, name=str(path))
    return series if columns is None else series.pick([c for c in columns if c != time])


def load_groups(
    path: str | Path,
    group: str,
    *,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    duplicates: Duplicates = "error",
) -> dict[str, Series]:
    """A long table of several series, by name, in the order of their first rows.

    Args:
        path: CSV, TSV or Parquet.
        group: The column that tells the series apart.
        time: Column of timestamps, as in :func:`load`.
        columns: Columns of values; by default all the others.
        duplicates: As in :func:`load`.

    Raises:
        As :func:`load`, also if two rows of one series have the same timestamp.
    """
    table = read_table(Path(path))
    if isinstance(table, Series):
        raise ValueError(f"{path} has no column {group!r}: groups need a CSV or Parquet table")
    _check_columns(table, [group, *(columns or ())], Path(path))
    wanted = None if columns is None else _with_time(table, columns, time)
    found = {}
    for key, rows in table.groupby(group, sort=False):
        part = rows.drop(columns=group) if wanted is None else rows[wanted]
        found[str(key)] = from_pandas(part, time=time, duplicates=duplicates, name=f"{path}, {key}")
    return found


def read(
    path: str | Path,
    spec: TokenSpec,
    *,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    duplicates: Duplicates = "error",
    rows: Sequence[int] | None = None,
    standardise: Sequence[int] | None = None,
) -> Tensor:
    """A file as a signal on a regular clock: what :func:`read_labelled` reads, without the labels."""
    return read_labelled(
        path, spec, time=time, columns=columns, duplicates=duplicates, rows=rows, standardise=standardise
    )[0]


def read_labelled(
    path: str | Path,
    spec: TokenSpec,
    *,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    duplicates: Duplicates = "error",
    rows: Sequence[int] | None = None,
    standardise: Sequence[int] | None = None,
) -> tuple[Tensor, Labels]:
    """A file as a signal on a regular clock, with its columns' names and that clock.

    Args:
        path: See :func:`load`.
        spec: Gives ``channels``: 0 for any number.
        time: As in :func:`load`.
        columns: As in :func:`load`.
        duplicates: As in :func:`load`.
        rows: First row and the one after the last of what is returned; by default all. Negative ones count from the end.
        standardise: Rows whose mean and deviation (per channel) every value is standardised with; by default values stay as
            they are. The ETT protocol is ``[0, 8640]``, the training rows.

    Returns:
        float32 ``[C, N]``, NaN where missing, and labels. Rows at irregular times are at the nearest ticks of the clock, whose
        step is the median one (:meth:`~tokenizers_mm.timeseries.series.Series.regular`): their own times are not kept.

    Raises:
        As :func:`load`; also ValueError if a value is infinite, the spec wants another number of channels, or there are no
            such rows.
    """
    if spec.modality != "timeseries":
        raise ValueError(f"expected a timeseries spec, got {spec.modality}")
    series = load(path, time=time, columns=columns, duplicates=duplicates).regular()
    if spec.channels and spec.channels != len(series.values):
        raise ValueError(f"{path} has {len(series.values)} columns of values, the codec takes {spec.channels}")
    if standardise is not None:
        series = scaled_by(series, series.rows(*standardise))
    if rows is not None:
        series = series.rows(*rows)
    return series.signal(), Labels(series.names, series.clock)


def reading(options: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of :func:`read` from names and values: what ``mmtok ... --read NAME=VALUE`` takes.

    Args:
        options: ``time`` and ``duplicates`` as they are, ``columns`` as ``a,b``, ``rows`` and ``standardise`` as ``first:end``.

    Raises:
        ValueError: For an unknown option or a value that is none of its kind.
    """
    parse: dict[str, Callable[[str], Any]] = {
        "time": str,
        "columns": _listed,
        "duplicates": _kind,
        "rows": _range,
        "standardise": _range,
    }
    if unknown := sorted(set(options) - parse.keys()):
        raise ValueError(f"series have no reading option {unknown[0]!r}: expected some of {', '.join(parse)}")
    return {name: parse[name](str(value)) for name, value in options.items()}


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _kind(text: str) -> str:
    if text not in get_args(Duplicates):
        raise ValueError(f"duplicates must be one of {', '.join(get_args(Duplicates))}, got {text!r}")
    return text


def _range(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"(-?\d+):(-?\d+)", text)):
        raise ValueError(f"rows and standardise must be first:end, such as 0:8640, got {text!r}")
    return int(found[1]), int(found[2])


def scaled_by(series: Series, part: Series) -> Series:
    """A series standardised by the mean and population deviation of a part of it; a constant channel keeps its scale."""
    mean, deviation = np.nanmean(part.values, axis=1, keepdims=True), np.nanstd(part.values, axis=1, keepdims=True)
    values = (series.values - mean) / np.where(deviation > 0, deviation, 1)
    return Series(values, series.names, series.times)


def write(path: str | Path, signal: Tensor, spec: TokenSpec, *, labels: Labels | None = None) -> None:
    """Write a signal; missing values are empty cells.

    Args:
        path: Where to; ``.csv``, ``.tsv``, ``.parquet``, ``.npy`` or ``.npz``.
        signal: Float ``[C, N]``.
        spec: Gives the modality.
        labels: Names of the columns, ``channel-0`` and so on by default, and the clock of a column ``time``.

    Raises:
        TypeError: If the signal is not a float tensor.
        ValueError: If it is of another shape, the labels do not fit, or the format is unknown.
    """
    if not isinstance(signal, Tensor) or not signal.is_floating_point():
        raise TypeError(f"expected a float signal [C, N], got {getattr(signal, 'dtype', type(signal).__name__)}")
    if spec.modality != "timeseries" or signal.ndim != 2 or not signal.numel():
        raise ValueError(f"expected a timeseries signal [C, N], got {spec.modality} {list(signal.shape)}")
    values = signal.detach().cpu().float().numpy()
    labels = labels or Labels()
    names = tuple(f"channel-{i}" for i in range(len(values))) if labels.names is None else labels.names
    save(path, Series(values, names, None if labels.clock is None else ticks(*labels.clock, values.shape[1])))


def _with_time(table: pd.DataFrame, columns: Sequence[str], time: str | None) -> list[str]:
    stamp = time_column(table, time, "the table")
    return [*([stamp] if stamp is not None and stamp not in columns else []), *columns]


def _check_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    if missing := [column for column in columns if column not in table.columns]:
        raise ValueError(f"{path} has no column {missing[0]!r}: expected some of {list(map(str, table.columns))}")
