"""Series: values of one or more channels with names and timestamps, and tables (pandas) as series.

Rows of a table are points in time. Codecs presuppose a regular clock: :meth:`Series.regular` puts irregular rows on one, NaN
where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

Duplicates = Literal["error", "mean"]
_TIME_NAMES = ("date", "datetime", "ds", "time", "timestamp", "timestamps")
_GROWTH = 100  # a regular clock may need at most so many times the rows that there are


@dataclass(frozen=True, eq=False)
class Series:
    """A multivariate time series.

    Args:
        values: float64 ``[C, N]``, NaN where missing.
        names: Of the channels.
        times: datetime64[ns] ``[N]``, strictly increasing; None where the file has none.

    Raises:
        ValueError: If shapes do not fit, times do not increase, or there is nothing in it.
    """

    values: np.ndarray
    names: tuple[str, ...]
    times: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.size == 0 or len(self.names) != len(self.values):
            raise ValueError(
                f"expected values [C, N] of at least one channel and sample, and a name per channel, got "
                f"{list(self.values.shape)} and {len(self.names)} names"
            )
        if self.times is None:
            return
        if self.times.shape != (self.values.shape[1],):
            raise ValueError(f"times must be [{self.values.shape[1]}], got {list(self.times.shape)}")
        if not (np.diff(self.times) > np.timedelta64(0)).all():
            raise ValueError("times must increase strictly")

    def __len__(self) -> int:
        """Samples N."""
        return self.values.shape[1]

    @property
    def step(self) -> np.timedelta64 | None:
        """The median step in time, the lower one of two; None without times or with a single sample."""
        if self.times is None or len(self) < 2:
            return None
        steps = np.sort(np.diff(self.times).astype(np.int64))
        return np.timedelta64(int(steps[(len(steps) - 1) // 2]), "ns")

    @property
    def is_regular(self) -> bool:
        """Whether all steps are equal, to a thousandth of a step; a series without times counts as regular."""
        step = self.step
        if step is None or self.times is None:
            return True
        return bool((np.abs(np.diff(self.times) - step) <= step / 1000).all())

    @property
    def clock(self) -> tuple[int, int] | None:
        """Nanoseconds from 1970-01-01 UTC to the first sample and, on average, from each to the next; None without."""
        if self.times is None or not self.is_regular:
            return None
        first, last = (int(time) for time in self.times[[0, -1]].astype("datetime64[ns]").astype(np.int64))
        return first, round((last - first) / max(1, len(self) - 1))

    def regular(self, step: np.timedelta64 | None = None) -> Series:
        """The series on a clock of equal steps: each row at the nearest tick, the mean of rows that share one, NaN where none is.

        Args:
            step: Of the clock; by default the median one.

        Raises:
            ValueError: If the clock would need more than a hundred times as many ticks as there are rows.
        """
        if self.times is None or len(self) < 2 or (step is None and self.is_regular):
            return self
        tick = int((step or self.step or np.timedelta64(1)).astype("timedelta64[ns]").astype(np.int64))
        places = np.rint((self.times - self.times[0]).astype(np.int64) / tick).astype(np.int64)
        count = int(places[-1]) + 1
        if count > _GROWTH * len(self):
            raise ValueError(
                f"{len(self)} rows from {self.times[0]} to {self.times[-1]} need {count:,} steps of "
                f"{np.timedelta64(tick, 'ns')}: give the step, or cut the series at its gaps"
            )
        times = self.times[0] + np.arange(count) * np.timedelta64(tick, "ns")
        return Series(_means(self.values, places, count), self.names, times)

    def signal(self) -> Tensor:
        """float32 ``[C, N]`` as codecs take it, without the batch axis.

        Raises:
            ValueError: If a value is infinite, or too large for float32.
        """
        with np.errstate(over="ignore"):
            values = self.values.astype(np.float32)
        if np.isinf(values).any():
            channel, place = (int(i) for i in np.argwhere(np.isinf(values))[0])
            raise ValueError(
                f"column {self.names[channel]!r} holds {self.values[channel, place]:g} at row {place}, which is infinite or too "
                "large for float32: leave the cell empty if the value is missing"
            )
        return torch.from_numpy(values)

    def pick(self, names: Sequence[str]) -> Series:
        """Some channels, in the order given.

        Raises:
            ValueError: If one is unknown.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"no column {unknown[0]!r}: expected some of {list(self.names)}")
        return Series(self.values[[self.names.index(name) for name in names]], tuple(names), self.times)

    def rows(self, start: int, stop: int) -> Series:
        """Samples ``start`` to ``stop``."""
        times = None if self.times is None else self.times[start:stop]
        return Series(self.values[:, start:stop], self.names, times)

    def to_pandas(self) -> pd.DataFrame:
        """One row per point in time, times as the index where there are any."""
        import pandas as pd

        index = None if self.times is None else pd.DatetimeIndex(self.times, name="time")
        return pd.DataFrame(self.values.T, columns=list(self.names), index=index)


def ticks(start: int, step: int, count: int) -> np.ndarray:
    """Times datetime64[ns] ``[count]`` of a clock (see :attr:`Series.clock`).

    Raises:
        ValueError: If they go beyond what datetime64[ns] holds.
    """
    if not -(2**63) < start <= start + step * count < 2**63:
        raise ValueError(
            f"a clock of {count} steps of {step} ns from {start} goes beyond the years that timestamps hold"
        )
    return (start + step * np.arange(count)).astype("datetime64[ns]")


def from_pandas(
    table: pd.DataFrame | pd.Series,
    *,
    time: str | None = None,
    duplicates: Duplicates = "error",
    name: str = "the table",
) -> Series:
    """A table whose rows are points in time as a series.

    Rows are sorted by time. Columns of integers and booleans become float; empty cells become NaN.

    Args:
        table: A frame, or one column.
        time: The column of timestamps; by default the index where it is one of dates, else the first column that is one of
            dates or is called ``date``, ``time``, ``timestamp`` or the like.
        duplicates: What becomes of rows with one timestamp: an error, or their mean.
        name: What errors call it.

    Raises:
        ValueError: If a column is not of numbers, timestamps cannot be read or occur twice, or nothing is left.
    """
    import pandas as pd

    frame = table.to_frame() if isinstance(table, pd.Series) else table
    if time is None and isinstance(frame.index, pd.DatetimeIndex):
        stamps = pd.Series(frame.index)
    else:
        column = time_column(frame, time, name)
        stamps = None if column is None else frame[column]
        frame = frame if column is None else frame.drop(columns=column)
    if not frame.shape[0] or not frame.shape[1]:
        raise ValueError(
            f"{name} has {frame.shape[0]} rows and {frame.shape[1]} columns of values: expected at least one"
        )
    values = np.stack([_numbers(frame.iloc[:, i], name) for i in range(frame.shape[1])])
    if duplicates == "mean" and stamps is not None:
        times, places = np.unique(_times(stamps, name), return_inverse=True)
        return Series(_means(values, places, len(times)), tuple(str(column) for column in frame.columns), times)
    names = tuple(str(column) for column in frame.columns)
    if stamps is None:
        return Series(values, names)
    times = _times(stamps, name)
    order = np.argsort(times, kind="stable")
    times = times[order]
    if (twice := np.flatnonzero(np.diff(times) == np.timedelta64(0))).size:
        raise ValueError(
            f"{name} has {twice.size} duplicate timestamps, the first {times[twice[0]]}: average those rows "
            "(duplicates='mean'), or name the column that tells several series apart (load_groups)"
        )
    return Series(values[:, order], names, times)


def _means(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Means ``[C, count]`` of the values ``[C, N]`` that share a place, NaN where none is observed."""
    rows = []
    for channel in values:
        observed = ~np.isnan(channel)
        at = places[observed]
        sums, seen = np.bincount(at, channel[observed], minlength=count), np.bincount(at, minlength=count)
        rows.append(np.divide(sums, seen, out=np.full(count, np.nan), where=seen > 0))
    return np.stack(rows)


def time_column(frame: pd.DataFrame, wanted: str | None, name: str) -> str | None:
    from pandas.api import types

    if wanted is not None:
        if wanted not in frame.columns:
            raise ValueError(f"{name} has no column {wanted!r}: expected one of {list(map(str, frame.columns))}")
        return wanted
    for column in frame.columns:
        called = str(column).strip().lower() in _TIME_NAMES
        if types.is_datetime64_any_dtype(frame[column]) or (called and not types.is_bool_dtype(frame[column])):
            return column
    return None


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    import pandas as pd

    try:
        return pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
        found = f"{bad.iloc[0]!r} in row {bad.index[0]}" if len(bad) else f"values of type {column.dtype}"
        raise ValueError(
            f"column {str(column.name)!r} of {name} must hold numbers, got {found}: leave it out, or name it as the time or as "
            "what tells series apart"
        ) from None


def _times(column: pd.Series, name: str) -> np.ndarray:
    """datetime64[ns]; numbers count as seconds."""
    import pandas as pd
    from pandas.api import types

    try:
        if types.is_numeric_dtype(column):
            parsed = pd.to_datetime(column, unit="s")
        else:
            parsed = pd.to_datetime(column, utc=bool(types.is_object_dtype(column) or types.is_string_dtype(column)))
        if parsed.dt.tz is not None:
            parsed = parsed.dt.tz_convert("UTC").dt.tz_localize(None)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"column {str(column.name)!r} of {name} does not hold timestamps: {error}") from None
    if parsed.isna().any():
        raise ValueError(f"column {str(column.name)!r} of {name} has no timestamp in row {int(parsed.isna().argmax())}")
    return parsed.to_numpy(dtype="datetime64[ns]")
