"""``mmtok lm bench``: a report of both contenders, with the same ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenizers_mm.cli import main


def test_the_bench_reports_both_with_the_same_ids(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sizes = {"dim": 32, "layers": 1, "heads": 2, "hidden": 32, "vocabulary": 40, "steps": 3, "length": 8, "rounds": 1}
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    with pytest.raises(SystemExit, match="0"):
        main(["lm", "bench", *options, "--threads", "1", "-o", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["results"]) == {"generation, batch 1", "generation, batch 8", "training"}
    for name, row in report["results"].items():
        assert set(row["ratio"]["plain"]) == {"median", "least", "most"}
        assert set(row["tokens_per_second"]) == {"ours", "transformers"}
        assert name == "training" or (
            row["same_ids"] == {"transformers": 1.0} and row["share_of_memory_bound"]["ours"] > 0
        )
    assert report["results"]["training"]["loss_difference"]["transformers"] < 1e-5
