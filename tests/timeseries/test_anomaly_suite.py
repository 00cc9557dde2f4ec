"""Detectors in the evaluation: labels stay hidden, results resume and show, the commands; NAB's table as files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.cli import main
from tokenizers_mm.evaluation.html import write_html
from tokenizers_mm.evaluation.run import evaluate
from tokenizers_mm.evaluation.suite import load_suite
from tokenizers_mm.timeseries import TimeRCD
from tokenizers_mm.timeseries.anomaly import files, show
from tokenizers_mm.timeseries.anomaly.curves import segments
from tokenizers_mm.tokens import TokenSpec

SPEC = TokenSpec("timeseries.anomaly", (2,), channels=0)


def table(count: int = 3, n: int = 400) -> str:
    """NAB's table, of generated series: one without anomalies, the others with one that is easy to find."""
    rng, rows = np.random.default_rng(0), ["series,timestamp,value,in_window"]
    for i in range(count):
        values = np.sin(np.arange(n) / 6) + 0.05 * rng.standard_normal(n)
        if i:
            values[200:220] += 5
        rows += [
            f"kind/series {i},2020-01-01 00:00:00,{v:.5f},{int(i > 0 and 200 <= k < 220)}" for k, v in enumerate(values)
        ]
    return "\n".join(rows) + "\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "set.csv.gz"
    path.write_bytes(gzip.compress(table().encode()))
    return path


class Watcher:
    """Remembers what it was given."""

    definition, module = "watches", None

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def score(self, signal: Tensor) -> Tensor:
        self.seen.append(signal)
        return signal[0].float()


def test_a_detector_never_sees_labels_and_is_measured_by_them(data: Path) -> None:
    watcher = Watcher()
    report = evaluate([watcher], suite="anomaly", data=data, baselines=["z-score"], progress=False)
    assert all(signal.shape[0] == 1 and len(signal.unique()) > 2 for signal in watcher.seen)
    mine, baseline = report.codecs
    assert (mine.codec, mine.kind, baseline.codec, baseline.kind) == ("Watcher", "detector", "z-score", "baseline")
    assert mine.metrics["auc_pr"].mean == 1
    assert mine.metrics["auc_pr"].count == 2
    assert mine.metrics["auc_pr"].failures == {"the series has no anomaly": 1}
    assert mine.nominal_rate is mine.file_rate is mine.token_rate is mine.health is None
    assert [item.name for item in mine.items] == [f"kind/series_{i}.csv" for i in range(3)]


def test_the_report_is_read_back_and_shown(data: Path, tmp_path: Path) -> None:
    from tokenizers_mm.evaluation.schema import read_report

    keep, page = tmp_path / "keep", tmp_path / "page.html"
    report = evaluate(
        ["z-score"],
        suite="anomaly",
        data=data,
        baselines=["sub-pca"],
        keep=keep,
        output=tmp_path / "r.json",
        progress=False,
    )
    found = read_report(tmp_path / "r.json")
    assert [result.metrics for result in found.codecs] == [result.metrics for result in report.codecs]
    assert found.digest == found.content_digest()
    write_html(report, page, items_folder=keep)
    text = page.read_text()
    assert "1 detector and 1 baseline on 3 files of set" in text
    assert "data:image/webp;base64," in text
    assert "1 labelled window, anomaly score below" in text
    head = text.split("<thead>")[1].split("</thead>")[0]
    assert "VUS-PR" in head
    assert "nominal" not in head
    assert "perplexity" not in head
    shown = "\n".join(str(column.header) for column in report.table().columns)
    assert "VUS-PR" in shown
    assert "perpl." not in shown


def test_the_shipped_suite_is_checked_and_headed_by_vus_pr() -> None:
    suite = load_suite("anomaly")
    assert suite.headline[0] == "vus_pr"
    assert set(suite.metrics) == set(registry.wing(suite.modality, "metrics").METRICS)
    assert set(suite.baselines) == set(registry.wing(suite.modality, "baselines").BASELINES)


def test_wings_inside_wings_are_found_or_named() -> None:
    assert registry.wing("timeseries.anomaly", "files") is files
    with pytest.raises(ValueError, match="the timeseries wing has no wing 'weather' inside"):
        registry.wing("timeseries.weather", "files")
    with pytest.raises(ValueError, match="modality must be a wing's name"):
        registry.wing("timeseries..files", "files")


def test_a_table_of_many_series_becomes_files(data: Path, tmp_path: Path) -> None:
    files.unpack(data, tmp_path / "out")
    signal = files.read(tmp_path / "out" / "kind" / "series_1.csv", SPEC)
    assert signal.shape == (2, 400)
    assert segments(signal[-1].numpy()).tolist() == [[200, 220]]
    evil = tmp_path / "evil.csv.gz"
    evil.write_bytes(gzip.compress(b"series,timestamp,value,in_window\n../../x,0,1,0\n"))
    files.unpack(evil, tmp_path / "safe" / "deep")
    written = {path.resolve() for path in tmp_path.rglob("x.csv")}
    assert all(path.is_relative_to((tmp_path / "safe" / "deep").resolve()) for path in written)
    evil.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="not a gzipped table"):
        files.unpack(evil, tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("value\n1\n2\n", "one column of labels"),
        ("value,label\n1,0\n2,3\n", "labels of 0 and 1"),
        ("label\n1\n0\n", "at least one"),
    ],
)
def test_files_without_proper_labels_say_so(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        files.read(tmp_path / "a.csv", SPEC)


def test_pictures_of_long_and_wide_series() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(20_000, int)
    labels[5000:5100] = 1
    for kind, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("webp", b"RIFF")):
        image = show.picture(rng.standard_normal((12, 20_000)), rng.random(20_000), labels, kind=kind)
        assert image.startswith(magic)
    assert show.picture(np.ones((1, 1)))


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    values = np.sin(np.arange(300) / 6)
    values[150] = 9
    rows = [f"2024-01-01T{i // 60:02d}:{i % 60:02d}:00,{v:.4f},{int(i == 150)}" for i, v in enumerate(values)]
    (tmp_path / "machine.csv").write_text("time,value,label\n" + "\n".join(rows) + "\n")
    return tmp_path / "machine.csv"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_mmtok_anomaly_writes_scores_and_pictures(machine: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    folder = machine.parent
    TimeRCD(dim=16, step_dim=4, layers=1, heads=2, window=64).save_pretrained(folder / "mine")
    scores, page = folder / f"scores.{kind}", folder / "page.html"
    assert run("anomaly", machine, "-d", "z-score", "-o", scores, "--picture", page) == 0
    shown = capsys.readouterr().out
    assert "2024-01-01T02:30:00" in shown
    found = (pd.read_csv if kind == "csv" else pd.read_parquet)(scores)
    assert len(found) == 300
    assert int(found["score"].argmax()) == 150
    assert "value" not in found.columns
    assert "data:image/svg+xml;base64," in page.read_text()
    assert run("anomaly", machine, "-d", folder / "mine", "-p", folder / "p.png", "--peaks", "0") == 0
    assert (folder / "machine-scores.csv").is_file()
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-d", "magic"], "no detector 'magic'"),
        (["-d", "z-score", "--columns", "speed"], "no column 'speed'"),
        (["-d", "z-score", "-p", "x.gif"], "a picture must end in"),
        (["-d", "z-score", "-o", "missing/x.csv"], "in a folder that exists"),
    ],
)
def test_mmtok_anomaly_says_what_is_wrong(
    machine: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(machine.parent)
    assert run("anomaly", machine, *words) == 1
    assert says in capsys.readouterr().err


def test_mmtok_eval_takes_detectors(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_words = ("eval", "z-score", "--suite", "anomaly", "--data", data, "--no-baselines", "-o", tmp_path / "r.json")
    assert run(*main_words) == 0
    assert "VUS-PR" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["codecs"][0]["kind"] == "detector"
    assert run("eval", "nobody", "--suite", "anomaly", "--data", data) == 1
    assert "no detector 'nobody'" in capsys.readouterr().err


def test_scores_that_do_not_fit_are_listed_not_averaged(data: Path) -> None:
    class Short(Watcher):
        def score(self, signal: Tensor) -> Tensor:
            return torch.zeros(3)

    report = evaluate([Short()], suite="anomaly", data=data, baselines=[], progress=False)
    assert len(report.codecs[0].errors) == 3
    assert "must give finite scores [400]" in next(iter(report.codecs[0].errors.values()))
