"""TFM-Encoder on labelled recordings: pretrained on hidden tokens of the training side, finetuned to classify, best epoch kept.

Pradeepkumar et al., "Tokenizing Single-Channel EEG with Time-Frequency Motif Learning", ICLR 2026. Ours is for a few hundred
items: fewer epochs and a learning rate that falls, where the published one rises five-fold.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tokenizers_mm.codec import Codec
from tokenizers_mm.eeg.tfm_encoder import TFMEncoder
from tokenizers_mm.evaluation.probe import Labelled
from tokenizers_mm.tokens import Tokens
from tokenizers_mm.training.classifier import ClassifierModule
from tokenizers_mm.training.masked import MaskedTokenModule

PRETRAINING, FINETUNING = 20, 30  # epochs
BATCH = 32
HEADS = 8


class KeepBest(L.Callback):
    """Keeps the weights of the epoch with the best Cohen's kappa on the validation side."""

    def __init__(self) -> None:
        self.kappa = float("-inf")
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        kappa = float(trainer.callback_metrics["val/kappa"])
        if not self.weights or kappa > self.kappa:
            self.weights, self.kappa = copy.deepcopy(module.network.state_dict()), kappa  # type: ignore[operator, union-attr]


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
    size, width = codec.spec.codebook_sizes[0], _code_width(codec)
    schedule: dict[str, Any] = {
        "optimizer": partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-5),
        "warmup_steps": len(ids["train"]) // BATCH,  # an epoch
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = TFMEncoder(size, size, ids["train"].shape[1], dim=width or 64, heads=HEADS)
        pretraining = MaskedTokenModule(encoder, codec, from_codes=width > 0, **schedule)
        _fit(pretraining, PRETRAINING, _batches(True, ids=ids["train"]), None)
        counts = torch.bincount(labels["train"])
        encoder.head = nn.Linear(encoder.head.in_features, len(counts))
        weights = (counts.sum() / (len(counts) * counts.clamp(min=1))).tolist()
        finetuning = ClassifierModule(encoder, codec, len(counts), class_weights=weights, from_codes=False, **schedule)
        train, valid = (_batches(side == "train", ids=ids[side], label=labels[side]) for side in ("train", "valid"))
        _fit(finetuning, FINETUNING, train, valid, best := KeepBest())
    encoder.load_state_dict(best.weights)
    encoder.eval()
    with torch.no_grad():
        return torch.cat([encoder(part).argmax(dim=1) for part in ids["test"].split(BATCH)])


def _code_width(codec: Codec) -> int:
    """How wide the codec's codes are, where an encoder's embeddings can begin with them; otherwise 0."""
    decode = getattr(getattr(codec, "quantizer", None), "decode", None)
    if decode is None:
        return 0
    width = int(decode(torch.zeros(1, 1, 1, dtype=torch.long, device=codec.device)).shape[-1])
    return 0 if width % HEADS else width


def _batches(shuffle: bool, **tensors: Tensor) -> DataLoader:
    items = [dict(zip(tensors, each, strict=True)) for each in zip(*tensors.values(), strict=True)]
    return DataLoader(items, BATCH, shuffle=shuffle)  # type: ignore[arg-type]  # a list is a dataset


def _fit(
    module: L.LightningModule, epochs: int, train: DataLoader, valid: DataLoader | None, *callbacks: L.Callback
) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():  # of what is meant: no validation in pretraining, a tokenizer in evaluation mode
        warnings.simplefilter("ignore")
        trainer.fit(module, train, valid)
