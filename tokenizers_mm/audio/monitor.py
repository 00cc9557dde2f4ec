"""What an audio codec sounds and looks like while it trains: metrics, spectrograms and sound of a few validation clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from tokenizers_mm.audio import metrics
from tokenizers_mm.audio.losses import magnitude
from tokenizers_mm.codec import Codec
from tokenizers_mm.tokens import TokenSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AudioMonitor(Callback):
    """Compares the first validation clips with their reconstructions.

    Logs ``clips/<metric>`` (mean over the clips where it is defined), writes ``spectrograms/step-<n>.png`` into the run
    folder, and where there is a TensorBoard logger adds the spectrograms and the sound to it.

    Args:
        clips: How many clips, in the order of the validation set.
        metrics: Keys of :data:`tokenizers_mm.audio.metrics.METRICS`.
        every: Validations between two looks; the first validation is always looked at.

    Raises:
        ValueError: If a number is not positive or a metric is unknown.
    """

    def __init__(self, clips: int = 4, metrics: tuple[str, ...] = ("mel", "stoi", "pesq_wb"), every: int = 1) -> None:
        if clips < 1 or every < 1:
            raise ValueError(f"clips and every must be at least 1, got {clips} and {every}")
        _check_names(metrics)
        self.clips, self.metrics, self.every = clips, tuple(metrics), every
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
        lengths = batch["lengths"].tolist() if "lengths" in batch else [real.shape[-1]] * len(real)
        for a, b, length in list(zip(real, fake, lengths, strict=True))[: self.clips - len(self.pairs)]:
            self.pairs.append((a[:, :length].float().cpu(), b[:, :length].float().cpu()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self._looks(trainer) and self.pairs:
            spec = cast(Codec, pl_module.codec).spec
            for name, value in mean_metrics(self.pairs, spec, self.metrics).items():
                pl_module.log(f"clips/{name}", value, prog_bar=True, rank_zero_only=True)
            self._show(trainer, int(spec.sample_rate or 0))
        self.validations += 1
        self.pairs = []

    def _looks(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and not trainer.sanity_checking and self.validations % self.every == 0

    def _show(self, trainer: Trainer, sample_rate: int) -> None:
        step, figure = trainer.global_step, spectrograms(self.pairs, sample_rate)
        path = Path(trainer.default_root_dir) / "spectrograms" / f"step-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=80)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("spectrograms", figure, step)
                for i, (real, fake) in enumerate(self.pairs):
                    for name, signal in (("original", real), ("reconstruction", fake)):
                        sound = signal.mean(dim=0).clamp(-1, 1)
                        logger.experiment.add_audio(f"clip{i}/{name}", sound, step, sample_rate=sample_rate)


def mean_metrics(pairs: list[tuple[Tensor, Tensor]], spec: TokenSpec, names: tuple[str, ...]) -> dict[str, float]:
    """Mean of each metric over the pairs for which it is defined; metrics defined for none are left out.

    Args:
        pairs: References and estimates ``[C, N]``.
        spec: Gives the sample rate.
        names: Keys of :data:`tokenizers_mm.audio.metrics.METRICS`.
    """
    scores = [metrics.compute(real, fake, spec, names) for real, fake in pairs]
    defined = {name: [score[name] for score in scores if score[name] is not None] for name in names}
    return {name: sum(values) / len(values) for name, values in defined.items() if values}  # type: ignore[arg-type]


def spectrograms(pairs: list[tuple[Tensor, Tensor]], sample_rate: int) -> Figure:
    """Originals in the upper row, reconstructions below, in dB over one scale per clip.

    Args:
        pairs: References and estimates ``[C, N]``.
        sample_rate: Hz.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(pairs), 5), layout="constrained")
    axes = figure.subplots(2, len(pairs), squeeze=False, sharey=True)
    window = torch.hann_window(512)
    for column, pair in enumerate(pairs):
        levels = [20 * magnitude(x.mean(dim=0)[None, None], window, 128)[0].clamp(min=1e-5).log10() for x in pair]
        top = float(levels[0].max())
        for ax, level, signal, title in zip(axes[:, column], levels, pair, ("original", "reconstruction"), strict=True):
            extent = (0, signal.shape[-1] / sample_rate, 0, sample_rate / 2000)
            ax.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=top - 80, vmax=top, cmap="magma")
            ax.set_title(f"{title} {column}", fontsize=9)
    axes[0, 0].set_ylabel("kHz")
    axes[1, 0].set_ylabel("kHz")
    for ax in axes[1]:
        ax.set_xlabel("s")
    return figure


def _check_names(names: tuple[str, ...]) -> None:
    if unknown := [name for name in names if name not in metrics.METRICS]:
        raise ValueError(f"unknown metrics {unknown}: expected some of {sorted(metrics.METRICS)}")
