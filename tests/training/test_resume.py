"""A run that is stopped and resumed ends with the same bits as one that never stopped."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from toy_training import ToyData, adversarial, autoencoder, make_trainer, weights

from tokenizers_mm.training.callbacks import LastCheckpoint, ReproducibleSteps, TrainingStopped

STEPS = 13


class StopAt(Callback):
    """Asks for a stop during a given step, as Ctrl-C does."""

    def __init__(self, step: int, stopper: LastCheckpoint) -> None:
        self.step, self.stopper = step, stopper

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step - 1:
            self.stopper.requested = True


def optimizer_state(trainer) -> list[torch.Tensor]:
    return [v for o in trainer.optimizers for s in o.state.values() for v in s.values()]


@pytest.fixture(scope="module", params=[autoencoder, adversarial])
def uninterrupted(request, tmp_path_factory):
    module = request.param()
    trainer = make_trainer(tmp_path_factory.mktemp("whole"), STEPS, val_check_interval=3)
    trainer.fit(module, ToyData())
    return (
        request.param,
        weights(module),
        optimizer_state(trainer),
        [o.param_groups[0]["lr"] for o in trainer.optimizers],
    )


@pytest.mark.parametrize("stop", [1, 3, 5, 7, 10])  # the first step, a validation, an epoch's end, mid-epoch, both
def test_resumed_run_is_bitwise_equal(uninterrupted, stop, tmp_path):
    make, expected, moments, rates = uninterrupted
    stopper = LastCheckpoint(tmp_path / "last.ckpt", every=1000)
    trainer = make_trainer(
        tmp_path, STEPS, val_check_interval=3, callbacks=[ReproducibleSteps(1), StopAt(stop, stopper), stopper]
    )
    with pytest.raises(TrainingStopped):
        trainer.fit(make(), ToyData())
    torch.manual_seed(99), np.random.seed(99), random.seed(99)

    module = make()
    trainer = make_trainer(tmp_path, STEPS, val_check_interval=3, callbacks=[ReproducibleSteps(1234)])
    trainer.fit(module, ToyData(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)

    assert trainer.global_step == STEPS
    assert expected.keys() == weights(module).keys()
    assert [name for name, value in weights(module).items() if not torch.equal(value, expected[name])] == []
    assert all(torch.equal(a, b) for a, b in zip(optimizer_state(trainer), moments, strict=True))
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == rates


def test_the_seed_matters(tmp_path):
    results = []
    for seed in (1, 2):
        module = autoencoder()
        make_trainer(tmp_path, 3, callbacks=[ReproducibleSteps(seed)]).fit(module, ToyData())
        results.append(weights(module)["objective.codec.encoder.weight"])
    assert not torch.equal(*results)
