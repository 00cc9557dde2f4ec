"""Large vocabularies: they grow from the old one, encode every text, are found by inner products, and write."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.text import tiny_models
from tokenizers_mm.cli import app
from tokenizers_mm.text.generate import load_model
from tokenizers_mm.text.growing import grow
from tokenizers_mm.text.index_bench import random_tokens
from tokenizers_mm.text.inner_products import ExactIndex, FaissIndex, recall
from tokenizers_mm.text.large_generation import LargeVocabularyLM, Sampling
from tokenizers_mm.text.large_vocabulary import LargeVocabulary

WORDS = ["government", "governmental", "governments", "plan", "planned", "plans"]
WORDS += ["surveyed", "surveying", "surveys", "déjà", "日本語", "parliamentary"]
TEXTS = [f"The {a} said {b}." for a in WORDS for b in WORDS]
GREEDY = Sampling(temperature=0, repetition_penalty=1)


@pytest.fixture(scope="module")
def model():
    return load_model("bpe-small")


@pytest.fixture(scope="module")
def vocabulary(model) -> LargeVocabulary:
    grown = grow(model.codec[0], TEXTS, 25)
    return LargeVocabulary.of(model, [*grown.tokens, *random_tokens(model.vocabulary.tokens, 500)], words=grown.words)


def test_growing_goes_on_where_the_old_merges_end(model) -> None:
    codec = model.codec[0]
    small, large = grow(codec, TEXTS, 5), grow(codec, TEXTS, 25)
    assert large.tokens[:5] == small.tokens, "the same merges in the same order"
    assert set(large.tokens).isdisjoint(codec.vocabulary.tokens)
    assert len(set(large.tokens)) == 25
    assert all(b" " not in token[1:] for token in large.tokens)
    assert {b" surveys", b" plan"} <= large.words
    assert b" surve" not in large.words
    assert max(map(len, grow(codec, TEXTS, 5, max_bytes=5).tokens)) <= 5
    with pytest.raises(ValueError, match="new tokens, not 5000"):
        grow(codec, TEXTS, 5000)


def test_each_step_of_growing_merges_the_most_frequent_pair(model) -> None:
    codec = model.codec[0]
    rows = [codec.vocabulary.encode(f" {word}").tolist() for word in WORDS for _ in WORDS]
    pairs: dict[bytes, int] = {}
    for row in rows:
        for a, b in pairwise(row):
            token = codec.vocabulary.tokens[a] + codec.vocabulary.tokens[b]
            pairs[token] = pairs.get(token, 0) + 1
    first = grow(codec, [f" {word}" for word in WORDS for _ in WORDS], 1).tokens[0]
    assert pairs[first] == max(pairs.values())


def test_every_text_comes_back(vocabulary: LargeVocabulary) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=24) | st.sampled_from(TEXTS))
    def check(text: str) -> None:
        ids = vocabulary.encode(text)
        assert vocabulary.bytes_of(ids) == text.encode()
        assert all(vocabulary.tokens[i] and i < len(vocabulary) for i in ids)

    check()
    assert vocabulary.bytes_of(vocabulary.encode("日本".encode()[:-1])) == "日本".encode()[:-1]
    with pytest.raises(ValueError, match="UTF-8"):
        vocabulary.encode(b"\xff\xff a")


def test_new_tokens_are_embedded_beside_the_old(model, vocabulary: LargeVocabulary) -> None:
    assert torch.equal(vocabulary.inputs[: vocabulary.first], model.embedding.weight)
    assert vocabulary.outputs is vocabulary.inputs
    token = vocabulary.encode(" surveys")
    assert len(token) == 1
    parts = model.vocabulary.encode(" surveys")
    assert torch.allclose(vocabulary.inputs[token[0]], model.embedding.weight[parts].mean(dim=0), atol=1e-6)
    again = LargeVocabulary.of(model, vocabulary.added, chunk=7)
    assert torch.equal(again.inputs, vocabulary.inputs), "whatever the chunks are"


def test_saved_and_loaded(vocabulary: LargeVocabulary, tmp_path) -> None:
    vocabulary.save(tmp_path)
    found = LargeVocabulary.load(tmp_path)
    assert found.tokens == vocabulary.tokens
    assert torch.equal(found.inputs, vocabulary.inputs)
    assert torch.equal(found.whole, vocabulary.whole)
    assert (found.start, found.ends, found.outputs is found.inputs) == (vocabulary.start, vocabulary.ends, True)
    (tmp_path / "config.json").write_text(json.dumps({"class": "SubwordLM"}))
    with pytest.raises(ValueError, match="LargeVocabulary"):
        LargeVocabulary.load(tmp_path)


def test_models_of_transformers_keep_two_matrices(tmp_path) -> None:
    pytest.importorskip("transformers")
    tokenizer = tiny_models.tokenizer(template=False)
    model = tiny_models.decoder(len(tokenizer))
    vocabulary = LargeVocabulary.of(model, [b" governmental", b" Fridays", "日".encode()], tokenizer=tokenizer)
    vocabulary.save(tmp_path)
    found = LargeVocabulary.load(tmp_path)
    assert not torch.equal(found.inputs, found.outputs)
    assert torch.equal(found.outputs[: found.first], model.get_output_embeddings().weight)
    assert (found.start, found.ends) == ((0,), (2,))
    lm = LargeVocabularyLM(model, found, ExactIndex(found.outputs))
    together = lm.generate(["The plan", "a"], 6, GREEDY)
    assert together == [lm.generate([prompt], 6, GREEDY)[0] for prompt in ("The plan", "a")]
    plain = model(inputs_embeds=found.inputs[[0, *found.encode("a")]][None])
    features = lm.features([[0, *found.encode("a")]])
    assert torch.allclose(model.get_output_embeddings()(features), plain.logits[:, -1], atol=1e-5)


@pytest.mark.parametrize("space", ["augmented", "inner_product"])
def test_faiss_finds_the_largest_inner_products(space: str) -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 16, generator=generator) * torch.rand(3000, 1, generator=generator).exp()
    queries = torch.randn(50, 16, generator=generator)
    wanted = ExactIndex(rows).search(queries, 20)
    index = FaissIndex(rows, space=space)  # type: ignore[arg-type]
    assert index.nprobe < index.cells
    assert recall(rows, queries, index.search(queries, 20), wanted) >= 0.95
    index.nprobe = index.cells
    assert torch.equal(index.search(queries, 20), wanted)
    angles = FaissIndex(rows, nprobe=3000, space="cosine")
    assert recall(rows, queries, angles.search(queries, 20), wanted) < 0.9, "the smallest angle is something else"


def test_a_hundred_thousand_random_rows() -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(1)
    rows, queries = torch.randn(100_000, 32, generator=generator), torch.randn(100, 32, generator=generator)
    index = FaissIndex(rows)
    assert index.cells == 316
    assert recall(rows, queries, index.search(queries, 20), ExactIndex(rows).search(queries, 20)) >= 0.95


def test_recall_counts_what_was_found() -> None:
    rows, query = torch.eye(4) * torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.ones(1, 4)
    wanted = torch.tensor([[3, 2]])
    assert recall(rows, query, torch.tensor([[2, 3]]), wanted) == 1
    assert recall(rows, query, torch.tensor([[3, 0]]), wanted) == 0.5
    assert recall(rows, query, torch.tensor([[3, -1]]), wanted) == 0.5


def test_writing_with_the_index_is_writing_with_all_scores(model, vocabulary: LargeVocabulary) -> None:
    pytest.importorskip("faiss")
    exact = LargeVocabularyLM(model, vocabulary, ExactIndex(vocabulary.outputs))
    every = LargeVocabularyLM(model, vocabulary, FaissIndex(vocabulary.outputs, nprobe=10**6))
    prompts = ["The government", b"The plan \xc3", "a"]
    for sampling in (GREEDY, Sampling(), Sampling(mask_partial=True)):
        draws = [lm.generate(prompts, 12, sampling, torch.Generator().manual_seed(0)) for lm in (exact, every)]
        assert draws[0] == draws[1]
        assert all(vocabulary.tokens[i] or i in vocabulary.ends for row in draws[0] for i in row)
        assert not any(i in vocabulary.ends for row in draws[0] for i in row[:-1]), "a row stops at its end"


def test_the_likeliest_is_that_of_all_scores(model, vocabulary: LargeVocabulary) -> None:
    lm = LargeVocabularyLM(model, vocabulary, ExactIndex(vocabulary.outputs))
    row = [*vocabulary.start, *vocabulary.encode("The government said")]
    with torch.no_grad():
        features = model.backbone(vocabulary.inputs[row][None])[:, -1]
        logits = (features @ vocabulary.outputs.T)[0]
    logits[model.start] = -torch.inf
    assert lm.draw(features, [row], GREEDY, None) == [int(logits.argmax())]
    best = int(logits.argmax())
    again = lm.draw(features, [[*row, best]], Sampling(temperature=0, repetition_penalty=1000), None)
    assert again != [best]


def test_after_a_whole_word_nothing_goes_on_with_it(model, vocabulary: LargeVocabulary) -> None:
    lm = LargeVocabularyLM(model, vocabulary, ExactIndex(vocabulary.outputs))
    (word,) = vocabulary.encode(" surveys")
    goes_on = vocabulary.encode("ment")[0]
    features = 100 * vocabulary.outputs[[goes_on]]  # what the model says comes next
    row = [*vocabulary.start, word]
    assert lm.draw(features, [row], GREEDY, None) == [goes_on]
    few = Sampling(temperature=0, candidates=1, mask_partial=True, repetition_penalty=1)
    (found,) = lm.draw(features, [row], few, None)
    assert not vocabulary.tokens[found].decode("utf-8", "replace")[:1].isalnum()


def test_bad_input_is_refused_by_name(model, vocabulary: LargeVocabulary) -> None:
    lm = LargeVocabularyLM(model, vocabulary, ExactIndex(vocabulary.outputs))
    with pytest.raises(ValueError, match="at least one prompt"):
        lm.generate([], 3)
    assert len(lm.generate([""], 2, GREEDY)[0]) <= 2, "a document begins with its start"
    with pytest.raises(ValueError, match="max_tokens"):
        lm.generate(["a"], 0)
    for added in ([b""], [b"zzzzz", b"zzzzz"], [b" the"]):
        with pytest.raises(ValueError, match="added"):
            LargeVocabulary.of(model, added)
    with pytest.raises(ValueError, match="top_k"):
        Sampling(top_k=0)
    with pytest.raises(ValueError, match="min_p"):
        Sampling(min_p=2)
    with pytest.raises(ValueError, match="rows"):
        ExactIndex(torch.zeros(0, 3))


def test_commands(tmp_path) -> None:
    pytest.importorskip("faiss")
    source = tmp_path / "text.txt"
    source.write_text("\n".join(TEXTS))
    folder, report = str(tmp_path / "large"), tmp_path / "report.json"
    run = CliRunner().invoke
    grown = run(app, ["text", "grow-vocabulary", str(source), "-o", folder, "-n", "12"])
    assert grown.exit_code == 0, grown.output
    assert "whole words" in grown.output
    written = run(app, ["text", "complete-large", folder, "The plan", "-n", "3", "--seed", "1", "--mask-partial"])
    assert written.exit_code == 0, written.output
    assert written.output.startswith("The plan")
    options = ["--vocabulary", folder, "--data", str(source), "--queries", "4", "--steps", "2", "-o", str(report)]
    benched = run(app, ["text", "bench-index", *options])
    assert benched.exit_code == 0, benched.output
    rows = json.loads(report.read_text())["searches"]
    assert rows[0]["recall_at_20"] == 1
    assert {row.get("space") for row in rows} == {None, "augmented", "inner_product", "cosine"}
