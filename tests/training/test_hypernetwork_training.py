"""Two phases of training: rates as published, runs that resume, checkpoints without the frozen model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tokenizers_mm.text.surface import load_hypernetwork
from tokenizers_mm.training.hypernetwork import HypernetworkModule
from tokenizers_mm.training.run import find_recipe, train

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:You're resuming from")

TASK = "model.init_args.network.init_args"
QUICK = [
    f"{TASK}.hypernetwork.init_args.hidden=8", f"{TASK}.hypernetwork.init_args.intermediate=8",
    f"{TASK}.hypernetwork.init_args.layers=1", f"{TASK}.hypernetwork.init_args.heads=2",
    f"{TASK}.hypernetwork.init_args.from_mean=false", f"{TASK}.identity_tokens=32", f"{TASK}.lexical_tokens=8",
    "model.init_args.identity_steps=2", "model.init_args.identity_lr=0.01", "model.init_args.warmup_steps=1",
    "data.init_args.length=64", "data.init_args.batch_size=2", "trainer.max_steps=4", "trainer.limit_val_batches=1",
    "trainer.val_check_interval=4", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "checkpoint_every=2",
    "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false",
]  # fmt: skip


def test_a_run_of_the_shipped_recipe_goes_on_where_it_stopped(tmp_path) -> None:
    whole = train("hypernetwork-small", QUICK, output=tmp_path / "whole")
    stop = 'trainer.callbacks=[{"class_path": "toy_training.Interrupt", "init_args": {"step": 3}}]'
    part = train("hypernetwork-small", [*QUICK, stop], output=tmp_path / "part")
    train(None, resume=part)
    a, b = (folder / "hypernetwork/model.safetensors" for folder in (whole, part))
    assert a.read_bytes() == b.read_bytes()
    state = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all(key.startswith("network.hypernetwork.") for key in state)
    logged = (whole / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/lm", "train/lexical", "val/loss", "val/lm", "train/grad_norm", "lr/pg2"} <= set(logged)
    network = load_hypernetwork(whole / "hypernetwork")
    assert (network.dim, network.vocabulary_size, network.tied) == (160, 4096, True)
    assert float(network.in_scaler.w.std()) > 0  # set from the model


def test_rates_are_the_published_ones() -> None:
    module = HypernetworkModule(SimpleNamespace(hypernetwork=torch.nn.Linear(2, 2)))  # type: ignore[arg-type]
    module._trainer = SimpleNamespace(max_steps=200_000)  # type: ignore[assignment]
    rate = module.factor(6e-5)
    wanted = {0: 3e-8, 4_999: 1.5e-4, 9_999: 3e-4, 10_000: 6e-9, 14_999: 3e-5, 19_999: 6e-5, 110_000: 3.3e-5}
    for step, lr in {**wanted, 200_000: 6e-6}.items():
        assert 6e-5 * rate(step) == pytest.approx(lr, rel=1e-3)


def test_the_published_recipe_has_the_published_size(tmp_path, monkeypatch) -> None:
    from tokenizers_mm.text import Hypernetwork
    from tokenizers_mm.training import run

    class Unbuilt(run.RecipeCLI):
        def instantiate_classes(self) -> None:
            return

    monkeypatch.setattr(run, "RecipeCLI", Unbuilt)
    options = run.parse(find_recipe("hypernetwork"), [], Path(tmp_path)).config.model.init_args
    with torch.device("meta"):
        network = Hypernetwork(**vars(options.network.init_args.hypernetwork.init_args))
    assert sum(p.numel() for p in network.parameters()) == 673_456_129
    assert (options.identity_steps, options.warmup_steps, options.gradient_clip) == (10_000, 10_000, 0.1)
