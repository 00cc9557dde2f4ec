"""The formats that series are stored in: CSV and TSV (also gzipped), Parquet, NumPy."""

from __future__ import annotations

import gzip
import io
import os
import secrets
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tokenizers_mm.timeseries.series import Series

if TYPE_CHECKING:
    import pandas as pd

EXTENSIONS: tuple[str, ...] = (".csv", ".gz", ".tsv", ".parquet", ".npy", ".npz")
MAX_BYTES = 2**32
"""Most bytes that a gzipped file may unpack to: a small file can be a huge table."""

_WRITTEN = (".csv", ".tsv", ".parquet", ".npy", ".npz")


def save(path: str | Path, series: Series) -> None:
    """Write a series, timestamps included (not to NumPy files); the file appears only when it is complete.

    Raises:
        ValueError: If the extension is none of those that are written.
        IsADirectoryError: If ``path`` is a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITTEN:
        raise ValueError(f"cannot write {path}: the extension must be one of {', '.join(_WRITTEN)}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if len(set(series.names)) < len(series.names):
        raise ValueError(f"cannot write {path}: columns must have different names, got {series.names!r}"[:400])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix.lower()}")
    try:
        _save(partial, series)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _save(path: Path, series: Series) -> None:
    if path.suffix == ".npy":
        np.save(path, series.values.T)
    elif path.suffix == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # savez cannot take columns called "file"
            for name, column in zip(series.names, series.values, strict=True):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(column), allow_pickle=False)
    elif path.suffix == ".parquet":
        _parquet_engine()
        series.to_pandas().to_parquet(path)
    else:
        digits = "%.9g" if series.values.dtype == np.float32 else "%.17g"
        separator: Literal["\t", ","] = "\t" if path.suffix == ".tsv" else ","
        series.to_pandas().to_csv(path, sep=separator, index=series.times is not None, float_format=digits)


def read_table(path: Path) -> pd.DataFrame | Series:
    """What a file holds: a table, or a series where the format has no times.

    Raises:
        FileNotFoundError, IsADirectoryError: If there is no such file.
        ValueError: If it cannot be read as that format.
        ImportError: If the package that reads it is not installed.
    """
    if path.is_dir():
        raise IsADirectoryError(f"expected a file of series, {path} is a folder")
    if not path.is_file():
        raise FileNotFoundError(f"no file of series at {path}")
    kind = Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            return _delimited(path, "\t" if kind == ".tsv" else ",")
        if kind == ".parquet":
            import pandas as pd

            _parquet_engine()
            return pd.read_parquet(path)
        if kind in (".npy", ".npz"):
            return _arrays(path)
    except ImportError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as {kind}: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None
    raise ValueError(f"cannot read {path}: the extension must be one of {', '.join(EXTENSIONS)} (.csv.gz, .tsv.gz)")


def _delimited(path: Path, separator: str) -> pd.DataFrame:
    import pandas as pd

    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it holds more than {MAX_BYTES:,} bytes")
    table = pd.read_csv(io.BytesIO(data), sep=separator)
    if all(_is_number(column) for column in table.columns):  # no header: what looks like one is the first row
        table = pd.read_csv(
            io.BytesIO(data), sep=separator, header=None, names=[f"channel-{i}" for i in range(table.shape[1])]
        )
    return table


def _arrays(path: Path) -> Series:
    loaded = np.load(path, allow_pickle=False)
    found: dict[str, np.ndarray] = {"": loaded} if isinstance(loaded, np.ndarray) else {**loaded}
    columns: dict[str, np.ndarray] = {}
    for name, array in found.items():
        if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
            raise ValueError(f"expected numbers [N] or [N, C], got {array.dtype} {list(array.shape)}")
        rows = array.reshape(len(array), -1).T
        prefix = name or "channel"
        columns |= {name if name and array.ndim == 1 else f"{prefix}-{i}": row for i, row in enumerate(rows)}
    if len({len(row) for row in columns.values()}) != 1:
        raise ValueError(f"its arrays differ in length: {sorted({len(row) for row in columns.values()})}")
    return Series(np.stack(list(columns.values())).astype(np.float64), tuple(columns))


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def _parquet_engine() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ImportError("Parquet files need the package pyarrow: pip install 'tokenizers_mm[timeseries]'") from None
