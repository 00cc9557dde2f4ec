"""Subword codecs: what a library's tokenizer gives, as bytes, exactly or not at all; learned, loaded, cached, streamed."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import tokenizers_mm as tm
from tokenizers_mm.text import SubwordCodec

tokenizers = pytest.importorskip("tokenizers")
WORDS = ("one", "two", "three", "größer", "слово", "世界", "x=1;", "don't", "1,234.5", "\n\n", "  ", "\t")
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=60)) for i in range(80)]


@pytest.fixture(scope="module")
def codec() -> SubwordCodec:
    return SubwordCodec.learn(TEXTS, 320)


@pytest.mark.parametrize(("algorithm", "size"), [("bpe", 300), ("unigram", 270)])
def test_learned_vocabularies_hold_the_bytes_and_any_text(algorithm, size) -> None:
    codec = SubwordCodec.learn(TEXTS, size, algorithm=algorithm)
    assert codec.spec.codebook_sizes == (size,)
    assert {bytes([b]) for b in range(256)} <= set(codec.vocabulary.tokens)
    texts = [TEXTS[0], "", "\0\x7f \U0001f468\u200d\U0001f469 \u0301 never seen"]
    assert codec.decode(codec.encode(texts)) == texts
    assert int(codec.encode(TEXTS[:1]).lengths[0]) < len(TEXTS[0].encode())


def test_learning_is_deterministic(codec: SubwordCodec) -> None:
    assert SubwordCodec.learn(TEXTS, 320).vocabulary.tokens == codec.vocabulary.tokens


@pytest.mark.parametrize(
    ("size", "algorithm", "words"),
    [(255, "bpe", "at least the 256 bytes"), (5000, "bpe", "take more text"), (300, "x", "algorithm")],
)
def test_wrong_vocabularies_are_refused(size, algorithm, words) -> None:
    with pytest.raises(ValueError, match=words):
        SubwordCodec.learn(["abc"], size, algorithm=algorithm)


def test_ids_are_those_of_the_library(codec: SubwordCodec) -> None:
    """Whatever the cache of words does: the library alone, on the whole text, gives the same."""
    library = tokenizers.Tokenizer.from_buffer(codec.file.numpy().tobytes())
    shipped = tm.load("bpe-8k")

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.sampled_from((*WORDS, " ", "\u3000", "\u00a0", "a\u0301", "!?", "\r\n")) | st.text(max_size=4),
            max_size=80,
        )
    )
    def check(pieces: list[str]) -> None:
        text = "".join(pieces).encode("utf-8", "ignore").decode()
        text = text * (1 + 100 // (1 + len(text)))  # short texts aren't cut
        for one, other in ((codec, library), (shipped, shipped.vocabulary.tokenizer)):
            assert one.encode([text]).ids[0, :, 0].tolist() == other.encode(text, add_special_tokens=False).ids

    check()


def test_memory_of_words_is_bounded(codec: SubwordCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers_mm.text import vocabulary

    monkeypatch.setattr(vocabulary, "_REMEMBERED", 20)
    text = " ".join(f"word{i}" for i in range(200)) + " " + "z" * 500
    before = codec.encode([text])
    assert "z" * 500 not in "".join(codec.vocabulary._words)
    assert codec.encode([text]) == before
    assert len(codec.vocabulary._words) < 300


def test_text_never_becomes_a_special_token() -> None:
    library = tokenizers.Tokenizer.from_buffer(SubwordCodec.learn(TEXTS, 300).file.numpy().tobytes())
    library.add_special_tokens(["<|end|>"])
    codec = SubwordCodec._of(library.to_str().encode(), "tokenizers", None, False)
    tokens = codec.encode(["a<|end|>b"])
    assert 300 not in tokens.ids
    assert codec.decode(tokens) == ["a<|end|>b"]
    assert codec.vocabulary.tokens[300] == b"<|end|>"


def test_tokenizers_that_change_text_are_refused_or_taken_as_lossy(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    library = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    library.save(str(tmp_path / "tokenizer.json"))
    codec = SubwordCodec.from_file(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="changes the text 'Hello world'"):
        codec.encode(["Hello world"])
    lossy = SubwordCodec.from_file(tmp_path / "tokenizer.json", lossy=True)
    assert lossy.encode(["Hello world"]).ids[0, :, 0].tolist() == [1, 2]
    stream = lossy.stream()
    assert stream.push("Hello wor").ids.shape[1] == 0, "no border is certain"
    assert stream.push("ld").ids.shape[1] + stream.flush().ids.shape[1] == 2


def test_a_prefix_space_is_taken_off_again() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = {"\u2581": 0, "\u2581a": 1, "b": 2, **{f"<0x{b:02X}>": 3 + b for b in range(256)}}
    library = Tokenizer(models.BPE(pieces, [("\u2581", "a")] if "a" in pieces else [], byte_fallback=True))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    codec = SubwordCodec._of(library.to_str().encode(), "tokenizers", None, False)
    for text in ("b", "é b", "bb  b", "\0"):
        assert codec.decode(codec.encode([text])) == [text]
    with pytest.raises(ValueError, match="changes the text"):
        codec.encode([" b"])  # this library makes "b" of it


def test_tiktoken_files(tmp_path: Path, codec: SubwordCodec) -> None:
    pytest.importorskip("tiktoken")
    path = tmp_path / "small.tiktoken"
    tokens = sorted(set(codec.vocabulary.tokens) - {b""}, key=lambda token: (len(token), token))
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    found = SubwordCodec.from_file(path, pattern=r" ?\S+|\s+(?!\S)|\s+")
    texts = [*TEXTS[:3], "", "\0\u0301 <|endoftext|>", "größer " * 50]
    assert found.decode(found.encode(texts)) == texts
    found.save_pretrained(tmp_path / "codec")
    assert tm.load(str(tmp_path / "codec")).encode(texts) == found.encode(texts)
    with pytest.raises(ValueError, match="pattern is needed"):
        SubwordCodec.from_file(path)
    path.write_bytes(b"YQ== 0\n")
    with pytest.raises(ValueError, match="byte 0 has no token"):
        SubwordCodec.from_file(path, pattern=".")


def test_sentencepiece_models(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "corpus.txt").write_text(
        "\n".join(t.replace("\n", " ").replace("\t", " ") for t in TEXTS), encoding="utf-8"
    )
    for name, options in (
        ("exact", {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}),
        ("nfkc", {}),
    ):
        sentencepiece.SentencePieceTrainer.Train(
            input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / name), vocab_size=340, model_type="bpe",
            byte_fallback=True, minloglevel=9, **options,
        )  # fmt: skip
    codec = SubwordCodec.from_file(tmp_path / "exact.model")
    texts = ["one two  three", " größer", "", "\U0001f468 世界", "a\nb\tc"]
    assert codec.decode(codec.encode(texts)) == texts
    with pytest.raises(ValueError, match="changes the text"):
        SubwordCodec.from_file(tmp_path / "nfkc.model").encode(["one   two"])


def test_files_and_weights_that_are_something_else_are_refused(tmp_path: Path, codec: SubwordCodec) -> None:
    for name, content, words in (
        ("a.json", b"{}", "not a file of tokenizers"),
        ("a.json", b"\xff\x00", "not a file of tokenizers"),
        ("a.txt", b"", "path must end in"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=words):
            SubwordCodec.from_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        SubwordCodec.from_file(tmp_path / "none.json")
    codec.save_pretrained(tmp_path / "codec")
    weights = tmp_path / "codec" / "model.safetensors"
    config = json.loads((tmp_path / "codec" / "config.json").read_text())
    (tmp_path / "codec" / "config.json").write_text(json.dumps({**config, "vocabulary_size": 321}))
    with pytest.raises(ValueError, match="has 320 tokens, expected 321"):
        tm.load(str(tmp_path / "codec"))
    save_file({"other": np.zeros(3, dtype=np.uint8)}, weights)
    with pytest.raises(ValueError, match="one uint8 tensor 'file'"):
        tm.load(str(tmp_path / "codec"))
    with pytest.raises(ValueError, match="has no tokenizer"):
        SubwordCodec().encode(["a"])


def test_state_dicts_carry_the_tokenizer(codec: SubwordCodec) -> None:
    other = SubwordCodec(320)
    other.load_state_dict(codec.state_dict())
    assert other.encode(TEXTS[:2]) == codec.encode(TEXTS[:2])


def test_tokenizer_files_become_folders_by_command(tmp_path: Path, codec: SubwordCodec) -> None:
    from tokenizers_mm.cli import main

    def convert(output: str, *options: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["convert", "subword", str(tmp_path / "tokenizer.json"), str(tmp_path / output), *options])
        return end.value.code

    (tmp_path / "tokenizer.json").write_bytes(codec.file.numpy().tobytes())
    assert convert("mine") == 0
    assert tm.load(str(tmp_path / "mine")).encode(TEXTS[:2]) == codec.encode(TEXTS[:2])
    (tmp_path / "config.json").write_text('{"colour": "red"}')
    assert convert("other", "--config", str(tmp_path / "config.json")) == 1
