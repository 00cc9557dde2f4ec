"""A codec of a few hundred weights, data made from indices, and a discriminator: enough to train in milliseconds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from einops import rearrange
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset, Sampler

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.nn.adversarial import Adversary, DiscriminatorOutput
from tokenizers_mm.quantizers import build_quantizer
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.training.adversarial import AdversarialModule
from tokenizers_mm.training.autoencoder import AutoencoderModule
from tokenizers_mm.training.callbacks import ReproducibleSteps


class ToyCodec(Codec):
    """Convolution, dropout, VQ with k-means start, transposed convolution."""

    def __init__(self, dim: int = 8, codebook_size: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, dim, 4, 4)
        self.dropout = nn.Dropout(dropout)
        self.quantizer = build_quantizer(dim, kind="vq", codebook_size=codebook_size, kmeans_iters=2)
        self.decoder = nn.ConvTranspose1d(dim, 1, 4, 4)
        self.spec = TokenSpec(modality="audio", codebook_sizes=(codebook_size,), hop=(4,), sample_rate=100)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        quantized = self.quantizer(rearrange(self.dropout(self.encoder(x)), "b d t -> b t d"))
        wave = self.decoder(rearrange(quantized.features, "b t d -> b d t"))
        return CodecOutput(wave, quantized.ids, quantized.loss)

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        return Tokens(self.quantizer(rearrange(self.encoder(x), "b d t -> b t d")).ids, self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return self.decoder(rearrange(self.quantizer.decode(tokens.ids), "b t d -> b d t"))


class ToyDiscriminator(nn.Module):
    def __init__(self, num_embeddings: int = 2) -> None:
        super().__init__()
        self.hidden, self.out = nn.Conv1d(1, 4, 5, 2), nn.Conv1d(4, 1, 3)
        self.condition = nn.Embedding(num_embeddings, 4)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        hidden = torch.tanh(self.hidden(x))
        if condition is not None:
            hidden = hidden + self.condition(condition)[..., None]
        return [DiscriminatorOutput(self.out(hidden), [hidden])]


class Waves(Dataset):
    """Item i is a sinusoid whose frequency and phase depend on i and on the rank."""

    def __init__(self, size: int, rank: int = 0) -> None:
        self.size, self.rank = size, rank

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        t = torch.arange(32) / 32
        wave = torch.sin(2 * torch.pi * t * (1 + index % 7 + 3 * self.rank) + index)
        return {"signal": wave[None], "lengths": torch.tensor(32)}


class ShuffledFrom(Sampler[int]):
    """A permutation per epoch; the first iteration may begin in the middle of one."""

    def __init__(self, size: int) -> None:
        self.size, self.epoch, self.start = size, 0, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        self.epoch, start, self.start = self.epoch + 1, self.start, 0
        yield from order[start:]


class ToyData(LightningDataModule):
    """Five batches of four an epoch; its position in them is part of the checkpoint. Fails before one step if so told."""

    def __init__(self, rank: int = 0, break_at: int | None = None) -> None:
        super().__init__()
        self.rank, self.sampler, self.batch_size, self.break_at = rank, ShuffledFrom(20), 4, break_at

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        assert self.trainer is not None
        if self.trainer.training and self.trainer.global_step == self.break_at:
            raise KeyError("broken")
        return batch

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Waves(20, self.rank), self.batch_size, sampler=self.sampler)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Waves(6, self.rank), self.batch_size)

    def state_dict(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"batches": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        epoch, batch = divmod(state_dict["batches"], 5)
        self.sampler.epoch, self.sampler.start = epoch, batch * self.batch_size


def autoencoder(**options) -> AutoencoderModule:
    defaults = {"optimizer": lambda p: AdamW(p, lr=1e-2), "warmup_steps": 2, "gradient_clip": 1.0, "ema_decay": 0.9}
    torch.manual_seed(0)
    return AutoencoderModule(ToyCodec(), {"l1": nn.L1Loss(), "mse": nn.MSELoss()}, **{**defaults, **options})


def adversarial(frozen: tuple[bool, ...] = (False, True), **options) -> AdversarialModule:
    defaults = {"optimizer": lambda p: AdamW(p, lr=1e-2), "gradient_clip": 1.0, "ema_decay": 0.9, "num_conditions": 2}
    torch.manual_seed(0)
    adversaries = {f"d{i}": Adversary(ToyDiscriminator(), frozen_random=f) for i, f in enumerate(frozen)}
    return AdversarialModule(ToyCodec(), {"l1": nn.L1Loss()}, adversaries, **{**defaults, **options})


def make_trainer(folder: Path | str, max_steps: int, **options) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "callbacks": [ReproducibleSteps(1)],
    }
    return Trainer(default_root_dir=str(folder), max_steps=max_steps, **{**defaults, **options})


def weights(module: LightningModule) -> dict[str, Tensor]:
    """Every tensor of the module's state, copied."""
    return {k: v.detach().clone() for k, v in module.state_dict().items() if isinstance(v, Tensor)}


class Interrupt(Callback):
    """Presses Ctrl-C during one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGINT)


def two_processes(file: str, *arguments: str) -> None:
    """Run a Python file as two ranks over gloo; fail with what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = Path(__file__)
    shared = {
        **os.environ,
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(here.parents[2]), str(here.parent), os.environ.get("PYTHONPATH", "")]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, file, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
