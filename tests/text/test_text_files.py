"""Text files and the command line: what is read is what comes back; what is no text is refused in words; samples are as made."""

from __future__ import annotations

import importlib.util
import io
import lzma
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tokenizers_mm as tm
from tokenizers_mm import bitstream, registry
from tokenizers_mm.cli import main
from tokenizers_mm.text import files

SPEC = registry.get_card("bytes").spec
SAMPLES = registry.data_path("eval") / "samples" / "text"
TEXT = "\ufeffZwei Zeilen\r\nund \0 mehr \U0001f468\u200d\U0001f469\n"


@pytest.mark.parametrize("name", ["a.txt", "a.txt.xz", "a.txt.gz", "a.py"])
def test_files_come_back_to_the_last_byte(tmp_path: Path, name: str) -> None:
    files.write(tmp_path / "new" / name, TEXT, SPEC)
    assert files.read(tmp_path / "new" / name, SPEC) == TEXT
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_what_is_no_text_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content, words in (
        ("bad.txt", b"ab\xffcd", r"not UTF-8 at byte 2 \(ff 63 64\)"),
        ("cut.txt", "ab é".encode()[:-1], "not UTF-8 at byte 3"),
        ("wide.txt", "ab".encode("utf-16"), "looks like UTF-16"),
        ("bad.xz", b"nonsense", "damaged"),
        ("bad.gz", b"\x1f\x8bnonsense", "damaged"),
        ("cut.xz", lzma.compress(b"abc" * 1000)[:-20], "damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=words):
            files.read(tmp_path / name, SPEC)
    assert files.read(tmp_path / "bad.txt", SPEC, errors="replace") == "ab\ufffdcd"
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "none.txt", SPEC)
    with pytest.raises(IsADirectoryError):
        files.read(tmp_path, SPEC)
    with pytest.raises(ValueError, match="expected a text spec"):
        files.read(tmp_path / "bad.txt", registry.get_card("chronos-bins").spec)
    with pytest.raises(TypeError, match="expected a str"):
        files.write(tmp_path / "x.txt", b"abc", SPEC)  # type: ignore[arg-type]
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    (tmp_path / "bomb.xz").write_bytes(lzma.compress(b"a" * 101))
    with pytest.raises(ValueError, match="more than 100 bytes"):
        files.read(tmp_path / "bomb.xz", SPEC)


def test_splits_are_lines_of_documents(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_bytes("one\ntwo\u2028too\nthree\nfour\n".encode())
    (tmp_path / "docs.tsv").write_text("doc_id\tsplit\na\ttrain\na\ttrain\nb\tvalid\nc\ttrain\n")
    assert files.read(tmp_path / "en.txt", SPEC, split="train") == "one\ntwo\u2028too\nfour\n"
    assert list(files.texts([tmp_path / "en.txt", tmp_path / "docs.tsv"], "train")) == ["one\ntwo\u2028too\n", "four\n"]
    assert list(files.texts([tmp_path / "en.txt"])) == [files.read(tmp_path / "en.txt", SPEC)]
    with pytest.raises(ValueError, match=r"split must be one of \['train', 'valid'\]"):
        files.read(tmp_path / "en.txt", SPEC, split="test")
    (tmp_path / "short.txt").write_text("one\n")
    with pytest.raises(ValueError, match="has 1 lines"):
        files.read(tmp_path / "short.txt", SPEC, split="train")
    with pytest.raises(ValueError, match="has 1 lines"):
        list(files.texts([tmp_path / "short.txt"], "train"))
    (tmp_path / "docs.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="list of documents"):
        files.read(tmp_path / "en.txt", SPEC, split="train")


def test_options_of_the_reader_are_checked() -> None:
    assert files.reading({"split": "valid", "errors": "replace"}) == {"split": "valid", "errors": "replace"}
    for options in ({"colour": "red"}, {"errors": "ignore"}):
        with pytest.raises(ValueError, match=r"options split and errors|'strict' or 'replace'"):
            files.reading(options)


# -- command line ------------------------------------------------------------------------------------------------------------


def run(*args: str | Path) -> int:
    try:
        main([str(a) for a in args])
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


class Pipes:
    """Standard input and output as bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
        self.out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdout", self.out)

    @property
    def written(self) -> bytes:
        return self.out.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["bytes", "word-bytes", "bpe-8k", "entropy-bytes"])
def test_encode_and_decode_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    assert run("encode", tmp_path / "a.txt", "-c", name, "-o", tmp_path / "a.mmt") == 0
    assert bitstream.codec_name(tmp_path / "a.mmt") == name
    assert run("decode", tmp_path / "a.mmt", "-o", tmp_path / "b.txt") == 0
    assert (tmp_path / "b.txt").read_bytes() == TEXT.encode()


def test_standard_input_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipes = Pipes(monkeypatch, TEXT.encode())
    assert run("encode", "-", "-c", "bpe-8k") == 0
    tokens = bitstream.loads(pipes.written)
    assert tm.load("bpe-8k").decode(tokens) == [TEXT]
    back = Pipes(monkeypatch, pipes.written)
    assert run("decode", "-") == 0
    assert back.written == TEXT.encode()
    Pipes(monkeypatch, TEXT.encode())
    assert run("encode", "-", "-c", "bytes", "-o", tmp_path / "a.mmt") == 0
    piped = Pipes(monkeypatch, b"")
    assert run("decode", tmp_path / "a.mmt", "-o", "-") == 0
    assert piped.written == TEXT.encode()


def test_pipes_refuse_what_they_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    Pipes(monkeypatch, b"")
    assert run("encode", "-", "a.txt", "-c", "bytes") == 1
    assert "one file" in capsys.readouterr().err
    tm.load("bytes").encode(["a", "b"]).save(tmp_path / "two.mmt", codec="bytes")
    assert run("decode", tmp_path / "two.mmt", "-o", "-") == 1
    assert "2 signals" in capsys.readouterr().err
    pipes = Pipes(monkeypatch, b"\xff\xfe")
    assert run("encode", "-", "-c", "bytes") == 1
    assert pipes.written == b""
    assert "not UTF-8" in capsys.readouterr().err


def test_vocabularies_and_models_are_learned_by_command(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat, and the dog too. " * 40)
    assert run("text", "vocabulary", tmp_path / "a.txt", "-n", "270", "-o", tmp_path / "bpe") == 0
    assert tm.load(str(tmp_path / "bpe")).decode(tm.load(str(tmp_path / "bpe")).encode(["dog 犬"])) == ["dog 犬"]
    assert run("text", "entropy-model", tmp_path / "a.txt", "-o", tmp_path / "lm", "--mean-bytes", "3") == 0
    codec = tm.text.WordByteCodec("entropy", {"model": str(tmp_path / "lm")})
    assert codec.decode(codec.encode(["the cat"])) == ["the cat"]
    assert run("text", "vocabulary", tmp_path / "none.txt", "-o", tmp_path / "x") == 1
    assert "no such file" in capsys.readouterr().err


# -- samples -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_texts", SAMPLES / "make_texts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is packed into the wheel as it is
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def test_samples_come_out_the_same(script: ModuleType, tmp_path: Path) -> None:
    script.main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in SAMPLES.iterdir() if path.is_file()}
    assert made == {name: data for name, data in kept.items() if name not in ("README.md", "make_texts.py")}


def test_sentences_are_parallel(script: ModuleType) -> None:
    assert {len(sentences) for sentences in script.SENTENCES.values()} == {8}
    everything = [line for sentences in script.SENTENCES.values() for line in sentences]
    assert len(set(everything)) == len(everything)
