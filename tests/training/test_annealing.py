"""Annealing: a function of the step, for the network and its average."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tokenizers_mm.training.annealing import Anneal


class Annealed:
    def anneal(self, done: float, final: float, first: float) -> None:
        self.value = first + done * (final - first)


def test_the_value_follows_the_step() -> None:
    network, average = Annealed(), Annealed()
    callback = Anneal(first=0.25, final=0.75, begin=0.2, end=0.6)
    values = []
    for step in (0, 20, 40, 60, 99):
        trainer = SimpleNamespace(global_step=step, max_steps=100)
        module = SimpleNamespace(network=network, trained=average, trainer=trainer)
        callback.on_train_batch_start(trainer, module, None, 0)  # type: ignore[arg-type]
        values.append(network.value)
        assert average.value == network.value
    assert values == pytest.approx([0.25, 0.25, 0.5, 0.75, 0.75])
    with pytest.raises(ValueError, match="begin the smaller"):
        Anneal(begin=0.5, end=0.5)
