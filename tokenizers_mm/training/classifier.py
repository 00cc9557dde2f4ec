"""Classify tokenized signals: a network over the tokens of a frozen codec, trained on labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    MulticlassAccuracy,
    MulticlassCohenKappa,
    MulticlassF1Score,
)

from tokenizers_mm.codec import Codec
from tokenizers_mm.published import fit
from tokenizers_mm.training.frozen import FrozenTokenizer
from tokenizers_mm.training.schedule import scheduled
from tokenizers_mm.weights import WEIGHTS, read_weights

Loss = Literal["cross_entropy", "binary", "focal"]


class ClassifierModule(LightningModule):
    """A network ``ids [B, C, T] -> [B, num_classes]`` on top of a frozen tokenizer.

    Batches are ``{"signal": [B, C, N], "label": [B]}``, or have ``"ids": [B, C, T]`` in the signal's place. Validation logs
    accuracy, balanced accuracy, Cohen's kappa and weighted F1, and with one score the areas under the ROC and the
    precision-recall curve instead of the last two.

    Args:
        network: What is trained.
        tokenizer: A codec of one codebook on a grid of channels and time: a folder, a card's name, or ``hf:owner/name``.
        num_classes: Scores that the network gives; 1 for two classes.
        loss: ``cross_entropy`` of several classes; ``binary`` or :func:`focal_loss` of one score.
        label_smoothing: Of the cross-entropy.
        class_weights: Of the cross-entropy, one of each class; by default all alike.
        init_from: A folder of pretrained weights of the network, whose head may have another size and is then left out.
        from_codes: Start the network's token embeddings from the tokenizer's codes, where there is no ``init_from``.
        optimizer: Makes the optimiser of the network's parameters.
        warmup_steps: Steps of linear warm-up; a cosine follows.
        min_lr: Learning rate at the end of the cosine.

    Raises:
        ValueError: If the loss does not go with the number of scores.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        tokenizer: str | Codec,
        num_classes: int,
        loss: Loss = "cross_entropy",
        label_smoothing: float = 0.1,
        class_weights: Sequence[float] | None = None,
        init_from: str | None = None,
        from_codes: bool = True,
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-3),
        warmup_steps: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__()
        if (loss == "cross_entropy") != (num_classes > 1):
            raise ValueError(
                f"loss must be cross_entropy for several classes and another for one, got {loss!r} for {num_classes}"
            )
        self.network, self.loss, self.label_smoothing, self.num_classes = network, loss, label_smoothing, num_classes
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.tokenizer = FrozenTokenizer(tokenizer)
        if init_from is not None:
            load_body(network, init_from)
        elif from_codes:
            network.start_from(self.tokenizer.codec)  # type: ignore[operator]
        self.make_optimizer, self.warmup_steps, self.min_lr = optimizer, warmup_steps, min_lr
        self.metrics = classification_metrics(num_classes)

    @property
    def codec(self) -> Codec:
        """The frozen tokenizer, for callbacks that look at its spec."""
        return self.tokenizer.codec

    @property
    def exports(self) -> dict[str, Any]:
        """What a run leaves behind, by folder."""
        return {"network": self.network}

    def configure_optimizers(self) -> Any:
        return scheduled(self, self.make_optimizer(self.network.parameters()), self.warmup_steps, self.min_lr)

    def forward(self, signal: Tensor) -> Tensor:
        """Scores ``[B, num_classes]`` of signals ``[B, C, N]``."""
        return self.network(self.tokenizer(signal))

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(self.network(self.tokenizer.ids(batch)), batch["label"])
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        logits, label = self.network(self.tokenizer.ids(batch)), batch["label"]
        self.log("val/loss", self._loss(logits, label), prog_bar=True, batch_size=len(label), sync_dist=True)
        if self.num_classes == 1:
            probability = logits[:, 0].sigmoid()
            scores = torch.stack([1 - probability, probability], dim=1)
            self.metrics["binary"].update(probability, label)  # type: ignore[operator, union-attr]
        else:
            scores = logits.softmax(dim=-1)
        self.metrics["multiclass"].update(scores, label)  # type: ignore[operator, union-attr]

    def on_validation_epoch_end(self) -> None:
        for group in self.metrics.values():
            self.log_dict({f"val/{name}": value for name, value in group.compute().items()})  # type: ignore[operator, union-attr]
            group.reset()  # type: ignore[operator, union-attr]

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, label, self.class_weights, label_smoothing=self.label_smoothing)
        if self.loss == "binary":
            return F.binary_cross_entropy_with_logits(logits[:, 0], label.to(logits))
        return focal_loss(logits[:, 0], label)


def focal_loss(logits: Tensor, label: Tensor, *, alpha: float = 0.8, gamma: float = 0.7) -> Tensor:
    """The focal loss of two classes (Lin et al., "Focal Loss for Dense Object Detection", 2017), as TFM-Tokenizer uses it.

    Args:
        logits: ``[B]``, of the rarer class.
        label: ``[B]``, 0 or 1.
        alpha: Weight of the rarer class; the other has ``1 - alpha``.
        gamma: How much less well-told examples count.
    """
    label, p = label.to(logits), logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * label * F.logsigmoid(logits)
    negative = -(1 - alpha) * p**gamma * (1 - label) * F.logsigmoid(-logits)
    return (positive + negative).mean()


def load_body(network: nn.Module, folder: str) -> None:
    """Load pretrained weights of all but the head of a network.

    Raises:
        FileNotFoundError: If the folder has no weights.
        ValueError: If they are another network's.
    """
    weights = read_weights(Path(folder) / WEIGHTS)
    own = network.state_dict()
    body = {key: tensor for key, tensor in weights.items() if not key.startswith("head.")}
    head = {key: tensor for key, tensor in own.items() if key.startswith("head.")}
    network.load_state_dict(fit({**body, **head}, own, f"{type(network).__name__} ({folder})"))


def classification_metrics(num_classes: int) -> nn.ModuleDict:
    """Metrics of class scores, and of one score also those of its ranking."""
    classes = max(2, num_classes)
    groups: dict[str, nn.Module] = {
        "multiclass": MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "balanced_accuracy": MulticlassAccuracy(classes, average="macro"),
                "kappa": MulticlassCohenKappa(classes),
                "f1_weighted": MulticlassF1Score(classes, average="weighted"),
            }
        )
    }
    if num_classes == 1:
        groups["binary"] = MetricCollection({"auroc": BinaryAUROC(), "auc_pr": BinaryAveragePrecision()})
    return nn.ModuleDict(groups)
