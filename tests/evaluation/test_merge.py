"""Saved results on one page: what merges, what is told apart, what may be shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_html import Page
from toy_report import toy_report

from tokenizers_mm.cli import main
from tokenizers_mm.evaluation.keep import Kept
from tokenizers_mm.evaluation.merge import merge
from tokenizers_mm.evaluation.report import Report
from tokenizers_mm.evaluation.tables import short_names


def saved(folder: Path, name: str, codecs: tuple[str, ...], kept: bool = False, **changes: object) -> Path:
    """A result file, its kept files beside it in a folder of its name."""
    place = folder / name
    report = toy_report(place if kept else None, items=("a.wav", "b.wav"), codecs=codecs)
    prints = tuple(
        replace(c, fingerprint=f"{c.codec} of {name if changes.get('retrained') else ''}") for c in report.codecs
    )
    changes = {key: value for key, value in changes.items() if key != "retrained"}
    replace(report, codecs=prints, kept=name if kept else None, **changes).save(folder / f"{name}.json")
    return folder / f"{name}.json"


def test_codecs_of_several_results_stand_side_by_side(tmp_path: Path):
    one = saved(tmp_path, "one", ("good", "Opus 6k"), kept=True, command="mmtok eval good")
    two = saved(
        tmp_path, "two", ("bad", "Opus 6k"), kept=True, command="mmtok eval bad", date="2026-05-05T00:00:00+00:00"
    )
    three = saved(tmp_path, "three", ("worse",))
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["report", str(one), str(two), str(three), "-o", str(tmp_path / "page.html")])
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    data = page.island("report")
    assert [s["name"] for s in data["series"]] == ["good", "bad", "worse", "Opus 6k"]
    assert data["shown"] == 2
    media = page.island("media-0")
    assert sorted(media["versions"]) == ["0", "1", "3"]  # nothing was kept of the third
    assert len(media["originals"]) == 1
    for part in ("mmtok eval good", "mmtok eval bad", "2026-01-02 03:04:05 UTC", "2026-05-05"):
        assert part in page.text


def test_a_page_is_as_if_one_run_had_made_it(tmp_path: Path):
    whole = saved(tmp_path, "whole", ("good", "bad", "Opus 6k"), kept=True)
    first = saved(tmp_path, "first", ("good", "Opus 6k"), kept=True)
    second = saved(tmp_path, "second", ("bad", "Opus 6k"), kept=True)
    both, at_once = merge([first, second]).report, merge([whole]).report
    assert [c.codec for c in both.codecs] == [c.codec for c in at_once.codecs]
    assert [c.metrics for c in both.codecs] == [c.metrics for c in at_once.codecs]
    assert both.notes() == at_once.notes()


def test_a_result_without_kept_files_gives_a_page_without_players(tmp_path: Path):
    path = saved(tmp_path, "plain", ("good",))
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["report", str(path)])
    data = Page((tmp_path / "plain.html").read_text("utf-8")).island("report")
    assert data["shown"] == 0
    assert len(data["items"]) == 2


def test_one_name_for_two_codecs_is_told_apart_and_one_codec_counts_once(tmp_path: Path):
    paths = [saved(tmp_path, name, ("good", "Opus 6k"), retrained=True) for name in ("before", "after")]
    names = [c.codec for c in merge(paths).report.codecs]
    assert names == ["good (before)", "good (after)", "Opus 6k (before)", "Opus 6k (after)"]
    again = [saved(tmp_path, name, ("good",)) for name in ("run-1", "run-2")]
    assert [c.codec for c in merge(again).report.codecs] == ["good"]


def test_what_one_run_lacked_and_another_had_is_not_called_missing(tmp_path: Path):
    lacking = saved(tmp_path, "lacking", ("good",))
    report = merge([lacking]).report
    settings = replace(report.settings, unavailable={"Opus 6k": "no such library"})
    replace(report, settings=settings).save(lacking)
    assert any("no such library" in note for note in merge([lacking]).report.notes())
    assert not any("no such library" in n for n in merge([lacking, saved(tmp_path, "x", ("Opus 6k",))]).report.notes())


def changed_metric(report: Report) -> dict:
    return {"definitions": {**report.definitions, "mel": replace(report.definitions["mel"], definition="another")}}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda r: {"modality": "image"}, "one is of audio, one of image"),
        (lambda r: {"data": {**r.data, "name": "other", "fingerprint": "f" * 64}}, r"clips: 2 files, other: 2 files"),
        (changed_metric, r"their metrics differ \(mel\)"),
        (lambda r: {"settings": replace(r.settings, conditions={"clean": "louder"})}, r"conditions differ \(clean\)"),
    ],
)
def test_what_does_not_compare_is_refused(change: Callable[[Report], dict], difference: str, tmp_path: Path):
    first = saved(tmp_path, "first", ("good",))
    other = tmp_path / "other.json"
    report = toy_report(items=("a.wav", "b.wav"), codecs=("bad",))
    replace(report, **change(report)).save(other)
    with pytest.raises(ValueError, match=rf"first\.json and .*other\.json do not compare.*{difference}"):
        merge([first, other])
    with pytest.raises(ValueError, match="at least one"):
        merge([])


def test_kept_files_elsewhere_are_shown_only_when_asked_for(tmp_path: Path):
    path = saved(tmp_path, "one", ("good",), kept=True)
    (tmp_path / "results").mkdir()
    shutil.move(tmp_path / "one", tmp_path / "elsewhere")
    replace(merge([path]).report, kept="../elsewhere").save(tmp_path / "results" / "one.json")
    moved = replace(toy_report(tmp_path / "elsewhere", ("a.wav", "b.wav"), ("good",)), kept="../elsewhere")
    moved.save(tmp_path / "results" / "one.json")
    found = merge([tmp_path / "results" / "one.json"])
    assert found.folder is None
    assert "give that folder with --items" in found.notes[0]
    assert found.report.codecs[0].items[0].kept is None
    asked = merge([tmp_path / "results" / "one.json"], items=[tmp_path / "elsewhere"])
    assert asked.folder == tmp_path / "elsewhere"
    assert asked.notes == ()


def test_a_result_from_elsewhere_shows_no_other_file(tmp_path: Path):
    path = saved(tmp_path, "one", ("good",), kept=True)
    report = merge([path]).report
    (result,) = report.codecs
    for stolen in ("../secret.wav", "/etc/passwd"):
        item = replace(result.items[0], kept=Kept(original=stolen))
        replace(report, kept="one", codecs=(replace(result, items=(item,)),)).save(path)
        with pytest.raises(ValueError, match=r"one\.json: the kept file .* is outside"):
            merge([path])
    replace(report, kept="gone").save(path)
    assert "does not exist" in merge([path]).notes[0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["runs/fsq/codec", "runs/rvq/codec/"], ["fsq", "rvq"]),
        (["/data/runs/fsq/codec", "wavtokenizer-40"], ["fsq", "wavtokenizer-40"]),
        (["a/x/codec", "b/x/codec"], ["a/x", "b/x"]),
        (["hf:owner/name", "./mine"], ["hf:owner/name", "mine"]),
        (["x/codec", "x"], ["x/codec", "x"]),
        (["codec/"], ["codec/"]),
    ],
)
def test_folders_are_called_by_what_tells_them_apart(names: list[str], expected: list[str]):
    assert list(short_names(names).values()) == expected
