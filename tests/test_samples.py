"""The sounds that ship: as the manifest says, small, audible, and reproducible where no speech synthesiser is involved."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

FOLDER = Path(__file__).parents[1] / "eval" / "samples"
with (FOLDER / "manifest.csv").open(encoding="utf-8", newline="") as _file:
    ROWS = list(csv.DictReader(_file))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_samples", FOLDER / "make_samples.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["make_samples"] = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is packed into the wheel as it is
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@pytest.mark.parametrize("row", ROWS, ids=[row["path"] for row in ROWS])
def test_files_are_what_the_manifest_says(row: dict[str, str]) -> None:
    values, rate = soundfile.read(FOLDER / row["path"], always_2d=True)
    assert rate == int(row["sample_rate"])
    assert values.shape[1] == int(row["channels"])
    assert len(values) / rate == pytest.approx(float(row["seconds"]), abs=0.001)
    assert np.abs(values).max() == pytest.approx(10 ** (-3 / 20), abs=0.001 if row["path"].endswith("flac") else 0.1)
    assert np.sqrt(np.mean(values**2)) > 0.03
    assert row["language"] if row["label"] == "speech" else not row["language"]


def test_nothing_is_missing_or_left_over() -> None:
    listed = {row["path"] for row in ROWS}
    assert len(listed) == len(ROWS)
    found = {p.name for p in FOLDER.iterdir() if p.is_file()}
    assert found == listed | {"manifest.csv", "README.md", "make_samples.py"}
    assert sum(p.stat().st_size for p in FOLDER.iterdir() if p.is_file()) < 2_000_000


def test_splits_are_large_enough_and_disjoint() -> None:
    seconds = {
        split: sum(float(r["seconds"]) for r in ROWS if r["split"] == split) for split in ("train", "valid", "test")
    }
    assert seconds["train"] > 90
    assert seconds["valid"] > 10
    tests = [row for row in ROWS if row["split"] == "test"]
    assert len(tests) == 10
    assert {row["label"] for row in tests} == {"speech", "music", "noise", "tone"}
    assert len({row["language"] for row in ROWS if row["label"] == "speech"}) >= 10


def test_no_sentence_is_in_two_clips(script: ModuleType) -> None:
    sentences = [entry[-1] for entry in script.SPEECH]
    assert len(set(sentences)) == len(sentences)
    assert {f"{entry[0]}" for entry in script.SPEECH} == {Path(r["path"]).stem for r in ROWS if r["label"] == "speech"}


def test_computed_clips_come_out_the_same(script: ModuleType) -> None:
    clips = script.synthetic_clips()
    assert {clip.row.path for clip in clips} == {row["path"] for row in ROWS if row["label"] != "speech"}
    for clip in clips:
        kept = soundfile.read(FOLDER / clip.row.path, always_2d=True)[0].T
        np.testing.assert_allclose(kept, clip.signal, atol=1.01 / 32768, rtol=0, err_msg=clip.row.path)
