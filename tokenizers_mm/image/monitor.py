"""What an image codec makes of a few validation images while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from tokenizers_mm.image.files import to_pillow, to_uint8


class ImageMonitor(Callback):
    """Compares the first validation images with their reconstructions, and all of them by PSNR.

    Logs ``images/psnr`` (mean over the validation set's images, of 8-bit reconstructions), writes ``images/step-<n>.png`` into
    the run folder (originals, reconstructions, and errors five times enlarged around grey), and adds that picture to
    TensorBoard.

    Args:
        images: How many, in the order of the validation set.
        every: Validations between two pictures; the first validation is always shown.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(self, images: int = 8, every: int = 1) -> None:
        if images < 1 or every < 1:
            raise ValueError(f"images and every must be at least 1, got {images} and {every}")
        self.images, self.every = images, every
        self.validations = 0
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.psnr: list[Tensor] = []

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
        if trainer.sanity_checking:
            return
        real, fake = batch["signal"].float(), to_uint8(outputs["reconstruction"].float()).float() / 255
        self.psnr.append(
            peak_signal_noise_ratio(fake, real, data_range=1.0, reduction="none", dim=(1, 2, 3)).reshape(-1)  # type: ignore[arg-type]
        )
        for pair in list(zip(real, fake, strict=True))[: self.images - len(self.pairs)]:
            self.pairs.append((pair[0].cpu(), pair[1].cpu()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self.psnr:
            pl_module.log("images/psnr", torch.cat(self.psnr).mean(), prog_bar=True, sync_dist=True)
        if trainer.is_global_zero and self.pairs and self.validations % self.every == 0:
            self._show(trainer)
        self.validations += 1
        self.pairs, self.psnr = [], []

    def _show(self, trainer: Trainer) -> None:
        step, picture = trainer.global_step, grid(self.pairs)
        path = Path(trainer.default_root_dir) / "images" / f"step-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pillow(picture).save(path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("original, reconstruction, error", picture, step)


def grid(pairs: list[tuple[Tensor, Tensor]], gap: int = 2) -> Tensor:
    """Originals above, reconstructions in the middle, errors x 5 around grey below: ``[3, H', W']`` in [0, 1].

    Args:
        pairs: References and estimates ``[3, H, W]``; of several sizes, each is padded with white to the largest.
        gap: White pixels between pictures.
    """
    height, width = (max(real.shape[axis] for real, _ in pairs) for axis in (1, 2))
    columns = []
    for real, fake in pairs:
        rows = (real, fake, (0.5 + 5 * (fake - real)).clamp(0, 1))
        pad = (0, width - real.shape[2] + gap, 0, height - real.shape[1] + gap)
        columns.append(torch.cat([torch.nn.functional.pad(row, pad, value=1.0) for row in rows], dim=1))
    return torch.cat(columns, dim=2)[:, :-gap, :-gap]
