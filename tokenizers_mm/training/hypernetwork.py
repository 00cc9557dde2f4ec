"""Train a hypernetwork in two phases: to repeat embeddings that exist, then to serve the frozen model that they are of.

Minixhofer, Ponti and Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024. What the losses are is the network's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tokenizers_mm.checks import at_least
from tokenizers_mm.training.objective import clip_gradients, require_finite
from tokenizers_mm.training.schedule import planned_steps, warmup_cosine


class Serves(Protocol):
    """A hypernetwork beside the frozen model that it serves, and its losses."""

    hypernetwork: nn.Module

    def start(self) -> None:
        """What an untrained network needs before its first step."""
        ...

    def identity_loss(self) -> Tensor:
        """The loss of the first phase; needs no data."""
        ...

    def loss(self, signal: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the second phase, and its terms."""
        ...


class HypernetworkModule(LightningModule):
    """A :class:`Serves` network and one optimiser; a run leaves the hypernetwork behind in ``hypernetwork/``.

    Batches are ``{"signal": ...}``. Logs ``train/loss`` and the terms of the second phase, and validates on it, with the same
    random numbers each time. The frozen model is in no checkpoint.

    Args:
        network: What is trained.
        optimizer: Makes the optimiser, with the rate of the second phase; biases and norms have no weight decay.
        identity_steps: Steps of the first phase, in which the rate grows linearly.
        identity_lr: Rate at its end.
        warmup_steps: Steps in which the second phase's rate grows; half a cosine follows.
        min_lr: Rate at the end of it.
        gradient_clip: Largest total norm of the gradients; None for no clipping.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=6e-5, betas=(0.9, 0.95), weight_decay=0.01),
        identity_steps: int = 10_000,
        identity_lr: float = 3e-4,
        warmup_steps: int = 10_000,
        min_lr: float = 6e-6,
        gradient_clip: float | None = 0.1,
    ) -> None:
        super().__init__()
        at_least(0, identity_steps=identity_steps, identity_lr=identity_lr, warmup_steps=warmup_steps, min_lr=min_lr)
        self.network, self.make_optimizer = network, optimizer
        self.identity_steps, self.identity_lr = identity_steps, identity_lr
        self.warmup_steps, self.min_lr, self.gradient_clip = warmup_steps, min_lr, gradient_clip
        self.strict_loading = False  # checkpoints hold the hypernetwork alone

    @property
    def task(self) -> Serves:
        """The network and its losses."""
        return cast(Serves, self.network)

    @property
    def exports(self) -> dict[str, nn.Module]:
        """What a run leaves behind, by folder."""
        return {"hypernetwork": self.task.hypernetwork}

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.task.start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        kept = [key for key in state if key.startswith("network.hypernetwork.")]
        checkpoint["state_dict"] = {key: state[key] for key in kept}

    def configure_optimizers(self) -> Any:
        parameters = list(self.task.hypernetwork.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = self.make_optimizer(groups)
        scheduler = LambdaLR(optimizer, self.factor(optimizer.param_groups[0]["lr"]))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}

    def factor(self, lr: float) -> Any:
        """Of the second phase's rate, for each step of both."""
        first, total = self.identity_steps, planned_steps(self) - self.identity_steps

        def at(step: int) -> float:
            if step < first:
                return (step + 1) / first * self.identity_lr / lr
            return warmup_cosine(
                step - first, warmup_steps=self.warmup_steps, total_steps=total, floor=self.min_lr / lr
            )

        return at

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.global_step < self.identity_steps:
            loss = self.task.identity_loss()
        else:
            loss, terms = self.task.loss(batch["signal"])
        require_finite(loss.detach(), terms, self.global_step)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return {"loss": loss}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        norm = clip_gradients(self.task.hypernetwork.parameters(), self.gradient_clip)
        self.log("train/grad_norm", norm)

    @torch.no_grad()
    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            loss, terms = self.task.loss(batch["signal"])
        size = len(batch["signal"])
        self.log("val/loss", loss, prog_bar=True, batch_size=size, sync_dist=True)
        self.log_dict({f"val/{k}": v for k, v in terms.items()}, batch_size=size, sync_dist=True)
        return {}
