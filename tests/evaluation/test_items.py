"""Which files are evaluated, and their fingerprint; suites; the interval of a mean."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from tokenizers_mm import registry
from tokenizers_mm.evaluation.items import _untar, find_items
from tokenizers_mm.evaluation.report import Summary
from tokenizers_mm.evaluation.suite import load_suite

EXTENSIONS = (".wav", ".flac")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("b.wav", "a.WAV", "deep/c.flac", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def manifest(folder: Path, *rows: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_folder_is_searched_with_its_subfolders(tree: Path):
    items = find_items(tree, EXTENSIONS)
    assert items.names == ("a.WAV", "b.wav", "deep/c.flac")
    assert items.split is None
    assert find_items(tree, EXTENSIONS, limit=2).names == ("a.WAV", "b.wav")
    assert find_items(tree / "b.wav", EXTENSIONS).names == ("b.wav",)


def test_a_manifest_gives_one_split(tree: Path):
    path = manifest(tree, "path,split", "b.wav,train", "deep/c.flac,test", "a.WAV,test")
    for data in (path, tree):
        items = find_items(data, EXTENSIONS)
        assert (items.names, items.split) == (("a.WAV", "deep/c.flac"), "test")
    assert len(find_items(path, EXTENSIONS, split=None)) == 3
    with pytest.raises(ValueError, match=r"no file of split 'valid': its splits are \['test', 'train'\]"):
        find_items(path, EXTENSIONS, split="valid")


def test_a_manifest_without_splits_counts_whole(tree: Path):
    assert len(find_items(manifest(tree, "path", "b.wav", "a.WAV"), EXTENSIONS)) == 2
    with pytest.raises(ValueError, match=r"column 'path', got \['file'\]"):
        find_items(manifest(tree, "file", "b.wav"), EXTENSIONS)


def test_nothing_to_evaluate_is_refused(tree: Path):
    with pytest.raises(ValueError, match=r"no files that end in \.png"):
        find_items(tree, (".png",))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_items(tree / "gone", EXTENSIONS)


def test_the_fingerprint_changes_with_names_and_contents_only(tree: Path):
    first = find_items(tree, EXTENSIONS).fingerprint()
    (tree / "notes.txt").write_text("other")
    (tree / "b.wav").touch()
    assert find_items(tree, EXTENSIONS).fingerprint() == first
    (tree / "b.wav").rename(tree / "d.wav")
    renamed = find_items(tree, EXTENSIONS).fingerprint()
    (tree / "d.wav").write_bytes(b"other")
    assert len({first, renamed, find_items(tree, EXTENSIONS).fingerprint()}) == 3


def test_a_listed_file_that_is_missing_is_an_item_all_the_same(tree: Path):
    items = find_items(manifest(tree, "path", "gone.wav", "b.wav"), EXTENSIONS)
    assert items.names == ("b.wav", "gone.wav")
    assert len(items.fingerprint()) == 64


def test_the_interval_holds_the_true_mean_in_95_of_100_samples():
    draw = random.Random(0)
    hits = 0
    for _ in range(1000):
        summary = Summary.of([draw.gauss(3, 2) for _ in range(5)])
        hits += abs(summary.mean - 3) <= summary.ci95
    assert 930 <= hits <= 970


def test_a_summary_counts_what_it_leaves_out():
    summary = Summary.of([1.0, None, 3.0, None], ["short", "short"])
    assert (summary.mean, summary.count, summary.failed, summary.failures) == (2.0, 2, 2, {"short": 2})
    assert Summary.of([5.0]).ci95 is None
    assert Summary.of([]).mean is None


def test_every_shipped_suite_names_metrics_that_its_wing_has():
    suites = [
        path for path in (registry.data_path("eval") / "suites").glob("*.yaml") if "kind:" not in path.read_text()
    ]
    assert suites
    for path in suites:
        suite = load_suite(path)
        assert suite.name == path.stem
        assert set(suite.metrics) <= set(registry.wing(suite.modality, "metrics").METRICS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not YAML"),
        ("3", "file"),
        ("{name: x, modality: audio, data: d, metrics: [mel], headline: [mel], metric: 1}", "metric: Extra inputs"),
        ("{name: x, modality: audio, data: d, metrics: [], headline: [mel]}", "metrics"),
        (
            "{name: x, modality: audio, data: d, metrics: [mel], headline: [stoi]}",
            r"headline: unknown \['stoi'\]: expected some of \['mel'\]",
        ),
    ],
)
def test_a_wrong_suite_names_its_file_and_fault(tmp_path: Path, text: str, message: str):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"wrong\.yaml.*{message}"):
        load_suite(path)


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_hostile_archives_write_nothing_outside(kind: str, tmp_path: Path) -> None:
    member = tarfile.TarInfo({"above": "../../escaped.png", "absolute": "/escaped.png", "link": "link.png"}[kind])
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.addfile(member, io.BytesIO())
    with pytest.raises(ValueError, match="plain files below one folder"):
        _untar(tmp_path / "set.tar", tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped.png"))
