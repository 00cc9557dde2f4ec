"""``mmtok`` on tables: gaps stay gaps, compressed and Parquet files, columns by name, a table of one's own evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tokenizers_mm import cli
from tokenizers_mm.timeseries import files


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Three hundred hours of two columns with gaps and a note, two rows missing."""
    hours = np.arange(300)
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=300, freq="h"),
            "note": ["ok"] * 300,
            "load": 50 + 10 * np.sin(hours / 24 * 2 * np.pi),
            "temperature": np.random.default_rng(0).normal(5, 2, 300),
        }
    )
    frame.loc[17, "load"] = frame.loc[40:45, "temperature"] = np.nan
    return frame.drop(index=[100, 101])


def run(*args: object) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    assert stop.value.code in (0, None), stop.value.code


@pytest.mark.parametrize("name", ["load.csv.gz", "load.parquet"])
def test_tables_come_back_on_their_clock_with_their_gaps(name: str, table: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / name
    table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
    run("encode", path, "-c", "chronos-bins", "--read", "columns=load,temperature")
    run("decode", tmp_path / "load.mmt", "--format", "parquet", "-o", tmp_path / "out")
    found = files.load(tmp_path / "out" / "load.parquet")
    back = found.values
    frame = table.set_index("date")[["load", "temperature"]].asfreq("h")
    expected = frame.to_numpy().T
    assert found.names == ("load", "temperature")
    assert np.array_equal(found.times, frame.index.to_numpy())
    assert np.array_equal(np.isnan(back), np.isnan(expected))
    step = 30 / 4092 * np.nanmean(np.abs(expected), axis=1, keepdims=True)
    assert np.nanmax(np.abs(back - expected) / step) < 0.51


def test_token_files_show_their_columns_and_clock(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.drop(columns="note").rename(columns={"load": "[red]\n"}).to_csv(tmp_path / "load.csv", index=False)
    run("encode", tmp_path / "load.csv", "-c", "totem-etth1")
    capsys.readouterr()
    run("info", tmp_path / "load.mmt")
    shown = " ".join(capsys.readouterr().out.split())
    assert "channels: '[red]\\n', temperature" in shown
    assert "from 2024-01-01 in steps of 3600 s" in shown


def test_tokens_without_labels_decode_to_numbered_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 2)))
    run("encode", tmp_path / "x.npy", "-c", "sax")
    run("decode", tmp_path / "x.mmt", "-o", tmp_path / "x.csv")
    back = files.load(tmp_path / "x.csv")
    assert (back.names, back.times) == (("channel-0", "channel-1"), None)


def test_a_column_of_text_is_named_in_the_error(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.to_csv(tmp_path / "load.csv", index=False)
    with pytest.raises(SystemExit):
        cli.main(["encode", str(tmp_path / "load.csv"), "-c", "chronos-bins"])
    assert "column 'note'" in capsys.readouterr().err


def test_a_table_of_ones_own_is_evaluated(table: pd.DataFrame, tmp_path: Path) -> None:
    table.drop(columns="note").to_csv(tmp_path / "load.csv", index=False)
    run(
        "eval", "totem-etth1", "--suite", "timeseries", "--data", tmp_path / "load.csv",
        "--no-baselines", "-o", tmp_path / "report.json",
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert [item["name"] for item in report["codecs"][0]["items"]] == ["load.csv"]


def test_reading_options_are_checked() -> None:
    found = files.reading({"rows": "0:96", "standardise": "0:-10", "columns": "a, b", "duplicates": "mean"})
    assert found == {"rows": (0, 96), "standardise": (0, -10), "columns": ["a", "b"], "duplicates": "mean"}
    for options, words in (
        ({"montage": "tcp"}, "no reading option 'montage'"),
        ({"rows": "96"}, "first:end"),
        ({"duplicates": "first"}, "error, mean"),
    ):
        with pytest.raises(ValueError, match=words):
            files.reading(options)
