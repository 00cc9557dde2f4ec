"""Train a network that labels every step of a signal, with hidden patches to fill as an auxiliary task.

The losses are those of TimeRCD (Lan et al., 2025): cross entropy of the labels plus the squared error of the hidden steps, both
of one pass in which those steps are zero and out of attention's sight. Steps past an item's end count in neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from tokenizers_mm.training.ema import WeightAverage
from tokenizers_mm.training.objective import clip_gradients, require_finite
from tokenizers_mm.training.schedule import scheduled
from tokenizers_mm.weights import WEIGHTS, load_into

IGNORED = -1
"""Label of steps that no loss counts."""


class Labelled(Protocol):
    """What the network returns: ``logits [B, N, 2]`` and ``reconstruction [B, C, N]``."""

    @property
    def logits(self) -> Tensor: ...

    @property
    def reconstruction(self) -> Tensor: ...


class LabellingModule(LightningModule):
    """A network, its two losses and one optimiser.

    Batches are ``{"signal": [B, C, N], "lengths": [B], "labels": [B, N]}`` with labels 0, 1 or :data:`IGNORED`. Logs
    ``anomaly`` and ``reconstruction`` as ``train/...`` and ``val/...`` (validation uses the weight average and hides the same
    patches each time), their weighted sum as ``.../loss``, and the average precision of the validation's steps.

    Args:
        network: ``network(signal, lengths, hidden)`` gives a :class:`Labelled`; it has a ``patch_size`` and ``save_pretrained``.
        mask_ratio: Share of each item's patches that are hidden.
        reconstruction_weight: Weight of the auxiliary loss.
        optimizer: Makes the optimiser.
        warmup_steps: Steps of linear warm-up.
        min_lr: Learning rate at the end of the cosine that follows; None keeps it constant, as published.
        gradient_clip: Largest total norm of the gradients; None for no clipping.
        ema_decay: Decay of the weight average used in validation and export; None for no average.
        init_from: Folder of a network to start from; parts that it does not have keep their random start.

    Raises:
        ValueError: If ``mask_ratio`` is not in [0, 1).
    """

    def __init__(
        self,
        network: nn.Module,
        mask_ratio: float = 0.15,
        reconstruction_weight: float = 1.0,
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=5e-4, weight_decay=1e-5),
        warmup_steps: int = 0,
        min_lr: float | None = None,
        gradient_clip: float | None = None,
        ema_decay: float | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
        self.network, self.mask_ratio, self.reconstruction_weight = network, mask_ratio, reconstruction_weight
        self.make_optimizer, self.warmup_steps, self.min_lr = optimizer, warmup_steps, min_lr
        self.gradient_clip, self.init_from = gradient_clip, init_from
        self.average = WeightAverage(network, ema_decay) if ema_decay is not None else None
        self.seen: list[tuple[Tensor, Tensor]] = []

    @property
    def detector(self) -> nn.Module:
        """The network to validate and export: the weight average where there is one."""
        return self.average.module if self.average is not None else self.network

    @property
    def exports(self) -> dict[str, nn.Module]:
        """What a run leaves behind, by folder."""
        return {"detector": self.detector}

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.init_from and self.trainer.ckpt_path is None:
            load_into(self.network, Path(self.init_from) / WEIGHTS, strict=False)
            if self.average is not None:
                self.average.reset(self.network)

    def configure_optimizers(self) -> Any:
        return scheduled(self, self.make_optimizer(self.network.parameters()), self.warmup_steps, self.min_lr)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        loss, terms, _ = self.losses(self.network, batch, None)
        require_finite(loss.detach(), terms, self.global_step)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return {"loss": loss}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.log("train/grad_norm", clip_gradients(self.network.parameters(), self.gradient_clip))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.network)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(batch_idx)
        loss, terms, logits = self.losses(self.detector, batch, generator)
        size = len(batch["signal"])
        self.log("val/loss", loss, prog_bar=True, batch_size=size, sync_dist=True)
        self.log_dict({f"val/{k}": v for k, v in terms.items()}, batch_size=size, sync_dist=True)
        counted = batch["labels"] != IGNORED
        self.seen.append((logits[counted].float().cpu(), batch["labels"][counted].cpu()))
        return {}

    def on_validation_epoch_end(self) -> None:
        from torchmetrics.functional.classification import binary_average_precision

        logits, labels = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        self.seen.clear()
        self.log("val/average_precision", binary_average_precision(logits, labels), prog_bar=True)

    def losses(
        self, network: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The weighted sum, its terms (detached), and the logits "anomalous minus normal" ``[B, N]``."""
        x, lengths, labels = batch["signal"], batch["lengths"], batch["labels"]
        hidden = hide(lengths, x.shape[-1], cast(int, network.patch_size), self.mask_ratio, generator)
        found: Labelled = network(x, lengths, hidden)
        logits = found.logits.float()
        anomaly = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        where = hidden[:, None].expand_as(x)
        filled = (
            F.mse_loss(found.reconstruction.float()[where], x.float()[where]) if hidden.any() else anomaly.new_zeros(())
        )
        terms = {"anomaly": anomaly.detach(), "reconstruction": filled.detach()}
        return anomaly + self.reconstruction_weight * filled, terms, (logits[..., 1] - logits[..., 0]).detach()


def hide(lengths: Tensor, n: int, patch_size: int, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Steps of random patches, bool ``[B, n]``: of each item a share of its patches, rounded down, never past its end.

    Args:
        lengths: Steps of each item.
        n: Steps of the batch.
        patch_size: Steps per patch.
        ratio: The share.
        generator: Of the random numbers, on the CPU; by default the global one.
    """
    patches = -(-lengths.cpu() // patch_size)
    drawn = torch.rand(len(lengths), -(-n // patch_size), generator=generator)
    drawn.masked_fill_(torch.arange(drawn.shape[1]) >= patches[:, None], 2.0)
    rank = drawn.argsort(dim=1).argsort(dim=1)
    hidden = (rank < (patches * ratio).long()[:, None]).repeat_interleave(patch_size, dim=1)[:, :n]
    return (hidden & (torch.arange(n) < lengths.cpu()[:, None])).to(lengths.device)
