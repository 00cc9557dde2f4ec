"""Evaluation of text: metrics and their counts, spelling mistakes, compressors, pictures of what each language pays, speed."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers_mm as tm
from tokenizers_mm import registry
from tokenizers_mm.evaluation import bench as bench_module
from tokenizers_mm.evaluation.bench_plan import load_benchmark
from tokenizers_mm.evaluation.html import write_html
from tokenizers_mm.evaluation.metric import Unmeasurable
from tokenizers_mm.evaluation.run import evaluate
from tokenizers_mm.evaluation.scoring import Job
from tokenizers_mm.signals import batched, extents, fitted, portable, unpacked
from tokenizers_mm.text import show
from tokenizers_mm.text.baselines import BASELINES
from tokenizers_mm.text.conditions import CONDITIONS, delete, permute, perturbed, replace
from tokenizers_mm.text.language_models import network_coder
from tokenizers_mm.text.metrics import METRICS, compute, lines, positions

SPEC = registry.get_card("bytes").spec
NETWORKS = ("hat-small", "bpe-small", "byte-small")
TEXT = "Hello, world! Two words, and a number 1234.\nEin Wörterbuch, 世界.\n"


def job(text: str, name: str) -> Job:
    codec = tm.load(name)
    tokens = codec.encode([text])
    return Job(text, codec.decode(tokens)[0], codec.spec, {}, tokens)


def test_counts_of_tokens_and_lines() -> None:
    size = len(TEXT.encode())
    for name, count in (("bytes", size), ("word-bytes", len(tm.load("word-bytes").words(TEXT)))):
        found = job(TEXT, name)
        assert positions(found.tokens) == count
        assert METRICS["bytes_per_position"].function(found) == pytest.approx(size / count)
        assert METRICS["positions_per_line"].function(found) == count / 2
        assert METRICS["bytes_per_token"].function(found) == 1
    assert [lines(text) for text in ("", "a", "a\n", "a\nb", "\n\n", "a\u2028b")] == [0, 1, 1, 2, 2, 1]
    with pytest.raises(Unmeasurable, match="empty"):
        METRICS["bytes_per_token"].function(job("", "bytes"))
    with pytest.raises(Unmeasurable, match="no tokens"):
        METRICS["bytes_per_token"].function(Job("a", "a", SPEC))


def test_exactness_counts_lines_and_a_model_bits() -> None:
    found = compute(
        "a\nb\nc\nd", "a\nX\nc\nd", SPEC, ["exact", "bpb"], models={"lm": lambda text: 2 * math.log(2) * len(text)}
    )
    assert found == {"exact": 75.0, "bpb": pytest.approx(2.0)}
    assert compute("a", "a", SPEC)["exact"] == 100
    assert compute("a\nb", "a", SPEC, ["exact"])["exact"] == 50
    without = compute("a", "a", SPEC, ["bpb"])
    assert without["bpb"] is None
    assert "no model" in without.reasons["bpb"]


# -- conditions ----------------------------------------------------------------------------------------------------------------

WORDS = st.text(st.sampled_from("abcDEFéßж 12.,\n"), max_size=80)


@settings(max_examples=50, deadline=None)
@given(WORDS, st.integers(0, 99))
def test_spelling_mistakes_keep_what_they_promise(text: str, seed: int) -> None:
    for change in (permute, replace, delete):
        changed = perturbed(text, change, seed)
        assert changed == perturbed(text, change, seed)
        before, after = text.split(" "), changed.split(" ")
        assert len(before) == len(after)
        for old, new in zip(before, after, strict=True):
            if any(c.isdigit() for c in old) and re.fullmatch(r"[^\W_]+", old):
                assert new == old
            if len(old) < 3:
                assert new == old
        if change is permute:
            assert Counter(changed) == Counter(text)
        if change is replace:
            assert len(changed) == len(text)


def test_a_tenth_of_each_word_and_at_least_one_changes() -> None:
    text = "abcdefghijklmnopqrstuvwxyzabcd cat to"
    gone = perturbed(text, delete, 0).split()
    assert [len(word) for word in gone] == [27, 2, 2]
    spec, generator = SPEC, torch.Generator().manual_seed(3)
    assert CONDITIONS["upper"].function("straße", spec, generator) == "STRASSE"
    assert CONDITIONS["delete"].apply(text, spec, "one.txt") == CONDITIONS["delete"].apply(text, spec, "one.txt")
    assert CONDITIONS["delete"].apply(text * 9, spec, "one.txt") != CONDITIONS["delete"].apply(
        text * 9, spec, "two.txt"
    )


# -- baselines and reports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - set(NETWORKS)))
def test_compressors_give_texts_back(name: str) -> None:
    if reason := BASELINES[name].unavailable(SPEC):
        pytest.skip(reason)
    for text in (TEXT, "", "\0\U0010ffff", "word " * 300):
        data, back = BASELINES[name](text, SPEC)
        assert back == text
    assert name == "utf-8" or len(data) < len(text)


def test_the_suite_runs_and_shows(tmp_path: Path) -> None:
    report = evaluate(
        ["bytes", "word-bytes"], suite="text", limit=6, baselines=["gzip-9"], output=tmp_path / "r.json", keep=tmp_path / "kept",
        models={"lm": registry.data_path("checkpoints") / "byte-ngram" / "model.safetensors"}, progress=False,
        conditions=["clean", "upper"],
    )  # fmt: skip
    assert [result.codec for result in report.codecs] == ["bytes", "word-bytes", "gzip -9"] * 2
    for result in report.codecs:
        assert not result.errors
        assert result.rate_unit == "bit/byte"
        assert result.metrics["exact"].mean == 100
    clean, upper = (report.codecs[i].metrics["bpb"].mean for i in (0, 3))
    assert clean < 4.5 < upper, "what was learned is not in upper case"
    plain, words = (result.metrics["positions_per_line"].mean for result in report.codecs[:2])
    assert plain > 3 * words
    assert report.codecs[2].metrics["positions_per_line"].failures == {"there are no tokens": 6}
    page = write_html(report, tmp_path / "page.html", items_folder=tmp_path / "kept").read_text(encoding="utf-8")
    assert "positions a line: " in page
    assert "def collatz" in page, "excerpts are shown"
    assert "the same, to the last byte" in page
    assert (
        evaluate(["bytes"], suite="text", limit=2, workers=1, baselines=[], progress=False)
        .codecs[0]
        .metrics["exact"]
        .mean
        == 100
    )


def test_what_each_language_pays(tmp_path: Path) -> None:
    codec, items = tm.load("bytes"), []
    for name, text in (("en.txt", "ab\ncd\n"), ("el.txt", "αβ\nγδ\n")):
        (tmp_path / name).write_text(text)
        codec.encode([text]).save(tmp_path / f"{name}.mmt")
        items.append((tmp_path / name, tmp_path / f"{name}.mmt"))
    found = show.overview(items, codec.spec)
    assert found.caption == "positions a line: 3.0 (en) to 5.0 (el), 1.67 times as many"
    assert found.image[:4] == b"RIFF"
    assert show.overview(items[:1], codec.spec) is None


def test_excerpts_and_differences(tmp_path: Path) -> None:
    for name, text in (("a.txt", TEXT), ("b.txt", TEXT.replace("words", "w0rds")), ("empty.txt", "")):
        (tmp_path / name).write_text(text)
    assert show.render(tmp_path / "a.txt", SPEC).caption == TEXT
    assert "to the last byte" in show.render(tmp_path / "a.txt", SPEC, tmp_path / "a.txt").caption
    assert "differs from character 19 on" in show.render(tmp_path / "b.txt", SPEC, tmp_path / "a.txt").caption
    assert show.render(tmp_path / "empty.txt", SPEC).caption == ""


@pytest.mark.skipif(not os.environ.get("TOKENIZERS_MM_DATA"), reason="wants real texts: set TOKENIZERS_MM_DATA")
def test_what_ships_on_held_out_documents() -> None:
    folder = Path(os.environ["TOKENIZERS_MM_DATA"]) / "text" / "ntrex"
    if not folder.is_dir():
        pytest.skip("no ntrex")
    read = registry.wing("text", "files").read
    pays = {}
    for code in ("eng", "deu", "rus", "tha"):
        text = read(folder / f"{code}.txt.xz", SPEC, split="valid")
        pays[code] = [positions(job(text, name).tokens) / lines(text) for name in ("bytes", "word-bytes", "bpe-8k")]
        assert pays[code][1] < pays[code][2] < pays[code][0] or code == "tha"
    assert pays["tha"][0] / pays["eng"][0] > 2 > pays["tha"][2] / pays["eng"][2]


# -- signals and speed ---------------------------------------------------------------------------------------------------------


def test_signals_are_tensors_or_strings() -> None:
    batch, lengths = batched(["é", ""])
    assert batch == ["é", ""]
    assert lengths.tolist() == [2, 0]
    batch, lengths = batched([torch.ones(1, 3), torch.ones(1, 2)])
    assert batch.tolist() == [[[1, 1, 1]], [[1, 1, 0]]]
    assert extents("é") == (2,)
    assert extents(torch.zeros(2, 5)) == (2, 5)
    assert fitted("ab", "abc") == "ab"
    assert fitted(torch.ones(1, 4), torch.zeros(1, 2)).tolist() == [[1, 1]]
    assert fitted(torch.ones(1, 1), torch.zeros(1, 2)).tolist() == [[1, 0]]
    assert unpacked(portable("x")) == "x"
    assert torch.equal(unpacked(portable(torch.ones(2))), torch.ones(2))


def test_the_benchmark_runs_and_ids_are_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hat_splitter")
    monkeypatch.setattr(bench_module, "_peaks", lambda *_: {})  # processes of their own, which take their time
    monkeypatch.setattr(bench_module, "gemm_rate", lambda _: {"default": 1.0})
    plan = load_benchmark("text").model_copy(
        update={"size": (20_000,), "rounds": 1, "batch": 2, "tasks": ("encode", "decode"), "stored_ids": 1000}
    )
    report = bench_module.bench(plan, threads=1)
    assert report.same_ids == {"bpe-8k": 1.0}
    assert {cost.contender for cost in report.costs} >= {"word-bytes", "hat-splitter", "bpe-8k", "tokenizers"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_codes_texts_in_about_what_it_says_that_they_cost(name: str) -> None:
    text = "Grüße aus Tokio, said the government. 東京\n"
    coder = BASELINES[name]
    data, back = coder(text, tm.load("bytes").spec)
    assert back == text
    going = network_coder(name).start()
    bits = 0.0
    for byte in text.encode("utf-8"):
        bits -= math.log2(going.probabilities()[byte])
        going.push(byte)
    assert abs(8 * len(data) - bits) < 64
