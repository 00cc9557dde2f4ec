"""``mmtok tokenize`` on the shipped samples of every modality: tokens of the codec, restart, broken inputs, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import tokenizers_mm as tm
from tokenizers_mm import cli, registry
from tokenizers_mm.scale import ShardReader, find_shards, read_shard
from tokenizers_mm.signals import batched

SAMPLES = registry.data_path("eval") / "samples"
CASES = {
    "audio": ("wavtokenizer-speech-16k-500", "de-2.ogg", "en-1.ogg"),
    "image": ("vqgan-128", "images/balls-1.png", "images/sunset.png"),
    "eeg": ("tfm-small", "eeg/closed-8.edf", "eeg/sleep-4.edf"),
    "timeseries": ("totem-etth1", "timeseries/bicycles.csv", "timeseries/substation.csv"),
    "text": ("bytes", "text/ar.txt", "text/zh.txt"),
}


def run(*args: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["tokenize", *map(str, args)])
    assert (stop.value.code or 0) == code


def items(folder: Path) -> list:
    return [item for path in find_shards(folder) for item in read_shard(path)]


@pytest.mark.parametrize("modality", sorted(CASES))
def test_shards_hold_the_codecs_tokens_of_files(modality: str, tmp_path: Path) -> None:
    name, *files = CASES[modality]
    run(name, *(SAMPLES / file for file in files), tmp_path)
    found, codec, room = items(tmp_path), tm.load(name), registry.wing(modality, "files")
    assert [item.key for item in found] == [Path(file).name for file in files]
    assert ShardReader(find_shards(tmp_path)[0]).origin.codec == name
    for item, file in zip(found, files, strict=True):
        signal = room.read(SAMPLES / file, codec.spec)
        wanted = codec.encode(*batched([signal]))
        assert torch.equal(item.tokens.ids, wanted.ids)
        assert torch.equal(item.tokens.shapes, wanted.shapes)
        decoded, again = codec.decode(item.tokens), codec.decode(wanted)
        assert decoded == again if modality == "text" else torch.equal(decoded.nan_to_num(), again.nan_to_num())


def test_a_second_run_adds_what_is_new_and_retries_what_was_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for file in ("ar", "de", "en"):
        shutil.copytree(
            SAMPLES / "text", data / file, ignore=lambda _, names, f=file: [n for n in names if n != f"{f}.txt"]
        )
    (data / "de" / "de.txt").write_bytes(b"\xff\xfe")
    run("bytes", data, out, "--label", "folder", "--shard-items", 1)
    assert [(item.key, item.label) for item in items(out)] == [("ar/ar.txt", "ar"), ("en/en.txt", "en")]
    assert (out / "broken.tsv").read_text().startswith("de/de.txt\tValueError: ")
    assert "1 inputs are broken" in capsys.readouterr().err
    shutil.copy(SAMPLES / "text" / "de.txt", data / "de" / "de.txt")
    run("bytes", data, out, "--label", "folder")
    assert [item.label for item in items(out)] == ["ar", "en", "de"]
    assert not (out / "broken.tsv").exists()
    assert capsys.readouterr().out.split("\n")[1].split()[:3] == [
        "1",
        "2",
        f"{(data / 'de' / 'de.txt').stat().st_size:,}",
    ]


def test_manifests_give_splits_and_classes_and_lines_are_items(tmp_path: Path) -> None:
    run("bytes", SAMPLES / "text", tmp_path, "--label", "language", "--split", "test", "--lines", "-b", 64)
    found = items(tmp_path)
    assert {item.label for item in found} >= {"ar", "zh", "en"}
    english = [bytes(item.tokens.ids.flatten().tolist()).decode() for item in found if item.label == "en"]
    assert english == [line for line in (SAMPLES / "text" / "en.txt").read_text().split("\n") if line]


def test_refusals_are_one_line_and_leave_shards_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run("bytes", SAMPLES / "text" / "en.txt", out)
    before = find_shards(out)[0].read_bytes()
    for args, words in (
        (("bpe-8k", SAMPLES / "text" / "en.txt", out), "holds tokens of 'bytes'"),
        (("bytes", tmp_path / "none", out), "does not exist"),
        (("bytes", SAMPLES / "text", out, "--label", "colour"), "no input has 'colour'"),
        (("totem-etth1", SAMPLES / "timeseries", tmp_path / "b", "--lines"), "timeseries files have no lines"),
    ):
        capsys.readouterr()
        run(*args, code=1)
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert words in message
    assert [path.read_bytes() for path in find_shards(out)] == [before]
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    run("bytes", tmp_path / "bad.txt", tmp_path / "c", code=1)
    assert find_shards(tmp_path / "c") == []
