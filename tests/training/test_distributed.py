"""Two processes over gloo, each with other data: afterwards weights, averages and codebooks are the same on both."""

from __future__ import annotations

import os
import sys

import torch
from lightning.pytorch.strategies import DDPStrategy
from toy_training import ToyData, adversarial, autoencoder, make_trainer, two_processes, weights

from tokenizers_mm.training.callbacks import CodebookUsage, ReproducibleSteps


def work(folder: str) -> None:
    """What each process does."""
    rank = int(os.environ["RANK"])
    for kind in (autoencoder, adversarial):
        module, trained_by_turns = kind(), kind is adversarial
        trainer = make_trainer(
            folder,
            8,
            devices=2,
            strategy=DDPStrategy(
                process_group_backend="gloo", broadcast_buffers=False, find_unused_parameters=trained_by_turns
            ),
            callbacks=[ReproducibleSteps(1), CodebookUsage()],
        )
        trainer.fit(module, ToyData(rank))
        used = trainer.callback_metrics["val/codes_used"]
        torch.save({"weights": weights(module), "used": used}, f"{folder}/{kind.__name__}-{rank}.pt")


def test_ranks_agree_though_their_data_differ(tmp_path):
    two_processes(__file__, str(tmp_path))
    for kind in ("autoencoder", "adversarial"):
        one, two = (torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2))
        assert [k for k, v in one["weights"].items() if not torch.equal(v, two["weights"][k])] == []
        assert one["used"] == two["used"]
        assert torch.isfinite(torch.cat([v.float().flatten() for v in one["weights"].values()])).all()


if __name__ == "__main__":
    work(*sys.argv[1:])
