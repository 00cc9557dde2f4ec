"""Deciphering: keys, letters, commands, recipes; and the model that ships reads ciphers that it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tokenizers_mm import registry
from tokenizers_mm.cli import app
from tokenizers_mm.lm.lexinvariant import LexinvariantLM
from tokenizers_mm.lm.symbols import ALPHABET, plain_ids
from tokenizers_mm.text.deciphering import Decipherer, load_symbol_model, windows
from tokenizers_mm.text.letters import Letters
from tokenizers_mm.training.run import parse, train

SHIPPED = "lexinvariant-small"
TEXT = (
    "A farmer has twelve apples and gives three of them to each of his two brothers. On the way home he finds eight more apples "
    "under a tree, and sells half of all that he has for two dollars each. How much money does the farmer make, and how many "
    "apples are left for the next day? First we count the apples that he keeps: he has six left after the brothers have theirs, "
    "and then he finds eight more, so that there are fourteen in all. He sells seven of them, which makes fourteen dollars, and "
    "keeps the other seven. "
)


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = LexinvariantLM(27, dim=16, layers=1, heads=2)
    texts = windows([(TEXT * 4).encode()], 64)
    Decipherer.learn(model, texts, seed()).save(tmp_path / "model")
    return tmp_path / "model"


def test_letters_of_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ab, cd!\nE")
    (tmp_path / "b.txt").write_text("z")
    assert "".join("|" if i < 0 else ALPHABET[i] for i in Letters(str(tmp_path)).ids.tolist()) == "ab cd e|z"
    assert Letters(str(tmp_path), alphabet="Ab ").ids.tolist() == [0, 1]
    found = windows([TEXT.encode(), b"short"], 100)
    assert torch.equal(found.flatten(), plain_ids(TEXT)[: found.numel()])
    for wrong, message in (
        (lambda: windows([b"short"], 100), "100 letters"),
        (lambda: plain_ids("a", "aab "), "different"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_a_decipherer_is_kept_in_its_folder(folder: Path) -> None:
    again = Decipherer.load(folder)
    assert again.alphabet == ALPHABET
    assert int(again.counts.sum()) % 64 == 0
    found = again.decipher("zyx zyx", seed())
    assert sorted(found.key) == sorted(set("zyx zyx"))
    assert len(set(found.key.values())) == 4
    assert found.text == "".join(found.key[c] for c in "zyx zyx")
    accuracies = again.accuracies(windows([TEXT.encode()], 128), seed(), draws=1)
    assert accuracies["chance"] == 1 / 27
    assert accuracies["key_by_frequency"] > 0.1
    for text in ("", "".join(map(chr, range(28)))):
        with pytest.raises(ValueError, match="1 to 27 different"):
            again.decipher(text, seed())
    with pytest.raises(ValueError, match="27 symbols"):
        Decipherer.learn(LexinvariantLM(5, dim=16, layers=1, heads=2), windows([TEXT.encode()], 64), seed())


def test_commands_measure_and_decipher(folder: Path, tmp_path: Path) -> None:
    data, report = tmp_path / "test.txt", tmp_path / "report.json"
    data.write_text(TEXT * 2)
    run = CliRunner().invoke
    done = run(
        app,
        [
            "text",
            "decipher",
            str(folder),
            "--data",
            str(data),
            "--rows",
            "2",
            "--beside",
            str(folder),
            "-o",
            str(report),
        ],
    )
    assert done.exit_code == 0, done.output
    found = json.loads(report.read_text())
    assert set(found["keys"]) == {"64", "128", "256", "512"}
    assert len(found["nats_by_position"][str(folder)]) == 5
    assert {"lookup_4", "permute_3"} <= set(found["tasks"][str(folder)])
    done = run(app, ["text", "decipher", str(folder), "abc abc bca"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()[-1]) == 11
    assert isinstance(run(app, ["text", "decipher", str(folder)]).exception, ValueError)
    done = run(app, ["text", "learn-key", str(folder), str(tmp_path / "new"), "--data", str(data), "--length", "64"])
    assert done.exit_code == 0
    assert Decipherer.load(tmp_path / "new")


def test_the_annealed_recipe_leaves_a_lexinvariant_model(tmp_path: Path) -> None:
    options = [
        "trainer.max_steps=3",
        "trainer.val_check_interval=3",
        "trainer.enable_progress_bar=false",
        "data.init_args.length=32",
    ]
    data = [
        f"data.init_args.{part}.init_args.path={registry.data_path('eval')}/samples/text/en.txt"
        for part in ("train", "valid")
    ]
    run = train(
        "lexinvariant-anneal-small",
        [*options, *data, "model.init_args.network.init_args.layers=1"],
        output=tmp_path / "run",
    )
    model = load_symbol_model(run / "model")
    assert type(model) is LexinvariantLM
    assert model.symbols == 27


@pytest.mark.parametrize("name", ["lexinvariant", "lexinvariant-small"])
def test_recipes_build(name: str, tmp_path: Path) -> None:
    source = next(registry.data_path("recipes").rglob(f"{name}.yaml"))
    small = [f"model.init_args.network.init_args.{option}" for option in ("dim=16", "layers=1", "heads=2")]
    cli = parse(source, ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32", *small], tmp_path)
    assert type(cli.model.network) is LexinvariantLM
    row = cli.datamodule.train_rows[0]
    assert 0 <= int(row.max()) < cli.model.network.symbols
    assert torch.isfinite(cli.model.network.loss(row[None]))


def test_the_shipped_model_reads_ciphers() -> None:
    """Of a text of nobody's, under keys of its own: several times as much as by chance."""
    found = Decipherer.load(SHIPPED).accuracies(plain_ids(TEXT)[:384].expand(8, -1), seed(), draws=2)
    assert found["key_one_to_one"] > 3 * found["chance"]
    assert found["letters"] > 0.2
