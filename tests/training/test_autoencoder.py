from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from toy_training import ToyCodec, ToyData, autoencoder, make_trainer, weights

from tokenizers_mm.audio import WavTokenizer
from tokenizers_mm.training.objective import Objective, mask_past_end


class Record(Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def test_the_loss_falls_and_every_term_is_logged(tmp_path):
    record = Record()
    trainer = make_trainer(tmp_path, 60, callbacks=[record])
    trainer.fit(autoencoder(loss_weights={"mse": 2.0}, quantizer_weight=0.5), ToyData())
    first, last = record.rows[2], record.rows[-1]
    assert last["train/l1"] < 0.7 * first["train/l1"]
    assert {"train/l1", "train/mse", "train/quantizer", "train/loss", "train/grad_norm"} <= last.keys()
    assert last["train/loss"] == pytest.approx(
        last["train/l1"] + 2 * last["train/mse"] + 0.5 * last["train/quantizer"], 1e-5
    )
    assert {"val/loss", "val/l1", "val/quantizer"} <= trainer.callback_metrics.keys()


def test_validation_and_export_use_the_average(tmp_path):
    module = autoencoder(ema_decay=0.9)
    trainer = make_trainer(tmp_path, 5)
    trainer.fit(module, ToyData())
    assert module.codec is module.objective.average.module
    assert not torch.equal(module.codec.encoder.weight, module.objective.codec.encoder.weight)
    with torch.no_grad():
        x = next(iter(ToyData().val_dataloader()))["signal"]
        expected = nn.functional.l1_loss(module.codec(x).reconstruction, x)
        module.eval()
        assert torch.equal(module.objective({"signal": x}).terms["l1"], expected)


def test_gradients_are_clipped_to_the_given_norm(tmp_path):
    norms = []

    class After(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
            grads = [p.grad for p in pl_module.objective.codec.parameters() if p.grad is not None]
            if grads:
                norms.append(float(torch.nn.utils.get_total_norm(grads)))

    make_trainer(tmp_path, 4, callbacks=[After()]).fit(autoencoder(gradient_clip=1e-3), ToyData())
    assert norms
    assert max(norms) <= 1.0001e-3


def test_starts_from_another_codecs_weights(tmp_path):
    source = ToyCodec()
    source.save_pretrained(tmp_path / "codec")
    module = autoencoder(init_from=str(tmp_path / "codec"), optimizer=lambda p: torch.optim.SGD(p, lr=0.0), min_lr=0.0)
    make_trainer(tmp_path, 1).fit(module, ToyData())
    assert torch.equal(module.objective.codec.encoder.weight, source.encoder.weight)
    assert torch.equal(module.codec.encoder.weight, source.encoder.weight)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    ToyCodec(dim=4).save_pretrained(tmp_path / "codec")
    with pytest.raises(ValueError, match="does not fit ToyCodec"):
        make_trainer(tmp_path, 1).fit(autoencoder(init_from=str(tmp_path / "codec")), ToyData())


def test_nan_stops_the_run_before_it_reaches_the_weights(tmp_path):
    class Spoiled(ToyData):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            if self.trainer.training and self.trainer.global_step == 2:
                batch["signal"] = batch["signal"] * float("nan")
            return batch

    module = autoencoder()
    with pytest.raises(FloatingPointError, match=r"step 2 .*l1 = nan"):
        make_trainer(tmp_path, 5).fit(module, Spoiled())
    trained = {k: v for k, v in weights(module).items() if k.startswith("objective.codec.") and "quantizer" not in k}
    assert all(torch.isfinite(v).all() for v in trained.values())


def test_bf16_trains(tmp_path):
    module = autoencoder()
    make_trainer(tmp_path, 3, precision="bf16-mixed").fit(module, ToyData())
    assert all(torch.isfinite(v).all() for v in weights(module).values())
    assert module.codec.encoder.weight.dtype == torch.float32


def test_what_lies_past_an_items_length_has_no_weight():
    x = torch.randn(2, 1, 6)
    masked = mask_past_end(x, torch.tensor([6, 4]))
    assert torch.equal(masked[0], x[0])
    assert torch.equal(masked[1, :, :4], x[1, :, :4])
    assert not masked[1, :, 4:].any()


def test_a_weight_without_a_loss_is_named():
    with pytest.raises(ValueError, match="mel"):
        Objective(ToyCodec(), {"l1": nn.L1Loss()}, {"mel": 45.0})
    with pytest.raises(ValueError, match="losses"):
        Objective(ToyCodec(), {})


def test_fewer_residual_codebooks_start_from_the_first_of_more(tmp_path):
    sizes = {"sample_rate": 16000, "encoder": "stft", "encoder_dim": 16, "dim": 16, "intermediate_dim": 16}
    network = {**sizes, "strides": [4, 4, 4, 5], "layers": 1, "encoder_layers": 1, "num_embeddings": 0}
    quantizer = {"kind": "rvq", "codebook_size": 8}
    two = WavTokenizer(**network, quantizer={**quantizer, "num_codebooks": 2})
    two.save_pretrained(tmp_path / "two")
    one = WavTokenizer(**network, quantizer={**quantizer, "num_codebooks": 1})
    objective = Objective(one, {"l1": nn.L1Loss()}, ema_decay=None)
    objective.load_codec(str(tmp_path / "two"))
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
    one.save_pretrained(tmp_path / "one")
    with pytest.raises(ValueError, match=r"missing keys: quantizer\.stages\.1"):
        Objective(two, {"l1": nn.L1Loss()}, ema_decay=None).load_codec(str(tmp_path / "one"))
