"""Train any codec on reconstruction losses alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tokenizers_mm.codec import Codec
from tokenizers_mm.quantizers import synchronize
from tokenizers_mm.training.objective import Objective, clip_gradients, require_finite
from tokenizers_mm.training.schedule import scheduled


class AutoencoderModule(LightningModule):
    """A codec, its losses and one optimiser.

    Batches are ``{"signal": [B, C, ...], "lengths": [B]}``. Logs every loss term as ``train/<name>`` and ``val/<name>``
    (validation uses the weight average), their weighted sum as ``.../loss``, and the gradient norm.

    Args:
        codec: The codec to train.
        losses: Reconstruction losses by name, each ``loss(estimate, reference) -> scalar``.
        loss_weights: Weight of each loss; 1 where none is given.
        quantizer_weight: Weight of the codec's quantizer loss (commitment, entropy).
        optimizer: Makes the optimiser of the codec's parameters.
        warmup_steps: Steps of linear warm-up; a cosine follows, over the trainer's ``max_steps``.
        min_lr: Learning rate at the end of the cosine.
        gradient_clip: Largest total norm of the gradients; None for no clipping.
        ema_decay: Decay of the weight average used in validation and export; None for no average.
        init_from: Start from the weights of this codec: a folder, a card's name, or ``hf:owner/name``.
    """

    def __init__(
        self,
        codec: Codec,
        losses: dict[str, nn.Module],
        loss_weights: dict[str, float] | None = None,
        quantizer_weight: float = 1.0,
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=2e-4),
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        gradient_clip: float | None = None,
        ema_decay: float | None = 0.999,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.objective = Objective(codec, losses, loss_weights, quantizer_weight, ema_decay)
        self.make_optimizer = optimizer
        self.warmup_steps, self.min_lr, self.gradient_clip = warmup_steps, min_lr, gradient_clip
        self.init_from = init_from

    @property
    def codec(self) -> Codec:
        """The codec to export."""
        return self.objective.best_codec

    def setup(self, stage: str) -> None:
        synchronize(self.objective.codec, self.trainer.world_size > 1)
        if stage == "fit" and self.init_from and self.trainer.ckpt_path is None:
            self.objective.load_codec(self.init_from)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer([p for p in self.objective.codec.parameters() if p.requires_grad])
        return scheduled(self, optimizer, self.warmup_steps, self.min_lr)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        result = self.objective(batch)
        require_finite(result.loss.detach(), result.terms, self.global_step)
        self.log("train/loss", result.loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in result.terms.items()})
        return {"loss": result.loss, "ids": result.ids}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.log("train/grad_norm", clip_gradients(self.objective.codec.parameters(), self.gradient_clip))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.objective.update_average()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return validate(self, self.objective, batch)


def validate(module: LightningModule, objective: Objective, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Log the objective of a validation batch; returns its ids and reconstruction for callbacks."""
    result = objective(batch)
    size = len(result.real)
    module.log("val/loss", result.loss, prog_bar=True, batch_size=size, sync_dist=True)
    module.log_dict({f"val/{k}": v for k, v in result.terms.items()}, batch_size=size, sync_dist=True)
    return {"ids": result.ids, "reconstruction": result.fake}
