"""Pretraining on hidden tokens (Devlin et al., "BERT", 2018), each batch with a mask and with its complement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from tokenizers_mm.codec import Codec
from tokenizers_mm.training.frozen import FrozenTokenizer
from tokenizers_mm.training.schedule import scheduled


class MaskedTokenModule(LightningModule):
    """A network that scores every token of a grid, trained to tell hidden ones.

    Batches are ``{"signal": [B, C, N]}`` or ``{"ids": [B, C, T]}``. The network has ``mask_id`` and
    ``token_logits(ids [B, C, T]) -> [B, C, T, K]``.

    Args:
        network: What is trained.
        tokenizer: A codec of one codebook on a grid of channels and time: a folder, a card's name, or ``hf:owner/name``. It is
            frozen, in evaluation mode whatever the mode of this module.
        mask_ratio: Chance of a token to be hidden.
        from_codes: Start the network's token embeddings from the tokenizer's codes.
        optimizer: Makes the optimiser of the network's parameters.
        warmup_steps: Steps of linear warm-up; a cosine follows.
        min_lr: Learning rate at the end of the cosine.

    Raises:
        ValueError: If ``mask_ratio`` is not between 0 and 1.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: str | Codec,
        mask_ratio: float = 0.5,
        from_codes: bool = True,
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-3),
        warmup_steps: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must be between 0 and 1, got {mask_ratio}")
        self.network, self.mask_ratio = network, mask_ratio
        self.tokenizer = FrozenTokenizer(tokenizer)
        if from_codes:
            network.start_from(self.tokenizer.codec)  # type: ignore[operator]
        self.make_optimizer, self.warmup_steps, self.min_lr = optimizer, warmup_steps, min_lr

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

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        loss, accuracy = self._losses(batch)
        self.log_dict({"train/loss": loss.detach(), "train/accuracy": accuracy}, prog_bar=True)
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        with torch.random.fork_rng(devices=[]):  # every validation hides the same tokens
            torch.manual_seed(batch_idx)
            loss, accuracy = self._losses(batch)
        size = len(next(iter(batch.values())))
        self.log_dict({"val/loss": loss, "val/accuracy": accuracy}, prog_bar=True, batch_size=size, sync_dist=True)

    def _losses(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of both views, and the share of hidden tokens that are told right."""
        ids = self.tokenizer.ids(batch)
        hide = torch.rand(ids.shape).to(ids.device) < self.mask_ratio
        logits = [self.network.token_logits(ids.masked_fill(h, self.network.mask_id))[h] for h in (hide, ~hide)]  # type: ignore[operator, arg-type]
        targets = [ids[h] for h in (hide, ~hide)]
        loss = torch.stack([F.cross_entropy(a, b) for a, b in zip(logits, targets, strict=True) if len(b)]).sum()
        right = [(a.argmax(dim=-1) == b).sum() for a, b in zip(logits, targets, strict=True)]
        return loss, torch.stack(right).sum() / ids.numel()
