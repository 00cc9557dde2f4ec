"""Sharded training gives what one process gives, in checkpoints and exports too; what can't be sharded says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from toy_training import ToyData, autoencoder, make_trainer, two_processes

import tokenizers_mm as tm
from tokenizers_mm.lm.masked import MaskedTokenLM
from tokenizers_mm.lm.stream import Stream
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.scale import Item, Origin, ShardWriter
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.training.callbacks import ReproducibleSteps
from tokenizers_mm.training.language_model import LanguageModelModule
from tokenizers_mm.training.run import export, train

SPEC = TokenSpec("audio", (7, 5))
STREAM = Stream("speech", SPEC)
STEPS = 4


def network(**options: Any) -> TokenLM:
    torch.manual_seed(0)
    return TokenLM([STREAM.to_dict()], **{"dim": 18, "layers": 2, "heads": 3, "hidden": 31, **options})


def tokens(frames: int, seed: int) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(n, (1, frames), generator=generator) for n in SPEC.codebook_sizes]
    return Tokens(torch.stack(ids, dim=-1), SPEC)


def batches() -> list[dict[str, Tensor]]:
    """Four documents a step, all of one length: the mean over them is the mean of the means of halves."""
    vocabulary = network().vocabulary
    rows = [vocabulary.document([("speech", tokens(6, seed))]) for seed in range(4 * STEPS)]
    return [{"signal": torch.stack(rows[4 * step : 4 * step + 4])} for step in range(STEPS)]


class Record(Callback):
    """Losses and norms of all steps, and the validation's loss after each."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        logged = trainer.callback_metrics
        self.found.append(torch.stack([logged["train/loss"], logged["train/grad_norm"]]))

    def on_validation_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.found[-1] = torch.cat([self.found[-1], trainer.callback_metrics["val/loss"][None]])


def fit(module: LightningModule, data: list[dict[str, Tensor]], folder: Path | str, **options: Any) -> Tensor:
    record = Record()
    trainer = make_trainer(
        folder,
        STEPS,
        callbacks=[ReproducibleSteps(1), record],
        use_distributed_sampler=False,
        val_check_interval=1,
        **options,
    )
    loaders = [DataLoader(data, batch_size=None) for _ in range(2)]  # type: ignore[arg-type]
    trainer.fit(module, *loaders)
    return torch.stack(record.found)


def trained(**options: Any) -> LanguageModelModule:
    return LanguageModelModule(
        network(**options), lambda p: torch.optim.AdamW(p, lr=1e-2), ema_decay=0.5, gradient_clip=0.2
    )


def recipe(folder: Path) -> dict[str, Any]:
    init = {"streams": [STREAM.to_dict()], "dim": 16, "layers": 2, "heads": 2, "dropout": 0.1, "tied": False}
    source = [{"name": "speech", "path": str(folder / "tokens")}]
    return {
        "seed_everything": 0,
        "model": {
            "class_path": "tokenizers_mm.training.language_model.LanguageModelModule",
            "init_args": {
                "network": {"class_path": "tokenizers_mm.lm.token_lm.TokenLM", "init_args": init},
                "ema_decay": 0.9,
            },
        },
        "data": {
            "class_path": "tokenizers_mm.training.token_data.TokenDataModule",
            "init_args": {
                **{"vocabulary": None, "train": source, "valid": source, "length": 24},
                **{"batch_size": 2, "batches_per_epoch": 3},
            },
        },
        "trainer": {
            **{"max_steps": STEPS, "accelerator": "cpu", "devices": 2, "strategy": "fsdp2", "log_every_n_steps": 1},
            **{"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0},
        },
    }


def work(path: str) -> None:
    """What each of two processes does."""
    folder, rank = Path(path), int(os.environ["RANK"])
    module = trained(checkpointing=True)
    halves = [{"signal": batch["signal"][2 * rank : 2 * rank + 2]} for batch in batches()]
    found = fit(module, halves, folder, devices=2, strategy="fsdp2")
    export(module, folder / "export")
    sharded = [p for part in (module.network, module.trained) for p in part.parameters()]
    assert all(isinstance(p, DTensor) and p.to_local().numel() <= 0.6 * p.numel() for p in sharded)
    torch.save({"logged": found, "shard": module.network.embedding.weight.to_local()}, folder / f"rank-{rank}.pt")

    train(folder / "recipe.yaml", output=folder / "whole")
    interrupt = 'trainer.callbacks=[{"class_path": "toy_training.Interrupt", "init_args": {"step": 2}}]'
    train(folder / "recipe.yaml", [interrupt], output=folder / "part")
    train(None, resume=folder / "part")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave behind."""
    folder = tmp_path_factory.mktemp("sharded")
    with ShardWriter(folder / "tokens", Origin("toy", SPEC)) as writer:
        for i in range(16):
            writer.write(Item(str(i), tokens(6 + i % 5, i)))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder)))
    two_processes(__file__, str(folder))
    return folder


@pytest.mark.slow
def test_two_processes_with_half_of_each_weight_do_what_one_does(sharded: Path, tmp_path: Path) -> None:
    module = trained()
    expected = fit(module, batches(), tmp_path)
    one, two = (torch.load(sharded / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    mean = torch.stack([one["logged"], two["logged"]]).mean(dim=0)
    assert torch.allclose(mean, expected, atol=1e-5)
    assert (expected[:, 1] > 0.2).all(), "nothing was clipped"
    rows = module.network.embedding.weight
    assert torch.allclose(torch.cat([one["shard"], two["shard"]]), rows, atol=1e-5)

    exported = tm.load_lm(str(sharded / "export/model"))
    assert isinstance(exported, TokenLM)
    assert exported.head.weight is exported.embedding.weight
    state = exported.state_dict()
    assert [k for k, v in module.trained.state_dict().items() if not torch.allclose(v, state[k], atol=1e-5)] == []


@pytest.mark.slow
def test_a_sharded_run_goes_on_exactly_and_its_checkpoint_is_whole(sharded: Path) -> None:
    whole, part = sharded / "whole", sharded / "part"
    assert (whole / "model/model.safetensors").read_bytes() == (part / "model/model.safetensors").read_bytes()
    saved, again = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, part))
    moments, same = (c["optimizer_states"][0]["state"] for c in (saved, again))
    assert all(torch.equal(v, same[i][k]) for i, each in moments.items() for k, v in each.items())
    init = recipe(sharded)["model"]["init_args"]["network"]["init_args"]
    module = LanguageModelModule(TokenLM(**init), ema_decay=0.9)
    module.load_state_dict(saved["state_dict"])
    module.make_optimizer(module.parameter_groups()).load_state_dict(saved["optimizer_states"][0])
    exported = tm.load_lm(str(whole / "model")).state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in module.trained.state_dict().items())


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Options of a trainer that shards over one process."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    yield {"strategy": "fsdp2"}
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["masked", "depth"])
def test_other_networks_shard(kind: str, alone: dict[str, Any], tmp_path: Path) -> None:
    spec = TokenSpec("image", (9,), hop=(4, 4), axes=("height", "width"))
    stream = Stream("image", spec, grid=(3, 4)).to_dict()
    item = Tokens(torch.arange(12).reshape(1, 12, 1) % 9, spec, torch.tensor([[3, 4]]))
    found = []
    for options in (alone, {}):
        torch.manual_seed(0)
        lm = (
            MaskedTokenLM(stream, dim=16, layers=2, heads=2)
            if kind == "masked"
            else TokenLM([stream], dim=16, layers=2, heads=2, rope="2d", depth={"dim": 8, "layers": 1, "heads": 2})
        )
        module = LanguageModelModule(lm)
        signal = lm.vocabulary.document([("image", item)])[None]
        losses = fit(module, [{"signal": signal}] * STEPS, tmp_path, **options)
        found.append((losses, module.exports["model"]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    state = found[0][1].state_dict()
    assert all(torch.allclose(value, state[name], atol=1e-5) for name, value in found[1][1].state_dict().items())


def test_what_is_not_sharded_says_so(alone: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="AutoencoderModule; use ddp"):
        make_trainer(tmp_path, 1, **alone).fit(autoencoder(), ToyData())
    with pytest.raises(TypeError, match="must be 'fsdp2'"):
        fit(trained(), batches(), tmp_path, strategy=ModelParallelStrategy(1, 1))


if __name__ == "__main__":
    work(*sys.argv[1:])
