"""The small model of bytes: probabilities that sum to one, the same stepwise and at once, and an entropy coder of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.coding import BitstreamError
from tokenizers_mm.text.entropy_coding import compress, decompress
from tokenizers_mm.text.language_models import load_cost, shipped
from tokenizers_mm.text.ngram import ByteNGram
from tokenizers_mm.text.rows import pieces

TEXTS = ["the cat sat on the mat. " * 20, "the dog sat on the log. " * 20, "größer und größer "]


@pytest.fixture(scope="module")
def model() -> ByteNGram:
    return ByteNGram.learn(TEXTS, contexts=500, mean_bytes=4)


@pytest.mark.parametrize("source", ["learned", "shipped"])
def test_costs_are_those_of_the_probabilities(source: str, model: ByteNGram) -> None:
    model = shipped("byte-ngram") if source == "shipped" else model

    @settings(max_examples=30, deadline=None)
    @given(st.binary(max_size=12) | st.sampled_from([b"the cat ", "größer".encode(), b"on the ma"]))
    def check(data: bytes) -> None:
        nats, entropies = model.nats(data), model.entropies(data)
        for i in range(len(data)):
            p = model.probabilities(data[:i])
            assert p.sum() == pytest.approx(1)
            assert nats[i] == pytest.approx(-math.log(p[data[i]]))
            after = model.probabilities(data[: i + 1])
            assert entropies[i] == pytest.approx(-(after * np.log(after)).sum(), abs=1e-4)
            assert np.array_equal(model.entropies(data[i:], data[:i]), entropies[i:])
            np.testing.assert_array_equal(model.nats(data[i:], data[:i]), nats[i:])

    check()


def test_it_learned_something(model: ByteNGram) -> None:
    seen, unseen = (
        model.nats(text).sum() / len(text) / math.log(2) for text in (b"the cat sat on the log. ", b"qzx#qzx#")
    )
    assert seen < 1.5 < 6 < unseen


def test_patches_of_the_training_texts_have_the_wanted_length(model: ByteNGram) -> None:
    data = [text.encode() for text in TEXTS]
    patches = sum(int((model.entropies(item) > model.threshold).sum()) for item in data)
    assert sum(map(len, data)) / patches == pytest.approx(4, rel=0.15)


def test_contexts_do_not_reach_over_texts() -> None:
    separate, joined = ByteNGram.learn(["aab"] * 9), ByteNGram.learn(["aab" * 9])
    assert int.from_bytes(b"ba", "big") not in separate.tables["contexts.2"]
    assert int.from_bytes(b"ba", "big") in joined.tables["contexts.2"]


def test_coded_texts_come_back_and_cost_what_the_model_says(model: ByteNGram) -> None:
    data = (TEXTS[0] + TEXTS[2]).encode()
    coded = compress(data, model)
    assert decompress(coded, model) == data
    assert len(coded) == pytest.approx(model.nats(data).sum() / math.log(2) / 8, abs=12)
    for other in (b"", b"\0", bytes(range(256)), b"\xff" * 50):
        assert decompress(compress(other, model), model) == other


def test_damaged_codes_are_refused(model: ByteNGram) -> None:
    coded = compress(b"the cat sat on the mat", model)
    for damaged in (b"", coded[:-1], coded + b"x", b"\xff" * 12):
        with pytest.raises(BitstreamError):
            decompress(damaged, model)


def test_folders(tmp_path: Path, model: ByteNGram) -> None:
    model.save_pretrained(tmp_path)
    loaded = ByteNGram.from_pretrained(tmp_path)
    assert loaded.threshold == model.threshold
    np.testing.assert_array_equal(loaded.nats(b"the cat"), model.nats(b"the cat"))
    cost = load_cost(tmp_path / "model.safetensors")
    assert cost("the cat") == pytest.approx(model.nats(b"the cat").sum())
    (tmp_path / "config.json").write_text(json.dumps({"class": "ByteNGram", "threshold": "high"}))
    with pytest.raises(ValueError, match="with a threshold"):
        ByteNGram.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"class": "Nonsense"}))
    with pytest.raises(ValueError, match="no language model of text"):
        load_cost(tmp_path / "model.safetensors")


def test_tables_that_do_not_fit_are_refused(model: ByteNGram) -> None:
    with pytest.raises(ValueError, match="lack"):
        ByteNGram({k: v for k, v in model.tables.items() if k != "first.3"}, 1.0)
    with pytest.raises(ValueError, match="order 2 do not fit"):
        ByteNGram({**model.tables, "bytes.2": model.tables["bytes.2"][1:]}, 1.0)
    with pytest.raises(ValueError, match="at least one byte"):
        ByteNGram.learn([""])


@given(st.text(max_size=60), st.integers(4, 20))
def test_rows_join_to_the_text_and_keep_characters(text: str, limit: int) -> None:
    data = text.encode("utf-8", "ignore")
    found = list(pieces(data, limit))
    assert b"".join(found) == data
    assert all(0 < len(row) <= limit for row in found)
    for row in found:
        row.decode("utf-8")
