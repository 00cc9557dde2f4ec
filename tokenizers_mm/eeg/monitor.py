"""What an EEG codec makes of a few validation windows while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from tokenizers_mm.codec import Codec
from tokenizers_mm.eeg import metrics
from tokenizers_mm.eeg.show import picture
from tokenizers_mm.tokens import TokenSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class EEGMonitor(Callback):
    """Compares the first validation windows with their reconstructions.

    Logs ``eeg/<metric>`` (mean over the windows where it is defined), writes ``eeg/step-<n>-<i>.png`` into the run folder (traces
    over the original, spectrogram below), and adds that picture to TensorBoard.

    Args:
        windows: How many, in the order of the validation set.
        metrics: Keys of :data:`tokenizers_mm.eeg.metrics.METRICS`.
        every: Validations between two looks; the first validation is always looked at.
        pictures: How many of the windows are drawn.

    Raises:
        ValueError: If a number is not positive or a metric is unknown.
    """

    def __init__(
        self,
        windows: int = 16,
        metrics: tuple[str, ...] = ("lsd", "bands", "alpha_kept", "correlation"),
        every: int = 1,
        pictures: int = 2,
    ) -> None:
        if windows < 1 or every < 1 or pictures < 0:
            raise ValueError(f"windows and every must be at least 1, pictures 0, got {windows}, {every} and {pictures}")
        _check_names(metrics)
        self.windows, self.metrics, self.every, self.pictures = windows, tuple(metrics), every, pictures
        self.validations = 0
        self.pairs: list[tuple[Tensor, Tensor]] = []

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
        if not self._looks(trainer):
            return
        real, fake = batch["signal"], outputs["reconstruction"]
        for a, b in list(zip(real, fake, strict=True))[: self.windows - len(self.pairs)]:
            self.pairs.append((a.float().cpu(), b.float().cpu()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self._looks(trainer) and self.pairs:
            spec = cast(Codec, pl_module.codec).spec
            for name, value in mean_metrics(self.pairs, spec, self.metrics).items():
                pl_module.log(f"eeg/{name}", value, prog_bar=True, rank_zero_only=True)
            self._show(trainer, float(spec.sample_rate or 1))
        self.validations += 1
        self.pairs = []

    def _looks(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and not trainer.sanity_checking and self.validations % self.every == 0

    def _show(self, trainer: Trainer, rate: float) -> None:
        for index, (real, fake) in enumerate(self.pairs[: self.pictures]):
            step, figure = trainer.global_step, comparison(real, fake, rate)
            path = Path(trainer.default_root_dir) / "eeg" / f"step-{step:07d}-{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=100)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(f"traces/{index}", figure, step)


def comparison(reference: Tensor, estimate: Tensor, rate: float) -> Figure:
    """A window's reconstruction over it: see :func:`tokenizers_mm.eeg.show.picture`."""
    return picture(reference, estimate, rate, [str(channel) for channel in range(len(reference))])


def mean_metrics(pairs: list[tuple[Tensor, Tensor]], spec: TokenSpec, names: tuple[str, ...]) -> dict[str, float]:
    """Mean of each metric over the pairs for which it is defined; metrics defined for none are left out.

    Args:
        pairs: References and estimates ``[C, N]``.
        spec: Gives the sample rate.
        names: Keys of :data:`tokenizers_mm.eeg.metrics.METRICS`.
    """
    scores = [metrics.compute(real, fake, spec, names) for real, fake in pairs]
    defined = {name: [value for score in scores if (value := score[name]) is not None] for name in names}
    return {name: sum(values) / len(values) for name, values in defined.items() if values}


def _check_names(names: tuple[str, ...]) -> None:
    if unknown := [name for name in names if name not in metrics.METRICS]:
        raise ValueError(f"unknown metrics {unknown}: expected some of {sorted(metrics.METRICS)}")
