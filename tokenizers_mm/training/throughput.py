"""How fast a language model trains: ids a second, and which share of the machine's peak its useful operations are.

Model FLOP utilisation: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022. What is computed twice to save
memory does not count as useful.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class Throughput(Callback):
    """Logs ``train/tokens_per_second``, over all devices, and ``train/mfu`` of each logging interval, without validation.

    Args:
        measure: Ids of a batch, and floating-point operations of a training step on it, None where they are not known.
        peak_flops: Operations that one device can do in a second; measured at the start if not given.
    """

    def __init__(
        self, measure: Callable[[Mapping[str, Tensor]], tuple[int, int | None]], peak_flops: float | None = None
    ) -> None:
        self.measure, self.peak_flops = measure, peak_flops
        self._clear()

    def _clear(self) -> None:
        self.seconds, self.tokens, self.flops = 0.0, 0, 0
        self.started: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        tokens, flops = self.measure(batch)
        self.tokens, self.flops = self.tokens + tokens, self.flops + (flops or 0)
        if flops is not None and self.peak_flops is None:
            dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
            self.peak_flops = measured_peak(pl_module.device, dtype)
        if self.started is None:
            self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % int(getattr(trainer, "log_every_n_steps")):  # noqa: B009 - a property set at run time
            return
        self._pause(pl_module.device)
        pl_module.log("train/tokens_per_second", trainer.world_size * self.tokens / self.seconds)
        if self.flops and self.peak_flops:
            pl_module.log("train/mfu", self.flops / self.seconds / self.peak_flops)
        self._clear()
        self.started = time.perf_counter()  # waiting for the next batch counts

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(pl_module.device)

    def _pause(self, device: torch.device) -> None:
        if self.started is not None:
            _wait(device)
            self.seconds += time.perf_counter() - self.started
            self.started = None


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the best of a few matrix products: what the machine gives, not what its data sheet says."""
    side = 4096 if device.type == "cuda" else 512
    a = torch.ones(side, side, device=device, dtype=dtype)  # no random numbers: a resumed run would differ from then on
    best = float("inf")
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
