"""Files of series: every format there and back, timestamps, gaps, duplicates, and errors that say what is wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tokenizers_mm.labels import Labels
from tokenizers_mm.timeseries import TOTEM, files
from tokenizers_mm.timeseries.series import Series, from_pandas, ticks

SPEC = TOTEM().spec


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npy", ".npz"])
def test_signals_come_back(suffix: str, tmp_path: Path) -> None:
    x = torch.randn(3, 50)
    x[1, 4:9] = float("nan")
    files.write(tmp_path / f"x{suffix}", x, SPEC)
    back = files.read(tmp_path / f"x{suffix}", SPEC)
    torch.testing.assert_close(back, x, atol=0, rtol=0, equal_nan=True)
    assert [p.name for p in tmp_path.iterdir()] == [f"x{suffix}"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_and_timestamps_come_back(suffix: str, tmp_path: Path) -> None:
    times = pd.date_range("2020-02-28", periods=20, freq="7min").to_numpy("datetime64[ns]")
    series = Series(np.random.default_rng(0).normal(size=(2, 20)), ("load", "oil"), times)
    files.save(tmp_path / f"x{suffix}", series)
    back = files.load(tmp_path / f"x{suffix}")
    assert back.names == series.names
    assert np.array_equal(back.times, times)
    np.testing.assert_allclose(back.values, series.values, rtol=1e-15)
    assert files.info(tmp_path / f"x{suffix}").step == np.timedelta64(7, "m")


def test_labels_are_columns_and_the_regular_clock(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.csv",
        "date,file,b\n2024-01-01 00:00:00,1,2\n2024-01-01 00:00:59,3,4\n2024-01-01 00:02:00,5,6\n2024-01-01 00:05:00,7,8\n",
    )
    x, labels = files.read_labelled(path, SPEC, columns=["b", "file"])
    assert labels.names == ("b", "file")
    assert labels.clock == (np.datetime64("2024-01-01", "ns").astype(int), 61_000_000_000)
    for suffix in (".csv", ".npz"):
        files.write(tmp_path / f"y{suffix}", x, SPEC, labels=labels)
        back = files.load(tmp_path / f"y{suffix}")
        assert back.names == labels.names
        assert back.clock == (labels.clock if suffix == ".csv" else None)
    with pytest.raises(ValueError, match="different names"):
        files.write(tmp_path / "z.csv", x, SPEC, labels=Labels(("a", "a")))
    with pytest.raises(ValueError, match="beyond the years"):
        files.write(tmp_path / "z.csv", x, SPEC, labels=Labels(None, (2**62, 2**60)))


def test_the_clock_of_rounded_times_does_not_drift() -> None:
    times = np.datetime64("2024-01-01", "ns") + np.rint(np.arange(10_000) * 1e9 / 30).astype("timedelta64[ns]")
    series = Series(np.zeros((1, 10_000)), ("a",), times)
    assert series.clock is not None
    assert np.abs(ticks(*series.clock, 10_000) - times).max() < np.timedelta64(10, "us")


def test_rows_are_sorted_and_gaps_are_missing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.csv",
        "date,a\n"
        + "".join(f"2024-01-01 0{hour}:00,{value}\n" for hour, value in ((3, 4), (0, 1), (1, 2), (5, 6), (6, ""))),
    )
    x = files.read(path, SPEC)
    np.testing.assert_array_equal(x[0], [1, 2, np.nan, 4, np.nan, 6, np.nan])


def test_irregular_steps_go_to_the_nearest_tick() -> None:
    seconds = np.array([0, 58, 121, 180, 301, 302])
    series = Series(np.arange(6.0)[None], ("a",), np.datetime64("2024-01-01", "ns") + seconds.astype("timedelta64[s]"))
    regular = series.regular(np.timedelta64(60, "s"))
    np.testing.assert_array_equal(regular.values[0], [0, 1, 2, 3, np.nan, 4.5])
    assert regular.is_regular
    far = Series(
        np.arange(3.0)[None],
        ("a",),
        np.datetime64("2024-01-01", "ns") + np.array([0, 1, 31536000]).astype("timedelta64[s]"),
    )
    with pytest.raises(ValueError, match="cut the series at its gaps"):
        far.regular(np.timedelta64(1, "s"))


def test_duplicates_are_an_error_or_their_mean(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "time,a\n2024-01-01,1\n2024-01-02,2\n2024-01-02,4\n2024-01-03,5\n")
    with pytest.raises(ValueError, match="1 duplicate timestamps, the first 2024-01-02"):
        files.load(path)
    assert files.load(path, duplicates="mean").values.tolist() == [[1, 3, 5]]


def test_long_tables_are_told_apart(tmp_path: Path) -> None:
    text = "series,timestamp,value\nb,2024-01-02,2\nb,2024-01-01,1\na,2024-01-01,7\n"
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    groups = files.load_groups(path, "series")
    assert list(groups) == ["b", "a"]
    assert groups["b"].values.tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="column 'series'"):
        files.load(path)


def test_headless_columns_integers_and_time_zones(tmp_path: Path) -> None:
    assert files.load(write(tmp_path / "a.csv", "1,2\n3,4\n")).values.tolist() == [[1, 3], [2, 4]]
    stamped = files.load(write(tmp_path / "b.csv", "ds,y\n2024-01-01T00:00:00+02:00,1\n2024-01-01T01:00:00+02:00,2\n"))
    assert stamped.times[0] == np.datetime64("2023-12-31T22:00")
    series = from_pandas(pd.DataFrame({"y": [True, False]}, index=pd.date_range("2024", periods=2)))
    assert series.values.tolist() == [[1, 0]]
    assert series.to_pandas().index.name == "time"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"", "cannot be read"),
        ("x.csv", b"time,a\nnoon,1\n", "does not hold timestamps"),
        ("x.csv", b"time,a\n,1\n", "no timestamp in row 0"),
        ("x.csv", b"a,b\n1,two\n", "column 'b' of .* must hold numbers, got 'two' in row 0"),
        ("x.csv", b"time\n2024-01-01\n", "0 columns of values"),
        ("x.csv", b"a\n1\ninf\n", "infinite"),
        ("x.csv", b"a\n1\n1e300\n", "too large for float32"),
        ("x.csv", b"\xff\xfe\x00a", "cannot be read"),
        ("x.csv.gz", b"no gzip", "cannot be read"),
        ("x.parquet", b"PAR1 nonsense", "cannot be read"),
        ("x.npy", b"\x93NUMPY nonsense", "cannot be read"),
        ("x.npz", b"PK nonsense", "cannot be read"),
        ("x.txt", b"1", "extension must be one of"),
    ],
)
def test_bad_files_are_refused_in_words(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        files.read(tmp_path / name, SPEC)


def test_objects_in_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        files.load(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError):
        files.load(tmp_path / "none.csv")
    with pytest.raises(IsADirectoryError):
        files.load(tmp_path)


def test_etts_test_rows_become_windows(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(3, 5, (14_500, 2))
    table = pd.DataFrame(
        values, columns=["HUFL", "OT"], index=pd.date_range("2016-07-01", periods=14_500, freq="h", name="date")
    )
    table.to_csv(tmp_path / "ETTh1.csv")
    files.unpack_ett(tmp_path / "ETTh1.csv", tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert len(names) == 31
    assert names[0] == "rows-11424.csv"
    train = values[:8640]
    expected = ((values[11_424:11_520] - train.mean(0)) / train.std(0)).T
    np.testing.assert_allclose(files.read(tmp_path / "out" / names[0], SPEC), expected, rtol=1e-4, atol=1e-5)
