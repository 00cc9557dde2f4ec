"""Two processes over gloo, each with other data: afterwards weights, averages and codebooks are the same on both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from toy_training import ToyData, adversarial, autoencoder, make_trainer, weights

from tokenizers_mm.training.callbacks import CodebookUsage, ReproducibleSteps


def work(kind: str, folder: str) -> None:
    """What each process does."""
    module = {"autoencoder": autoencoder, "adversarial": adversarial}[kind]()
    rank = int(os.environ["RANK"])
    strategy = DDPStrategy(
        process_group_backend="gloo", broadcast_buffers=False, find_unused_parameters=kind == "adversarial"
    )
    trainer = make_trainer(folder, 8, devices=2, strategy=strategy, callbacks=[ReproducibleSteps(1), CodebookUsage()])
    trainer.fit(module, ToyData(rank))
    used = trainer.callback_metrics["val/codes_used"]
    torch.save({"weights": weights(module), "used": used}, f"{folder}/{rank}.pt")


@pytest.mark.parametrize("kind", ["autoencoder", "adversarial"])
def test_ranks_agree_though_their_data_differ(kind, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, kind, str(tmp_path)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert [k for k, v in one["weights"].items() if not torch.equal(v, two["weights"][k])] == []
    assert one["used"] == two["used"]
    assert torch.isfinite(torch.cat([v.float().flatten() for v in one["weights"].values()])).all()


if __name__ == "__main__":
    work(*sys.argv[1:])
