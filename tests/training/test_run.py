from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from toy_training import ToyCodec

from tokenizers_mm import registry
from tokenizers_mm.training import run
from tokenizers_mm.training.run import RecipeCLI, find_recipe, train

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:You're resuming from")

RECIPE = """
seed_everything: 7
checkpoint_every: 2
model:
  class_path: tokenizers_mm.training.adversarial.AdversarialModule
  init_args:
    codec: {class_path: toy_training.ToyCodec}
    losses: {l1: {class_path: torch.nn.L1Loss}}
    adversaries:
      toy: {class_path: tokenizers_mm.nn.adversarial.Adversary, init_args: {discriminator: toy_training.ToyDiscriminator}}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
    gradient_clip: 1.0
    ema_decay: 0.9
data: {class_path: toy_training.ToyData}
trainer:
  {accelerator: cpu, devices: 1, max_steps: 8, log_every_n_steps: 1, num_sanity_val_steps: 0,
   enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_in_its_folder(recipe, tmp_path):
    folder = train(recipe, ["model.init_args.codec.init_args.dim=6"], output=tmp_path / "run")
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints", "codec"} <= names
    assert any(name.startswith("events.out") for name in names)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["codec"]["init_args"] == {"dim": 6, "codebook_size": 16, "dropout": 0.2}
    logged = {name for row in rows(folder / "metrics.csv") for name, value in row.items() if value}
    expected = {"train/loss", "train/l1", "train/quantizer", "train/discriminator/toy", "train/adversarial/toy"}
    expected |= {"train/grad_norm", "train/grad_norm_discriminator", "train/perplexity", "train/codes_used", "lr"}
    expected |= {"train/steps_per_second", "lr_discriminator", "val/loss", "val/perplexity"}
    assert expected <= logged
    registry.register(ToyCodec)
    codec = registry.load(folder / "codec")
    tokens = codec.encode(torch.randn(2, 1, 32))
    assert codec.decode(tokens).shape == (2, 1, 32)


def test_ctrl_c_then_resume_equals_the_whole_run(recipe, tmp_path):
    whole = train(recipe, output=tmp_path / "whole")
    interrupt = 'trainer.callbacks=[{"class_path": "toy_training.Interrupt", "init_args": {"step": 3}}]'
    part = train(recipe, [interrupt], output=tmp_path / "part")
    stopped = torch.load(part / "checkpoints/last.ckpt", weights_only=True)
    assert stopped["global_step"] == 3
    assert (part / "codec/model.safetensors").is_file()
    assert train(None, resume=part) == part
    assert len(rows(part / "metrics-1.csv")) < len(rows(whole / "metrics.csv"))
    a, b = (torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (whole, part))
    assert a["global_step"] == b["global_step"] == 8
    torch.testing.assert_close(a["state_dict"], b["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(a["optimizer_states"], b["optimizer_states"], rtol=0, atol=0)
    assert (whole / "codec/model.safetensors").read_bytes() == (part / "codec/model.safetensors").read_bytes()


def test_a_killed_run_resumes_from_its_last_periodic_checkpoint(recipe, tmp_path):
    whole = train(recipe, output=tmp_path / "whole")
    with pytest.raises(KeyError):
        train(recipe, ["data.init_args.break_at=5"], output=tmp_path / "part")
    assert torch.load(tmp_path / "part/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    part = train(None, ["data.init_args.break_at=null"], resume=tmp_path / "part/checkpoints/last.ckpt")
    assert (whole / "codec/model.safetensors").read_bytes() == (part / "codec/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.init_args.codec.init_args.dimm=3", "'dimm' is not accepted"),
        ("trainer.max_stepss=3", "trainer.max_stepss"),
        ("trainer.max_steps=many", "trainer.max_steps.*many"),
        ("model.class_path=nowhere.Module", "nowhere"),
        ("model.init_args.discriminator_every=0", "discriminator_every must be at least 1, got 0"),
        ("max_steps", "key=value, got 'max_steps'"),
    ],
)
def test_a_wrong_override_is_named(recipe, tmp_path, override, named):
    with pytest.raises(ValueError, match=named) as caught:
        train(recipe, [override], output=tmp_path / "run")
    assert len(str(caught.value)) < 400
    assert not (tmp_path / "run").exists()


def test_resume_goes_on_with_the_audio_that_would_have_come(recipe, tmp_path):
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", np.sin(np.arange(3000) * (0.02 + 0.01 * i)) * 0.5, 8000)
    audio = f"""
data:
  class_path: tokenizers_mm.audio.data.AudioDataModule
  init_args: {{train: {{path: {tmp_path}}}, valid: {{path: {tmp_path}}}, sample_rate: 8000, segment_seconds: 0.02,
              batch_size: 2, examples_per_epoch: 10, speeds: [0.9, 1.1]}}
"""
    recipe.write_text(recipe.read_text().replace("\ndata: {class_path: toy_training.ToyData}\n", audio))
    whole = train(recipe, output=tmp_path / "whole")
    interrupt = 'trainer.callbacks=[{"class_path": "toy_training.Interrupt", "init_args": {"step": 7}}]'
    part = train(recipe, [interrupt], output=tmp_path / "part")
    train(None, resume=part)
    assert (whole / "codec/model.safetensors").read_bytes() == (part / "codec/model.safetensors").read_bytes()


def test_a_finished_run_can_go_on_for_longer(recipe, tmp_path):
    folder = train(recipe, ["trainer.max_steps=3"], output=tmp_path / "run")
    before = (folder / "codec/model.safetensors").read_bytes()
    train(None, resume=folder)
    assert (folder / "codec/model.safetensors").read_bytes() == before
    train(None, ["trainer.max_steps=5"], resume=folder)
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_unknown_recipes_and_missing_runs_say_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="wavtokenizer-small"):
        train("wavtokeniser")
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt"):
        train(None, resume=tmp_path)
    with pytest.raises(ValueError, match="recipe"):
        train(None)


def test_folders_of_one_second_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.time, "strftime", lambda _: "now")
    first = run.new_folder("toy")
    first.mkdir(parents=True)
    assert (first, run.new_folder("toy")) == (Path("runs/toy-now"), Path("runs/toy-now-2"))


class Unbuilt(RecipeCLI):
    """Parses and checks a recipe without building anything."""

    def instantiate_classes(self) -> None:
        return


SHIPPED = sorted(registry.data_path("recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_recipes_name_only_what_exists(path, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RecipeCLI", Unbuilt)
    config = run.parse(find_recipe(path.stem), [], tmp_path).config
    assert config.model.class_path.startswith("tokenizers_mm.training.")
    assert "${" not in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("rate", [40, 75])
def test_the_published_recipe_has_the_published_sizes(rate, tmp_path, monkeypatch):
    from tokenizers_mm.audio import WavTokenizer, discriminators

    monkeypatch.setattr(run, "RecipeCLI", Unbuilt)
    options = run.parse(find_recipe(f"wavtokenizer-{rate}"), [], tmp_path).config.model.init_args
    with torch.device("meta"):
        codec = WavTokenizer(**vars(options.codec.init_args))
        sizes = []
        for adversary in options.adversaries.values():
            named = adversary.init_args.discriminator
            kind = getattr(discriminators, named.class_path.rpartition(".")[2])
            sizes.append(sum(p.numel() for p in kind(**vars(named.init_args)).parameters()))
    assert codec.spec.frame_rate == rate
    assert sum(p.numel() for p in codec.parameters()) == {40: 72_111_714, 75: 71_750_146}[rate]
    assert sizes == [41_126_250, 600_966, 42_519_760]
