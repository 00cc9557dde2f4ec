"""A number of the network that goes from one value to another in the course of a training."""

from __future__ import annotations

from typing import Any, Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from tokenizers_mm.training.schedule import planned_steps


class Anneals(Protocol):
    """A network with something to anneal, such as :class:`tokenizers_mm.lm.regularized.RegularizedLM`."""

    def anneal(self, done: float, final: float, first: float) -> None: ...


class Anneal(Callback):
    """Calls ``network.anneal`` before every step: ``first`` up to one step of the run, ``final`` from another on, a line between.

    A function of the step alone, so that a resumed run goes on with it.

    Args:
        first: Value at first.
        final: Value in the end.
        begin: Share of the run's steps after which it leaves ``first``.
        end: Share of the run's steps after which it is ``final``.

    Raises:
        ValueError: If begin and end are not shares in this order.
    """

    def __init__(self, first: float = 0.0, final: float = 1.0, begin: float = 0.0, end: float = 1.0) -> None:
        if not 0 <= begin < end <= 1:
            raise ValueError(f"begin and end must be shares of the run, begin the smaller, got {begin} and {end}")
        self.first, self.final, self.begin, self.end = first, final, begin, end

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        progress = trainer.global_step / planned_steps(pl_module)
        done = min(max((progress - self.begin) / (self.end - self.begin), 0.0), 1.0)
        network, trained = (getattr(pl_module, name, None) for name in ("network", "trained"))
        for each in (network, trained):  # the average, where there is one, is validated and exported
            cast(Anneals, each).anneal(done, self.final, self.first)
