"""TFM-Encoder on labelled recordings: pretrained on hidden tokens of the training side, finetuned to classify, best epoch kept.

Pradeepkumar et al., "Tokenizing Single-Channel EEG with Time-Frequency Motif Learning", ICLR 2026. Ours is for a few hundred
items: fewer epochs and a learning rate that falls, where the published one rises five-fold.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tokenizers_mm.codec import Codec
from tokenizers_mm.eeg.tfm_encoder import TFMEncoder
from tokenizers_mm.evaluation.probe import Labelled
from tokenizers_mm.tokens import Tokens

PRETRAINING, FINETUNING = 20, 30  # epochs
BATCH = 32
HIDDEN = 0.5  # share of tokens that are hidden
LABEL_SMOOTHING = 0.1


class HiddenTokens(L.LightningModule):
    """Predicts hidden tokens of all channels from the others, each batch twice: some hidden, then all others."""

    def __init__(self, encoder: TFMEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        ids = batch[0]
        hidden = torch.rand(ids.shape, device=ids.device) < HIDDEN
        losses = []
        for mask in (hidden, ~hidden):
            logits = self.encoder.token_logits(ids.masked_fill(mask, self.encoder.mask_id))
            losses.append(F.cross_entropy(logits[mask], ids[mask]))
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> Any:
        return _falling(self, (0.9, 0.99))


class Classifying(L.LightningModule):
    """Classifies recordings; the weights of the epoch with the best Cohen's kappa on the validation side are in :attr:`best`."""

    def __init__(self, encoder: TFMEncoder, weights: Tensor) -> None:
        super().__init__()
        self.encoder, self.weights = encoder, weights
        self.best, self.best_kappa = copy.deepcopy(encoder.state_dict()), float("-inf")
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        ids, labels = batch
        return F.cross_entropy(self.encoder(ids), labels, self.weights, label_smoothing=LABEL_SMOOTHING)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen.append((self.encoder(batch[0]).argmax(dim=1), batch[1]))

    def on_validation_epoch_end(self) -> None:
        from sklearn.metrics import cohen_kappa_score

        predicted, labels = (torch.cat(each) for each in zip(*self.seen, strict=True))
        kappa = float(cohen_kappa_score(labels.numpy(), predicted.numpy()))
        if kappa > self.best_kappa:
            self.best, self.best_kappa = copy.deepcopy(self.encoder.state_dict()), kappa
        self.seen = []

    def configure_optimizers(self) -> Any:
        return _falling(self, (0.9, 0.999))


def tfm_encoder(codec: Codec, sides: Mapping[str, Labelled], tokens: Mapping[str, Tokens], seed: int) -> Tensor | None:
    """Classes that a TFM-Encoder predicts for the test side: int64 ``[B]``; None for codecs of several codebooks.

    Args:
        codec: The codec, whose code vectors the embeddings begin with.
        sides: Labels of ``train`` and ``valid``.
        tokens: Of every side, all of one grid ``(channel, time)``.
        seed: Of weights, order and dropout.
    """
    if codec.spec.num_codebooks != 1 or len(codec.spec.axes) != 2:
        return None
    ids = {side: each.ids[..., 0].unflatten(1, tuple(each.shapes[0].tolist())) for side, each in tokens.items()}
    labels = {side: found.labels for side, found in sides.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _encoder(codec, ids["train"].shape[1])
        _fit(HiddenTokens(encoder), PRETRAINING, _batches(ids["train"], shuffle=True))
        classes = torch.bincount(labels["train"])
        encoder.head = nn.Linear(encoder.head.in_features, len(classes))
        model = Classifying(encoder, classes.sum() / (len(classes) * classes.clamp(min=1)))
        _fit(
            model,
            FINETUNING,
            _batches(ids["train"], labels["train"], shuffle=True),
            _batches(ids["valid"], labels["valid"]),
        )
    encoder.load_state_dict(model.best)
    encoder.eval()
    with torch.no_grad():
        return torch.cat([encoder(part).argmax(dim=1) for part in ids["test"].split(BATCH)])


def _encoder(codec: Codec, channels: int) -> TFMEncoder:
    """An encoder with a score for every token, as wide as the codec's codes where it can begin with them."""
    size, quantizer = codec.spec.codebook_sizes[0], getattr(codec, "quantizer", None)
    decode = getattr(quantizer, "decode", None)
    width = 0 if decode is None else int(decode(torch.zeros(1, 1, 1, dtype=torch.long, device=codec.device)).shape[-1])
    fits = width > 0 and width % 8 == 0
    encoder = TFMEncoder(num_classes=size, codebook_size=size, channels=channels, dim=width if fits else 64)
    if fits:
        encoder.start_from(codec)
    return encoder


def _falling(module: L.LightningModule, betas: tuple[float, float]) -> Any:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=1e-5, betas=betas)
    steps = int(module.trainer.estimated_stepping_batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _batches(*tensors: Tensor, shuffle: bool = False) -> DataLoader:
    return DataLoader(TensorDataset(*tensors), BATCH, shuffle=shuffle)


def _fit(module: L.LightningModule, epochs: int, train: DataLoader, valid: DataLoader | None = None) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, train, valid)
