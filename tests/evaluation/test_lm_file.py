"""Rates of files that a language model codes, beside those of plain files, wherever a report shows rates."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from toy_codecs import Coarse

from tokenizers_mm import bitstream, registry
from tokenizers_mm.audio import files
from tokenizers_mm.cli import main
from tokenizers_mm.evaluation.html import write_html
from tokenizers_mm.evaluation.html_rates import comparisons
from tokenizers_mm.evaluation.report import CodecResult, Report, Summary
from tokenizers_mm.evaluation.run import evaluate
from tokenizers_mm.evaluation.schema import read_report
from tokenizers_mm.evaluation.verify import faults
from tokenizers_mm.lm.compression import LMCoder
from tokenizers_mm.lm.ngram import TokenNGram
from tokenizers_mm.tokens import Tokens


@pytest.fixture
def measured(folder: Path, tmp_path: Path) -> tuple[Report, TokenNGram, Tokens]:
    """A report on a codec that the language model knows and one that it doesn't, the model, and the first one's tokens."""
    codec = Coarse()
    items = [codec.encode(files.read(folder / name, codec.spec)[None]) for name in ("a.wav", "b.flac", "sub/c.wav")]
    model = TokenNGram.learn(items, order=2)
    model.save_pretrained(tmp_path / "lm")
    report = evaluate(
        [codec, Coarse(hop=20)], data=folder, metrics=["mel"], baselines=(), lm=tmp_path / "lm", progress=False
    )
    return report, model, Tokens.cat(items)


def test_the_rate_is_that_of_a_file_which_reads_back(measured: tuple[Report, TokenNGram, Tokens]) -> None:
    report, model, tokens = measured
    known, unknown = report.codecs
    data = bitstream.dumps(tokens, coder=LMCoder(model))
    assert bitstream.loads(data, coder=LMCoder(model)) == tokens
    assert known.lm is not None
    assert (known.lm.real_bytes, known.lm.fingerprint) == (len(data), model.fingerprint)
    seconds = sum(item.seconds or 0 for item in known.items)
    assert known.lm_rate == pytest.approx(8 * len(data) / 1000 / seconds)
    assert known.file_rate is not None
    assert known.lm_rate < known.file_rate
    assert unknown.lm is not None
    assert unknown.lm_rate is unknown.lm.real_bytes is None
    assert any("Coarse #2: not coded by" in note for note in report.notes())


def test_reports_keep_and_show_it(measured: tuple[Report, TokenNGram, Tokens], tmp_path: Path) -> None:
    report, known = measured[0], measured[0].codecs[0]
    report.save(tmp_path / "report.json")
    again = read_report(tmp_path / "report.json").codecs
    assert [(result.lm, result.lm_rate) for result in again] == [(r.lm, r.lm_rate) for r in report.codecs]
    console = Console(file=io.StringIO(), width=100)
    console.print(report.table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "with LM" in shown
    assert f"{known.lm_rate:.2f}" in shown
    page = write_html(report, tmp_path / "page.html", items_folder=None).read_text()
    data = json.loads(re.search(r'id="report">(.*?)</script>', page)[1])  # type: ignore[index]
    assert data["series"][0]["lm_rate"] == pytest.approx(known.lm_rate, rel=1e-4)
    assert data["series"][1]["lm_rate"] is None
    assert "with LM" in page[: page.index("<tbody>")]
    edited = replace(report, codecs=(replace(known, lm_rate=0.5), report.codecs[1]))
    assert any("lm_rate: does not follow" in fault for fault in faults(edited))
    assert not any("lm_rate" in fault for fault in faults(report))


def test_reports_without_it_are_what_they_were(measured: tuple[Report, TokenNGram, Tokens]) -> None:
    plain = replace(measured[0], codecs=tuple(replace(result, lm=None, lm_rate=None) for result in measured[0].codecs))
    assert not any("lm" in name for result in plain.to_dict()["codecs"] for name in result)


def test_rate_distortion_compares_both_rates(measured: tuple[Report, TokenNGram, Tokens]) -> None:
    report, known = measured[0], measured[0].codecs[0]
    quality = known.metrics["mel"].mean
    assert quality is not None
    assert known.lm_rate is not None

    def baseline(name: str, kbps: float, mean: float) -> CodecResult:
        return replace(
            known,
            codec=name,
            kind="baseline",
            file_rate=kbps,
            metrics={"mel": Summary.of([mean])},
            lm=None,
            lm_rate=None,
        )

    curve = baseline("Old 1k", known.lm_rate / 2, quality * 2), baseline("Old 8k", 8 * known.lm_rate, quality / 2)
    rows = comparisons(replace(report, codecs=(known, *curve)))["clean"]["mel"]["rows"]
    cells = {row["name"]: row["cells"][0]["value"] for row in rows}
    assert cells["Coarse with LM"] < cells["Coarse"]


def test_the_command_takes_a_model(tmp_path: Path) -> None:
    sample = registry.data_path("eval") / "samples/timeseries/bicycles.csv"
    codec = registry.load("standard-bins-256")
    (known,) = (
        codec.encode(signal[None]) for signal in [registry.wing("timeseries", "files").read(sample, codec.spec)]
    )
    TokenNGram.learn([known], order=2).save_pretrained(tmp_path / "lm")
    command = ["eval", "standard-bins-256", "--data", str(sample), "--no-baselines", "--metrics", "mae"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--lm", str(tmp_path / "lm"), "-o", str(tmp_path / "report.json")])
    assert not stop.value.code
    (result,) = read_report(tmp_path / "report.json").codecs
    assert (result.lm_rate or 9) < (result.file_rate or 0)
    with pytest.raises(SystemExit) as stop:
        main([*command, "--lm", "no-such-model"])
    assert stop.value.code == 1
