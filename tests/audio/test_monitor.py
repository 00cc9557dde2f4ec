from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from tokenizers_mm.audio.monitor import AudioMonitor, mean_metrics, spectrograms
from tokenizers_mm.tokens import TokenSpec

SPEC = TokenSpec("audio", (16,), hop=(320,), sample_rate=16000)


def voice(n: int, seed: int) -> torch.Tensor:
    """Something with pitch, formants and pauses, enough for PESQ and STOI."""
    t = torch.arange(n) / 16000
    generator = torch.Generator().manual_seed(seed)
    pitch = 2 * math.pi * (120 + 20 * seed) * t
    wave = sum(torch.sin(k * pitch + 3 * torch.rand((), generator=generator)) / k for k in range(1, 20))
    return (0.1 * wave * (torch.sin(2 * math.pi * 3 * t) > -0.5))[None]


class Half(LightningModule):
    """Returns a noisy copy of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.codec = type("C", (), {"spec": SPEC})()

    def training_step(self, batch, batch_idx):
        return self.weight.square().sum()

    def validation_step(self, batch, batch_idx):
        x = batch["signal"]
        return {"reconstruction": x + 0.01 * torch.randn(x.shape)}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def batches(*signals: torch.Tensor) -> DataLoader:
    return DataLoader([{"signal": x, "lengths": torch.tensor(x.shape[-1])} for x in signals], 2)


def test_logs_metrics_and_writes_pictures_and_sound(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=3,
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        callbacks=[AudioMonitor(clips=3, every=2)],
    )
    data = batches(*(voice(24000, seed) for seed in range(4)))
    trainer.fit(Half(), data, data)
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 0.5 < values["clips/stoi"] <= 1
    assert 1 < values["clips/pesq_wb"] <= 4.65
    assert values["clips/mel"] > 0
    assert [p.name for p in sorted((tmp_path / "spectrograms").iterdir())] == ["step-0000002.png", "step-0000006.png"]
    events = EventAccumulator(str(tmp_path), size_guidance={"audio": 0, "images": 0}).Reload()
    assert set(events.Tags()["audio"]) == {f"clip{i}/{s}" for i in range(3) for s in ("original", "reconstruction")}
    assert "spectrograms" in events.Tags()["images"]


def test_clips_without_a_defined_value_do_not_spoil_the_mean():
    speech, silence = voice(24000, 0), torch.zeros(1, 24000)
    pairs = [(speech, speech + 0.01 * torch.randn(1, 24000)), (silence, silence)]
    names = ("stoi", "pesq_wb", "mel")
    assert mean_metrics(pairs, SPEC, names)["stoi"] == mean_metrics(pairs[:1], SPEC, names)["stoi"]
    assert mean_metrics([(speech, speech * float("nan"))], SPEC, names) == {}


def test_the_picture_has_a_pair_of_panels_per_clip():
    figure = spectrograms([(voice(8000, 0), voice(8000, 1)), (voice(500, 2), voice(500, 3))], 16000)
    assert len(figure.axes) == 4


def test_unknown_metrics_and_empty_looks_are_refused():
    with pytest.raises(ValueError, match="loudnes"):
        AudioMonitor(metrics=("loudnes",))
    with pytest.raises(ValueError, match="clips"):
        AudioMonitor(clips=0)
