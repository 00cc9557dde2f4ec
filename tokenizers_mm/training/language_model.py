"""Train a network that predicts how a signal goes on, from its tokens.

Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018: cross-entropy of each id given those before
it; or a loss of the network's own, as TOTEM's forecaster has. How signals become ids, and which of them count, is the network's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tokenizers_mm.lm.transformer import Transformer
from tokenizers_mm.training.ema import WeightAverage
from tokenizers_mm.training.objective import clip_gradients, require_finite
from tokenizers_mm.training.schedule import scheduled
from tokenizers_mm.training.sharding import ShardedStrategy, assemble, outline, shard
from tokenizers_mm.training.throughput import Throughput


class Predicts(Protocol):
    """A network whose ``loss(signal)`` is the mean cross-entropy, in nats, of the ids that it predicts, or bytes; or, with an
    attribute ``token_loss = False``, another scalar.

    Where batches have ``weights``, its ``loss`` takes them too. A network with ``flops(signal)``, the operations of a training
    step, has its utilisation logged; one with ``count(signal)``, its ids, is not charged for padding.
    """

    def loss(self, signal: Tensor) -> Tensor: ...


class Weighs(Protocol):
    """A network that can count ids unequally."""

    def loss(self, signal: Tensor, weights: Tensor) -> Tensor: ...


class LanguageModelModule(LightningModule):
    """A :class:`Predicts` network and one optimiser; a run leaves it behind in ``model/``.

    Batches are ``{"signal": ...}``, such as ``[B, C, N]`` or rows of bytes ``[B, L]``: what the network reads. Logs the loss as
    ``train/loss`` and ``val/loss``, and a cross-entropy of the validation in bits per id or byte; validation uses the weight
    average where there is one. ``weights``, shaped like the signal, say how much each id counts. Vectors (norms, biases) are
    not decayed. Precision is the trainer's: ``trainer.precision=bf16-mixed`` keeps weights and their updates in float32.
    ``trainer.strategy=fsdp2`` shards a network that is too big for one device (see :mod:`tokenizers_mm.training.sharding`).

    Args:
        network: What is trained; has ``loss`` and ``save_pretrained``.
        optimizer: Makes the optimiser.
        warmup_steps: Steps of linear warm-up.
        min_lr: Learning rate at the end of the cosine that follows.
        gradient_clip: Largest total norm of the gradients; None for no clipping.
        ema_decay: Decay of the weight average used in validation and export; None for no average.
        peak_flops: Floating-point operations that one device can do in a second, for ``train/mfu``; measured if not given.
        compiled: Whether the blocks of transformers are compiled (``torch.compile``): some seconds at the beginning, and on CPUs
            a C++ compiler, for faster steps.

    Raises:
        TypeError: If the network has no ``loss``.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-3, weight_decay=0.01),
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        gradient_clip: float | None = 1.0,
        ema_decay: float | None = None,
        peak_flops: float | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if not callable(getattr(network, "loss", None)):
            raise TypeError(f"network must have a loss(signal), got {type(network).__name__}")
        self.network, self.make_optimizer = network, optimizer
        self.warmup_steps, self.min_lr, self.gradient_clip = warmup_steps, min_lr, gradient_clip
        self.peak_flops = peak_flops
        self.average = WeightAverage(network, ema_decay) if ema_decay is not None else None
        if compiled:
            for transformer in [module for module in network.modules() if isinstance(module, Transformer)]:
                transformer.compile_blocks()
        self._outline: tuple[nn.Module, ...] = ()  # a tuple, so that it isn't a part of this module

    @property
    def trained(self) -> nn.Module:
        """The network to validate and export: the weight average where there is one."""
        return self.average.module if self.average is not None else self.network

    @property
    def exports(self) -> dict[str, nn.Module]:
        """What a run leaves behind, by folder; if it was sharded, all processes have to ask."""
        return {"model": assemble(self.trained, *self._outline) if self._outline else self.trained}

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if not isinstance(strategy, ModelParallelStrategy) or self._outline:
            return
        if not isinstance(strategy, ShardedStrategy):
            raise TypeError(f"trainer.strategy must be 'fsdp2' for shards, got {type(strategy).__name__}")
        self._outline = (outline(self.network),)
        for network in (self.network,) if self.average is None else (self.network, self.average.module):
            shard(network, strategy.mesh)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained: matrices, and vectors without weight decay."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def configure_optimizers(self) -> Any:
        return scheduled(self, self.make_optimizer(self.parameter_groups()), self.warmup_steps, self.min_lr)

    def configure_callbacks(self) -> list[Callback]:
        return [Throughput(self._work, self.peak_flops)]

    def _work(self, batch: Mapping[str, Tensor]) -> tuple[int, int | None]:
        """Ids of a batch, and operations of a step on it."""
        signal = batch["signal"]
        count, flops = (getattr(self.network, name, None) for name in ("count", "flops"))
        return signal.numel() if count is None else count(signal), None if flops is None else flops(signal)

    def _loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        if "weights" in batch:
            return cast(Weighs, network).loss(batch["signal"], batch["weights"])
        return cast(Predicts, network).loss(batch["signal"])

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        loss = self._loss(self.network, batch)
        require_finite(loss.detach(), {}, self.global_step)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return {"loss": loss}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.log("train/grad_norm", clip_gradients(self.network.parameters(), self.gradient_clip))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.network)

    @torch.no_grad()
    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        loss, size = self._loss(self.trained, batch), len(batch["signal"])
        self.log("val/loss", loss, prog_bar=True, batch_size=size, sync_dist=True)
        if getattr(self.trained, "token_loss", True):
            self.log("val/bits", loss / math.log(2), batch_size=size, sync_dist=True)
        return {}
