"""Training of language models: what is decayed, what counts, what is logged, and that two processes agree."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toy_training import two_processes

from tokenizers_mm.lm.stream import Stream
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.lm.vocabulary import PAD
from tokenizers_mm.scale import Item, Origin, ShardWriter
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.training.callbacks import ReproducibleSteps
from tokenizers_mm.training.language_model import LanguageModelModule
from tokenizers_mm.training.throughput import measured_peak
from tokenizers_mm.training.token_data import TokenDataModule, TokenSource

SPEC = TokenSpec("audio", (7, 5))
STREAM = Stream("speech", SPEC)


def network() -> TokenLM:
    torch.manual_seed(0)
    return TokenLM([STREAM.to_dict()], dim=16, layers=1, heads=2)


def document(lm: TokenLM, frames: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(n, (1, frames), generator=generator) for n in SPEC.codebook_sizes], dim=-1)
    return lm.vocabulary.document([("speech", Tokens(ids, SPEC))])


def fit(module: LanguageModelModule, batches: list[dict[str, Tensor]], **options: object) -> Trainer:
    trainer = Trainer(
        max_steps=len(batches), accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return trainer


def test_vectors_are_not_decayed() -> None:
    lm = network()
    before = {name: p.detach().clone() for name, p in lm.named_parameters()}
    module = LanguageModelModule(lm, lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=0.5))
    lm.transformer.requires_grad_(True)
    optimizer = module.make_optimizer(module.parameter_groups())
    for parameter in lm.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in lm.named_parameters():
        shrunk = 0.95 if parameter.ndim > 1 else 1.0
        assert torch.allclose(parameter, before[name] * shrunk), name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


def test_weights_choose_what_is_learnt() -> None:
    lm = network()
    ids = document(lm, 6, 0)[None]
    weights = torch.zeros(ids.shape)
    weights[0, 5] = 1.0
    trainer = fit(LanguageModelModule(lm), [{"signal": ids, "weights": weights}])
    assert trainer.callback_metrics["train/loss"] == network().loss(ids, weights)
    assert trainer.callback_metrics["train/loss"] != network().loss(ids)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="compiling needs a C++ compiler")
def test_compiled_blocks_train_alike_and_leave_a_plain_network(tmp_path: Path) -> None:
    networks = [network(), network()]
    batches = [
        {"signal": nn.utils.rnn.pad_sequence([document(networks[0], n, n) for n in (5, 9)], batch_first=True)}
    ] * 3
    for lm, compiled in zip(networks, (False, True), strict=True):
        fit(LanguageModelModule(lm, ema_decay=0.9, compiled=compiled), batches)
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    networks[1].save_pretrained(tmp_path)
    assert TokenLM.from_pretrained(tmp_path).state_dict().keys() == networks[0].state_dict().keys()


def test_speed_counts_ids_not_padding_and_utilisation_what_the_network_does() -> None:
    lm = network()
    short, long = document(lm, 3, 0), document(lm, 9, 1)
    ids = torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True, padding_value=PAD)
    assert lm.count(ids) == len(short) + len(long)
    trainer = fit(LanguageModelModule(lm, peak_flops=1e12), [{"signal": ids}] * 2)
    speed, mfu = (float(trainer.callback_metrics[f"train/{name}"]) for name in ("tokens_per_second", "mfu"))
    assert mfu == pytest.approx(speed / lm.count(ids) * lm.flops(ids) / 1e12, rel=1e-4)


def test_operations_are_six_for_each_weight_and_id() -> None:
    lm = network()
    ids = document(lm, 10, 0)[None]
    weights = sum(p.numel() for p in lm.transformer.blocks.parameters() if p.ndim == 2)
    attention = 12 * lm.transformer.dim * (ids.shape[1] // 2)
    assert lm.flops(ids) == ids.shape[1] * (6 * weights + attention) + 6 * lm.transformer.dim * 10 * (7 + 5)
    assert measured_peak(torch.device("cpu"), torch.float32) > 1e8


def work(folder: str) -> None:
    """What each of two processes does."""
    rank = int(os.environ["RANK"])
    data = TokenDataModule(None, [TokenSource("speech", folder)], length=32, batch_size=2, batches_per_epoch=3)
    module = LanguageModelModule(network(), ema_decay=0.5)
    trainer = Trainer(
        max_steps=6, accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=[ReproducibleSteps(1)],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    found = {"trained": module.network.state_dict(), "average": module.trained.state_dict()}
    torch.save({**found, "speed": trainer.callback_metrics["train/tokens_per_second"]}, f"{folder}/rank-{rank}.pt")


@pytest.mark.slow
def test_two_processes_read_other_tokens_and_agree_on_the_weights(tmp_path: Path) -> None:
    lm = network()
    with ShardWriter(tmp_path, Origin("toy", SPEC)) as writer:
        for i in range(24):
            writer.write(Item(str(i), lm.vocabulary.segments(document(lm, 6 + i % 5, i))[0][1]))
    two_processes(__file__, str(tmp_path))
    one, two = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    for part in ("trained", "average"):
        assert [name for name, value in one[part].items() if not torch.equal(value, two[part][name])] == []
    assert any(not torch.equal(one["trained"][name], value) for name, value in network().state_dict().items())


if __name__ == "__main__":
    work(*sys.argv[1:])
