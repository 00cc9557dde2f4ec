"""What a codec of series makes of a few validation windows while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tokenizers_mm.timeseries.show import panels


class SeriesMonitor(Callback):
    """Writes ``series/step-<n>.webp`` into the run folder: the first validation windows over their reconstructions.

    Args:
        every: Validations between two pictures; the first is always shown.

    Raises:
        ValueError: If ``every`` is not positive.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.every, self.validations = every, 0
        self.pair: tuple[Tensor, Tensor] | None = None

    def state_dict(self) -> dict[str, int]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.validations = state_dict["validations"]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.pair is None and not trainer.sanity_checking:
            few = slice(0, None, max(1, len(batch["signal"]) // 4))
            self.pair = tuple(x[few, 0].float().cpu() for x in (outputs["reconstruction"], batch["signal"]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.is_global_zero and self.pair is not None and self.validations % self.every == 0:
            path = Path(trainer.default_root_dir) / "series" / f"step-{trainer.global_step:07d}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(panels(*self.pair))
        self.validations += 1
        self.pair = None
