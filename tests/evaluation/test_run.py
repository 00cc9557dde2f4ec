"""evaluate: right numbers from real files, honest about what failed, the same whatever the workers and the modality."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from toy_codecs import RATE, Coarse, Faulty

from tokenizers_mm import bitstream, registry
from tokenizers_mm.audio import WavTokenizer, files
from tokenizers_mm.audio.metrics import METRICS, compute
from tokenizers_mm.evaluation import run
from tokenizers_mm.evaluation.metric import Metric, Unmeasurable, measure
from tokenizers_mm.evaluation.run import evaluate as evaluate_all
from tokenizers_mm.threads import one_thread

QUICK = ["si_sdr", "mel", "stoi"]


def evaluate(codecs: list, **options: Any) -> run.Report:
    """Only the codecs, quietly."""
    return evaluate_all(codecs, **{"baselines": (), "progress": False, **options})


def test_numbers_are_those_of_the_parts(folder: Path, tmp_path: Path):
    codec = Coarse()
    report = evaluate([codec], data=folder, metrics=QUICK, output=tmp_path / "report.json")
    (result,) = report.codecs
    assert [item.name for item in result.items] == ["a.wav", "b.flac", "sub/c.wav"]
    for item in result.items:
        x = files.read(folder / item.name, codec.spec)
        tokens = codec.encode(x[None])
        with one_thread():
            assert item.metrics == compute(x, codec.decode(tokens)[0], codec.spec, QUICK)
        assert item.file_bytes == len(bitstream.dumps(tokens))
        assert item.seconds == x.shape[1] / RATE
        assert item.steps == math.ceil(x.shape[1] / 40)
        assert min(item.encode_seconds, item.decode_seconds) > 0
    values = [item.metrics["mel"] for item in result.items]
    assert result.metrics["mel"].mean == pytest.approx(sum(values) / 3)
    assert result.nominal_rate == pytest.approx(RATE / 40 * 8 / 1000)
    assert result.token_rate == pytest.approx(RATE / 40)
    assert result.file_rate == pytest.approx(result.health.real_bytes * 8 / 1000 / sum(i.seconds for i in result.items))
    assert result.health.steps == sum(item.steps for item in result.items)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["codecs"][0]["metrics"]["mel"]["mean"] == result.metrics["mel"].mean
    assert saved["codecs"][0]["items"][2]["metrics"] == result.items[2].metrics
    assert saved["definitions"]["mel"]["better"] == "lower"
    assert {"cpu", "cores", "threads", "os"} <= saved["machine"].keys()
    assert {"python", "torch", "numpy", "pystoi"} <= saved["versions"].keys()
    assert len(saved["data"]["fingerprint"]) == 64
    assert saved["command"]
    assert saved["date"].endswith("+00:00")


def test_workers_do_not_change_a_number(folder: Path):
    models = {"utmos": lambda signal, rate: float(signal.std())}  # no process could take it along
    options = {"data": folder, "metrics": ["mel", "utmos", "estoi"], "models": models}
    here, there = (evaluate([Coarse()], workers=workers, **options) for workers in (0, 1))
    assert here.codecs[0].metrics["utmos"].count == 3
    assert [i.metrics for i in here.codecs[0].items] == [i.metrics for i in there.codecs[0].items]


def test_a_broken_file_is_listed_and_the_rest_is_evaluated(folder: Path):
    (folder / "broken.wav").write_bytes(b"RIFF no more")
    (folder / "empty.flac").write_bytes(b"")
    report = evaluate([Coarse()], data=folder, metrics=QUICK)
    (result,) = report.codecs
    assert set(result.errors) == {"broken.wav", "empty.flac"}
    assert result.metrics["mel"].count == 3
    assert result.health.items == 3
    assert any("broken.wav failed" in note for note in report.notes())
    assert any("too few to tell" in note for note in report.notes())
    report.to_json()


def test_a_faulty_codec_is_named_and_never_averaged(folder: Path):
    report = evaluate([Faulty(), Coarse()], data=folder, metrics=QUICK)
    faulty, coarse = report.codecs
    assert faulty.errors == {"sub/c.wav": "RuntimeError: too loud for me"}
    assert faulty.metrics["mel"].mean is None
    assert faulty.metrics["mel"].failures == {"the reconstruction holds NaN or infinity": 2}
    assert coarse.metrics["mel"].count == 3
    assert "NaN" not in report.to_json().replace("holds NaN", "")


def test_nothing_readable_still_gives_a_report(tmp_path: Path):
    (tmp_path / "x.wav").write_bytes(b"no sound")
    report = evaluate([Coarse()], data=tmp_path, metrics=QUICK)
    (result,) = report.codecs
    assert result.health is None
    assert result.nominal_rate is None
    assert result.metrics["mel"].count == 0
    show(report)
    report.to_json()


def test_a_metric_that_breaks_costs_only_itself():
    def broken(pair: object) -> float:
        raise ZeroDivisionError("oh")

    def undefined(pair: object) -> float:
        raise Unmeasurable("too short")

    metrics = {
        "good": Metric("good", "", "higher", 1, lambda pair: 2),
        "broken": Metric("broken", "", "higher", 1, broken),
        "undefined": Metric("undefined", "", "higher", 1, undefined),
        "infinite": Metric("infinite", "", "higher", 1, lambda pair: math.inf),
        "missing": Metric("missing", "", "higher", 1, lambda pair: 1, needs=("no_such_package_anywhere",)),
    }
    scores = measure(metrics, None)
    assert scores == {"good": 2.0, "broken": None, "undefined": None, "infinite": None, "missing": None}
    assert scores.reasons == {
        "broken": "ZeroDivisionError: oh",
        "undefined": "too short",
        "infinite": "the result is inf",
        "missing": "needs the package no_such_package_anywhere",
    }


def test_any_modality_with_the_two_rooms_is_evaluated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("one.radar", "two.radar"):
        torch.save(torch.linspace(-1, 1, 90)[None], tmp_path / name)
    metric = Metric("error", "m", "lower", 3, lambda pair: float((pair[0] - pair[1]).abs().max()))
    rooms = {
        "files": SimpleNamespace(EXTENSIONS=(".radar",), read=lambda path, spec: torch.load(path)),
        "metrics": SimpleNamespace(
            METRICS={"error": metric}, compute=lambda a, b, spec, names: measure({"error": metric}, (a, b))
        ),
    }
    monkeypatch.setattr(registry, "wing", lambda modality, room: rooms[room] if modality == "radar" else None)
    suite = tmp_path / "radar.yaml"
    suite.write_text("{name: radar, modality: radar, data: none, metrics: [error], headline: [error]}")
    report = evaluate([Coarse("radar", hop=1, sample_rate=None)], data=tmp_path, suite=suite)
    (result,) = report.codecs
    assert result.rate_unit == "bit/sample"
    assert result.nominal_rate == 8
    assert result.items[0].seconds is None
    assert result.metrics["error"].mean == pytest.approx(0.005, abs=0.001)
    assert "bit/sample" in show(report)


def show(report: run.Report, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(report.table())
    console.print(report.details())
    return console.export_text()


def test_tables_say_direction_unit_interval_and_fit_a_terminal(folder: Path):
    (folder / "broken.wav").write_bytes(b"RIFF no more")
    report = evaluate([Coarse(), Coarse(hop=20)], data=folder)
    assert list(report.definitions) == list(report.codecs[0].metrics)
    assert set(report.definitions) >= {key for key, metric in METRICS.items() if not (metric.model or metric.combine)}
    text = show(report)
    for part in ("PESQ wb", "dB ↑", "±", "Coarse #2", "1 failed *", "kbit/s", "3.20", "6.40", "F0 RMSE cents ↓"):
        assert part in text, part
    narrow = show(report, width=80)
    for part in (
        "dec ↓",
        "perpl.",
        f"{report.codecs[1].decode.mean:.3f}",
        f"±{report.codecs[1].metrics['si_sdr'].ci95:.2f}",
    ):
        assert part in narrow, part


def test_a_trained_architecture_goes_through(folder: Path):
    quantizer = {"kind": "vq", "codebook_size": 64}
    sizes = {"n_filters": 4, "encoder_dim": 32, "dim": 32, "intermediate_dim": 64, "layers": 2}
    codec = WavTokenizer(sample_rate=RATE, strides=(2, 4, 5, 8), quantizer=quantizer, **sizes)
    report = evaluate([codec], data=folder, limit=1, metrics=QUICK)
    (result,) = report.codecs
    assert result.metrics["mel"].count == 1
    assert result.config["layers"] == 2
    assert result.parameters == sum(p.numel() for p in codec.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"codecs": []}, ValueError, "at least one codec"),
        ({"codecs": ["no-such-codec"]}, ValueError, "no-such-codec"),
        ({"metrics": ["pesk"]}, ValueError, r"unknown metrics \['pesk'\]: did you mean 'pesq_"),
        ({"suite": "no-such-suite"}, ValueError, r"no suite 'no-such-suite': expected one of .*audio"),
        ({"data": "/no/such/folder"}, FileNotFoundError, "/no/such/folder"),
        ({"output": "/no/such/folder/report.json"}, FileNotFoundError, "/no/such/folder"),
        ({"limit": 0}, ValueError, "limit must be at least 1"),
        ({"workers": -1}, ValueError, "workers must be 0 or more"),
        ({"codecs": [Coarse(), Coarse("eeg")]}, ValueError, "one modality"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(folder: Path, arguments: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        evaluate(**{"codecs": [Coarse()], "data": folder, **arguments})
