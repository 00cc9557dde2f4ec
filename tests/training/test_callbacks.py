from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lightning.pytorch import Callback
from toy_training import ToyData, autoencoder, make_trainer

from tokenizers_mm.training.callbacks import (
    CodebookUsage,
    LastCheckpoint,
    Speed,
    TrainingStopped,
    codebook_usage,
    column_counts,
)


@given(ids=hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 9)))
def test_usage_equals_scipys_entropy(ids):
    from scipy.stats import entropy

    counts = column_counts(torch.from_numpy(ids), 10)
    perplexity, used = codebook_usage([counts])
    expected = np.bincount(ids.ravel(), minlength=10)
    assert float(perplexity[0]) == pytest.approx(float(np.exp(entropy(expected))), rel=1e-5)
    assert float(used[0]) == pytest.approx(len(np.unique(ids)) / 10)


def test_a_validation_counts_all_its_batches(tmp_path):
    seen = []

    class Collect(Callback):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
            seen.append(outputs["ids"])

    trainer = make_trainer(tmp_path, 5, callbacks=[CodebookUsage(), Collect()])
    trainer.fit(autoencoder(), ToyData())
    assert len(seen) == 2
    ids = torch.cat([i.flatten() for i in seen])
    assert float(trainer.callback_metrics["val/codes_used"]) == pytest.approx(len(ids.unique()) / 16)
    assert 1 <= float(trainer.callback_metrics["train/perplexity"]) <= 16


def test_speed_is_logged(tmp_path):
    trainer = make_trainer(tmp_path, 4, log_every_n_steps=2, callbacks=[Speed()])
    trainer.fit(autoencoder(), ToyData())
    assert float(trainer.callback_metrics["train/steps_per_second"]) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_in_progress(tmp_path, number):
    class Send(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            if trainer.global_step == 1:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    stopper = LastCheckpoint(tmp_path / "last.ckpt", every=1000)
    trainer = make_trainer(tmp_path, 10, callbacks=[Send(), stopper])
    with pytest.raises(TrainingStopped, match="step 2"):
        trainer.fit(autoencoder(), ToyData())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    assert signal.getsignal(number) is before
