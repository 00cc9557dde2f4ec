"""Train from a recipe: LightningCLI reads it, this module adds the run folder, resume, a clean stop and the exported codec."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from tokenizers_mm import registry
from tokenizers_mm.training import sharding  # noqa: F401 - which makes strategy fsdp2 known
from tokenizers_mm.training.callbacks import (
    CodebookUsage,
    LastCheckpoint,
    Progress,
    ReproducibleSteps,
    Speed,
    TrainingStopped,
)

CONFIG, LAST = "config.yaml", "checkpoints/last.ckpt"
SHIPPED = re.compile(r"\$\{(codecs|recipes|checkpoints|eval)\}")
PARSER_NOISE = ("Does not validate against", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")
QUIET_WARNINGS = (
    "LightningCLI's args parameter",  # meant for scripts that also read sys.argv
    "Experiment logs directory",  # earlier metrics were set aside
    "Checkpoint directory",
    r"Found \d+ module\(s\) in eval mode",  # the weight average
    ".*does not have many workers",
    r".*isinstance\(treespec, LeafSpec\)",
)
QUIET_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")

log = logging.getLogger(__name__)


class RecipeCLI(LightningCLI):
    """LightningCLI whose trainer writes everything into one run folder, with loggers of its own.

    Adds to the recipe's keys ``checkpoint_every`` (steps between saves of ``last.ckpt``) and ``monitor`` (the metric that
    ``best.ckpt`` minimises).
    """

    def __init__(self, args: ArgsType, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            args=args,
            run=False,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--checkpoint_every", type=int, default=1000, help="steps between saves of last.ckpt")
        parser.add_argument("--monitor", type=str, default="val/loss", help="metric that best.ckpt minimises")

    def after_instantiate_classes(self) -> None:
        self.write_config()

    @rank_zero_only
    def write_config(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, self.folder / CONFIG, skip_none=False, overwrite=True)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        callbacks: list[Callback] = [
            ReproducibleSteps(int(self.config.seed_everything)),
            CodebookUsage(),
            Speed(),
            LearningRateMonitor("step"),
            ModelCheckpoint(
                (self.folder / LAST).parent,
                "best",
                self.config.monitor,
                save_on_train_epoch_end=False,  # after validations only
                enable_version_counter=False,
            ),
            LastCheckpoint(self.folder / LAST, self.config.checkpoint_every),
        ]
        options = self.config_init.trainer
        if options.enable_progress_bar is not False:
            callbacks.append(Progress())
        return super().instantiate_trainer(
            callbacks=[*(options.callbacks or []), *callbacks],
            logger=[
                CSVLogger(self.folder, name="", version="", flush_logs_every_n_steps=10),
                TensorBoardLogger(self.folder, name="", version=""),
            ],
            default_root_dir=str(self.folder),
            enable_model_summary=bool(options.enable_model_summary),
            **kwargs,
        )


def train(
    recipe: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    resume: str | Path | None = None,
    output: str | Path | None = None,
) -> Path:
    """Train what a recipe describes.

    The run folder holds the resolved ``config.yaml``, ``metrics.csv`` (``metrics-1.csv``, ... for the parts before each resume),
    TensorBoard events, ``checkpoints/last.ckpt`` and ``best.ckpt``, and at the end the weight-averaged codec in ``codec/``,
    ready for :func:`tokenizers_mm.load`. Ctrl-C finishes the step, saves ``last.ckpt``, exports the codec and returns.

    A ``.ckpt`` is Lightning's training state: open only your own. It is read with ``weights_only=True``, which refuses
    anything but tensors and plain values; the exported codec is safetensors.

    Args:
        recipe: A YAML file, or a recipe's name such as ``"wavtokenizer-small"``. May be None with ``resume``.
        overrides: ``"key=value"`` with a dotted key of the recipe, e.g. ``"trainer.max_steps=1000"``.
        resume: A run folder or one of its checkpoints: go on exactly there, with that run's own ``config.yaml`` (and
            ``overrides``), in the same folder unless ``output`` names another.
        output: The run folder; by default ``runs/<recipe>-<time>``.

    Returns:
        The run folder.

    Raises:
        ValueError: If the recipe or an override is wrong; the message names the key.
        FileNotFoundError: If there is nothing to resume from.
        FloatingPointError: If the loss becomes NaN or infinite.
    """
    checkpoint = None
    if resume is not None:
        folder, checkpoint = find_checkpoint(resume)
        source = folder / CONFIG
        output = output or folder
    elif recipe is None:
        raise ValueError("recipe must name a recipe or a YAML file, got None and nothing to resume")
    else:
        source = find_recipe(recipe)
    folder = Path(output) if output is not None else new_folder(source.stem)
    with _quiet():
        cli = parse(source, overrides, folder)
        _set_aside_metrics(folder)
        try:
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        except TrainingStopped as stop:
            log.warning("stopped after step %d; continue with: mmtok train --resume %s", stop.step, folder)
    export(cli.model, folder)
    return folder


def parse(source: Path, overrides: Sequence[str], folder: Path) -> RecipeCLI:
    """Model, data and trainer of a recipe file, built.

    Raises:
        ValueError: If a key or a value is wrong; the message names it.
    """
    if wrong := [text for text in overrides if "=" not in text.lstrip("=")]:
        raise ValueError(f"overrides must be key=value, got {wrong[0]!r}")
    text = SHIPPED.sub(lambda match: str(registry.data_path(match[1])), source.read_text(encoding="utf-8"))  # type: ignore[arg-type]
    try:
        return RecipeCLI([f"--config={text}", *(f"--{override}" for override in overrides)], folder)
    except ArgumentError as error:
        lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
        reason = " ".join(line for line in lines if not line.startswith(PARSER_NOISE))
        raise ValueError(f"{source.name}: {reason}") from None
    except ValueError as error:
        raise ValueError(f"{source.name}: {_root(error)}") from None


def _root(error: BaseException) -> BaseException:
    """What a class said when it refused its arguments, without the parser's frames around it."""
    return error if error.__cause__ is None else _root(error.__cause__)


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        ValueError: If there is none; lists those that ship.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = {found.stem: found for found in sorted(registry.data_path("recipes").rglob("*.yaml"))}
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    raise ValueError(f"recipe must be a YAML file or one of {', '.join(shipped)}; got {str(recipe)!r}")


def find_checkpoint(resume: str | Path) -> tuple[Path, Path]:
    """Run folder and checkpoint that ``resume`` (either of them) names.

    Raises:
        FileNotFoundError: If the folder lacks a configuration or a checkpoint.
    """
    path = Path(resume)
    folder, checkpoint = (path, path / LAST) if path.is_dir() else (path.parent.parent, path)
    for file in (checkpoint, folder / CONFIG):
        if not file.is_file():
            raise FileNotFoundError(f"cannot resume from {path}: there is no {file}")
    return folder, checkpoint


def new_folder(name: str) -> Path:
    """``runs/<name>-<time>``, not taken yet."""
    base = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in range(1, 10_000))
    return next(folder for folder in candidates if not folder.exists())


def export(model: LightningModule, folder: Path) -> None:
    """Write the codec of a trained module to ``folder/codec``, or what else its ``exports`` name to folders of those names."""
    exports = getattr(model, "exports", None) or {"codec": model.codec}  # in all processes: shards have to be gathered
    for name, network in exports.items():
        rank_zero_only(network.save_pretrained)(folder / name)


@rank_zero_only
def _set_aside_metrics(folder: Path) -> None:
    """Rename the CSV of an earlier part of this run, which the logger would overwrite."""
    path = folder / "metrics.csv"
    if path.is_file():
        taken = sum(1 for _ in folder.glob("metrics-*.csv"))
        path.rename(folder / f"metrics-{taken + 1}.csv")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the trainer's greetings, and its warnings about what this module does on purpose."""
    loggers = [logging.getLogger(name) for name in QUIET_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in QUIET_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
