"""What every training run does besides its steps: exact resume, a clean stop, codebook statistics, speed, a progress bar."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

from tokenizers_mm.codec import Codec

LARGEST_HISTOGRAM = 2**22


class ReproducibleSteps(Callback):
    """Makes the randomness of every training step a function of seed, rank and step, so that a resumed run repeats it.

    Python's, NumPy's and torch's generators are seeded anew at the start of each step. What happens between steps (validation,
    a new epoch, the resume itself) then cannot shift the random numbers of later steps, so nothing but the count needs saving.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.steps = seed, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        state = np.random.SeedSequence([self.seed, trainer.global_rank, self.steps]).generate_state(3)
        random.seed(int(state[0]))
        np.random.seed(state[1])
        torch.manual_seed(int(state[2]))
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seed, self.steps = state_dict["seed"], state_dict["steps"]


class TrainingStopped(Exception):  # noqa: N818 - a request that was obeyed, not a fault
    """Raised between two steps after a request to stop; ``checkpoint`` continues exactly there."""

    def __init__(self, checkpoint: Path, step: int) -> None:
        super().__init__(f"stopped after step {step}; {checkpoint} continues there")
        self.checkpoint, self.step = checkpoint, step


class LastCheckpoint(Callback):
    """Keeps one checkpoint from which the run can go on exactly: renewed regularly, at the last step, and at a request to stop.

    Ctrl-C and SIGTERM let the step in progress finish, save, and raise :class:`TrainingStopped`. A second signal takes its usual
    effect at once; the checkpoint before then remains. Belongs behind every callback that has state to save.

    Args:
        path: The checkpoint's file, always replaced as a whole.
        every: Steps between saves.
    """

    def __init__(self, path: str | Path, every: int) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.path, self.every = Path(path), every
        self.requested = False
        self.saved_step = 0
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.handlers[number] = signal.signal(number, self._request)
            except ValueError:  # not the main thread: signals are its owner's business
                return

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        stop = trainer.strategy.reduce_boolean_decision(self.requested, all=False)
        due = step != self.saved_step and (step % self.every == 0 or step == trainer.max_steps)
        if stop or due:
            self._save(trainer)
        if stop:
            raise TrainingStopped(self.path, step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self.saved_step:  # ended by time, epochs or another callback
            self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self.saved_step = trainer.global_step

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}


class CodebookUsage(Callback):
    """Logs how much of each codebook is in use: over a window of training steps and over each validation.

    ``<stage>/perplexity`` is the exponential of the entropy of the ids, ``<stage>/codes_used`` the share of entries that
    occur, both averaged over columns; ``<stage>/perplexity/<q>`` is column q's, where there are several. Codebooks past
    4 million entries are left out.
    """

    def __init__(self) -> None:
        self.counts: dict[str, list[Tensor]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count("train", pl_module, outputs)
        if _logs_now(trainer):
            self._log("train", trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._count("val", pl_module, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log("val", trainer, pl_module)

    def _count(self, stage: str, pl_module: LightningModule, outputs: Any) -> None:
        if not outputs or "ids" not in outputs:  # a module without a codec, or a network over tokens
            return
        ids, sizes = outputs["ids"], cast(Codec, pl_module.codec).spec.codebook_sizes
        new = [column_counts(ids[..., q], size) for q, size in enumerate(sizes) if size <= LARGEST_HISTOGRAM]
        old = self.counts.get(stage)
        self.counts[stage] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def _log(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = [trainer.strategy.reduce(c, reduce_op="sum") for c in self.counts.pop(stage, [])]
        if not counts:
            return
        perplexity, used = codebook_usage(counts)
        pl_module.log(f"{stage}/perplexity", perplexity.mean(), prog_bar=stage == "train")
        pl_module.log(f"{stage}/codes_used", used.mean())
        if len(counts) > 1:
            pl_module.log_dict({f"{stage}/perplexity/{q}": value for q, value in enumerate(perplexity)})


class Speed(Callback):
    """Logs ``train/steps_per_second`` over each logging interval; validation does not count."""

    def __init__(self) -> None:
        self.seconds, self.steps, self.started = 0.0, 0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.started = self.started or time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        if _logs_now(trainer):
            self._pause()
            pl_module.log("train/steps_per_second", self.steps / self.seconds)
            self.seconds, self.steps, self.started = 0.0, 0, time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def _pause(self) -> None:
        if self.started:
            self.seconds += time.perf_counter() - self.started
            self.started = 0.0


class Progress(RichProgressBar):
    """A bar per epoch, with the step of the whole run, the last losses and the codebooks' perplexity beside it."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        total = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        return {"step": f"{trainer.global_step}{total}", **metrics}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch}".ljust(len(self.validation_description))


def _logs_now(trainer: Trainer) -> bool:
    return trainer.global_step % int(getattr(trainer, "log_every_n_steps")) == 0  # noqa: B009 - a property set at run time


def column_counts(ids: Tensor, size: int) -> Tensor:
    """How often each of ``size`` ids occurs, float64 ``[size]``."""
    return torch.bincount(ids.flatten(), minlength=size).double()


def codebook_usage(counts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Perplexity and share of entries in use of each column, both ``[Q]``, from the columns' histograms."""
    shares = [c / c.sum().clamp(min=1) for c in counts]
    perplexity = torch.stack([torch.exp(-torch.xlogy(p, p).sum()) for p in shares])
    return perplexity.float(), torch.stack([(c > 0).float().mean() for c in counts])
