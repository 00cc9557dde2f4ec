"""Classifiers over merged tokens: budgets, adapters, folders, data, and that they learn."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from tokenizers_mm.cli import app
from tokenizers_mm.text.budgets import BINS, Budgets
from tokenizers_mm.text.dynamic_classifier import DynamicClassifier, columns
from tokenizers_mm.text.labelled import LabelledDataModule, LabelledSource, shuffled

pytest.importorskip("transformers")
MODEL = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
EXAMPLES = [("the plan of the government", None, "en"), ("der Plan der Regierung", None, "de")] * 4


def classifier(**options) -> DynamicClassifier:
    torch.manual_seed(0)
    return DynamicClassifier(MODEL, "bpe-8k", ["en", "de"], **options)


def test_budgets_are_those_of_the_batches() -> None:
    budgets = Budgets()
    with pytest.raises(ValueError, match="percent"):
        budgets.merges(50)
    budgets.note([20, 14, 12, 11, 10])
    assert [budgets.merges(p) for p in (0, 10, 60, 80, 81, 100)] == [0, 1, 1, 2, 3, 4]
    budgets.note([5])  # nothing to merge
    assert budgets.merges(100) == 2
    assert budgets.merges(0) == 0


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_drawn_budgets_fill_their_bins(distribution: str) -> None:
    budgets, generator = Budgets(distribution), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    drawn = torch.tensor([budgets.draw(generator) for _ in range(3000)])
    assert drawn.min() >= 0
    assert drawn.max() <= 100
    counts = torch.histc(drawn, BINS, 0, 100)
    if distribution == "uniform":
        assert counts.min() > 60
    else:
        assert int(counts.argmax()) in range(13, 18)
        assert drawn.std() == pytest.approx(5 * 100 / BINS, rel=0.1)


def test_it_learns_at_any_budget_and_comes_back(tmp_path) -> None:
    model = classifier()
    frozen = model.model.get_input_embeddings().weight.clone()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(EXAMPLES).backward()
        optimizer.step()
    assert torch.equal(model.model.get_input_embeddings().weight, frozen)
    model.eval()
    found = {percent: model.accuracy(EXAMPLES, percent, 4) for percent in (0, 50, 100)}
    assert [accuracy for accuracy, _ in found.values()] == [1, 1, 1]
    assert found[100][1] < found[0][1]
    model.save_pretrained(tmp_path / "model")
    again = DynamicClassifier.from_pretrained(tmp_path / "model")
    assert torch.equal(again.loss(EXAMPLES), model.loss(EXAMPLES))
    table = tmp_path / "texts.tsv"
    table.write_text("".join(f"{label}\t{text}\n" for text, _, label in EXAMPLES))
    report = tmp_path / "report.json"
    options = ["--data", str(table), "--batch", "4", "-o", str(report)]
    run = CliRunner().invoke(app, ["text", "evaluate-classifier", str(tmp_path / "model"), *options])
    assert run.exit_code == 0, run.output
    rows = json.loads(report.read_text())["budgets"]
    assert [row["percent"] for row in rows] == list(range(0, 101, 10))
    assert [row["tokens"] for row in rows] == sorted((row["tokens"] for row in rows), reverse=True)


def test_adapters_leave_the_rest_alone() -> None:
    pytest.importorskip("peft")
    model = classifier(lora_rank=2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name or "classifier" in name for name in trained)
    model.eval()
    plain = classifier().eval()
    assert model.loss(EXAMPLES).isfinite()
    features = model.model.base_model.model.bert, plain.model.bert
    batch = plain.inputs(["the plan"], merges=None).model_inputs
    assert torch.allclose(features[0](**batch)[0], features[1](**batch)[0], atol=1e-6), "adapters begin as nothing"


def test_pairs_go_into_one_sequence() -> None:
    model = classifier()
    pairs = [("the plan", "a plan", "en"), ("der Plan", "Plan", "de")]
    model.loss(pairs).backward()
    assert columns(pairs)[1] == ["a plan", "Plan"]
    assert columns([*pairs, ("a", None, "en")])[1] is None
    batch = model.inputs(*columns(pairs)[:2], merges=None)
    end = model.tokenizer.eos_token_id
    assert [row.count(end) for row in batch.merged.rows] == [3, 3]


def test_bad_input_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(ValueError, match="labels"):
        DynamicClassifier(MODEL, "bpe-8k", ["en", "en"])
    with pytest.raises(ValueError, match="labels must be among"):
        classifier().loss([("a", None, "fr")])
    with pytest.raises(ValueError, match="distribution"):
        Budgets("normal")  # type: ignore[arg-type]
    (tmp_path / "bad.tsv").write_text("en\ta\tb\tc\n")
    with pytest.raises(ValueError, match="tsv:1 must have"):
        LabelledSource(str(tmp_path / "bad.tsv")).examples()
    with pytest.raises(FileNotFoundError, match="labelled"):
        LabelledSource(str(tmp_path), labels=["xx"]).examples()


def test_data_come_shuffled_and_labelled(tmp_path) -> None:
    for label, lines in {"en": "one\ntwo\n\nthree", "de": "eins\nzwei", "fr": "un"}.items():
        (tmp_path / f"{label}.txt").write_text(lines)
    source = LabelledSource(str(tmp_path), labels=["en", "de"])
    examples = source.examples()
    assert [label for _, _, label in examples] == ["de"] * 2 + ["en"] * 3
    assert sorted(shuffled(examples)) == sorted(examples)
    data = LabelledDataModule(source, source, batch_size=5)
    data.setup("fit")
    first, second = (next(iter(data.train_dataloader()))["signal"] for _ in range(2))
    assert sorted(first) == sorted(second) == sorted(examples), "each text once per turn"
    assert [len(batch["signal"]) for batch in data.val_dataloader()] == [5]
