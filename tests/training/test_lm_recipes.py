"""Recipes of token language models: small ones train on what mmtok tokenize writes, published ones are of their size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tokenizers_mm import cli, registry
from tokenizers_mm.lm.huggingface import HuggingFaceLM
from tokenizers_mm.lm.masked import MaskedTokenLM
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.lm.vocabulary import Vocabulary
from tokenizers_mm.training.run import find_recipe, train

SAMPLES = registry.data_path("eval") / "samples"
DATA = {
    "image": ("vqgan-128", ["images/marble-1.png", "images/hills-1.png", "images/marble-2.png"]),
    "image-scales": ("var-128", ["images/marble-1.png", "images/hills-1.png"]),
    "speech": ("wavtokenizer-speech-16k-500", ["en-1.ogg", "en-2.ogg"]),
    "eeg": ("eeg-waveform", ["eeg/closed-8.edf", "eeg/open-8.edf"]),
    "series": ("totem-etth1", ["timeseries/bicycles.csv", "timeseries/walk.csv"]),
    "text": ("bpe-8k", ["text/en.txt", "text/de.txt"]),
}
PUBLISHED = [
    "lm-image-llamagen-b", "lm-image-masked", "lm-speech", "lm-eeg", "lm-series", "lm-text", "lm-joint"
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tokens of a few samples, of every modality and of recipes that need others."""
    out = tmp_path_factory.mktemp("tokens")
    for name, (codec, files) in DATA.items():
        lines = ["--lines"] if name == "text" else []
        with pytest.raises(SystemExit) as stop:
            cli.main(["tokenize", codec, *(str(SAMPLES / file) for file in files), str(out / name), *lines])
        assert not stop.value.code
    return {name: out / name for name in DATA}


def tiny(name: str, shards: dict[str, Path], folder: Path) -> Path:
    """The recipe with a tiny network, two steps and these shards."""
    recipe = yaml.safe_load(find_recipe(name).read_text())
    network, data = (recipe[part]["init_args"] for part in ("model", "data"))
    network, own = network["network"]["init_args"], name.removeprefix("lm-").removesuffix("-small")
    network |= {"dim": 16, "layers": 1, "heads": 2}
    for part in ("train", "valid"):
        data[part] = [{**each, "path": str(shards[own if own in shards else each["name"]])} for each in data[part]]
    if "joint" in name:  # the sample has eight channels, which is longer
        network["streams"] = [
            {**each, "grid": [8, None]} if each["name"] == "eeg" else each for each in network["streams"]
        ]
        data["length"] = 800
    data["batch_size"] = 2
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    recipe["trainer"] |= {**quiet, "max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("name", ["image", "image-masked", "image-scales", "speech", "eeg", "series", "text", "joint"])
def test_small_recipes_train_on_shards(name: str, shards: dict[str, Path], tmp_path: Path) -> None:
    folder = train(tiny(f"lm-{name}-small", shards, tmp_path), output=tmp_path / "run")
    kind = MaskedTokenLM if name == "image-masked" else TokenLM
    network = kind.from_pretrained(folder / "model")
    logged = (folder / "metrics.csv").read_text()
    assert {"val/bits", "train/tokens_per_second"} <= set(logged.splitlines()[0].split(","))
    wanted = ["image", "speech", "eeg", "series"] if name == "joint" else [name.split("-")[0]]
    assert [stream.name for stream in network.vocabulary.streams] == wanted


def test_a_model_of_transformers_trains_on_shards(shards: dict[str, Path], tmp_path: Path) -> None:
    from tests.lm.tiny_llama import write_tiny_llama

    pytest.importorskip("transformers")
    recipe = yaml.safe_load(tiny("lm-huggingface", shards, tmp_path).read_text())
    recipe["model"]["init_args"]["network"]["init_args"] = {
        **{key: recipe["model"]["init_args"]["network"]["init_args"][key] for key in ("streams", "classes")},
        "model": str(write_tiny_llama(tmp_path / "llama")),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    folder = train(tmp_path / "recipe.yaml", ["trainer.precision=32-true"], output=tmp_path / "run")
    assert HuggingFaceLM.from_pretrained(folder / "model").vocabulary.size > 8000


def test_an_interrupted_run_goes_on_with_the_tokens_that_would_have_come(
    shards: dict[str, Path], tmp_path: Path
) -> None:
    recipe, options = tiny("lm-speech-small", shards, tmp_path), ["trainer.max_steps=4", "data.init_args.length=40"]
    whole = train(recipe, options, output=tmp_path / "whole")
    interrupt = 'trainer.callbacks=[{"class_path": "toy_training.Interrupt", "init_args": {"step": 3}}]'
    part = train(recipe, [*options, interrupt], output=tmp_path / "part")
    assert torch.load(part / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    train(None, resume=part)
    assert (whole / "model/model.safetensors").read_bytes() == (part / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_a_vocabulary(name: str) -> None:
    options = yaml.safe_load(find_recipe(name).read_text())["model"]["init_args"]["network"]["init_args"]
    vocabulary = Vocabulary(options.get("streams") or [options["stream"]], options.get("classes", 0))
    assert vocabulary.size > sum(sum(stream.spec.codebook_sizes) for stream in vocabulary.streams)


def test_llamagen_b_is_of_its_published_size() -> None:
    options = yaml.safe_load(find_recipe("lm-image-llamagen-b").read_text())["model"]["init_args"]["network"][
        "init_args"
    ]
    one = TokenLM(**{**options, "layers": 1})
    block = sum(p.numel() for p in one.transformer.blocks.parameters())
    assert block == 4 * 768**2 + 3 * 768 * 2048 + 2 * 768
    total = sum(p.numel() for p in one.parameters()) + 11 * block
    unpredicted = one.vocabulary.size - 16384  # ours has rows of the output for specials and classes too
    assert total - 768 * unpredicted == pytest.approx(110.888e6, rel=2e-4)
