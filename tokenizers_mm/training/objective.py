"""What every codec is trained on: weighted reconstruction losses and the quantizer's own, with a weight average beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tokenizers_mm.codec import Codec
from tokenizers_mm.published import fit
from tokenizers_mm.training.ema import WeightAverage
from tokenizers_mm.weights import WEIGHTS, read_weights


@dataclass
class Evaluated:
    """The objective of one batch.

    Args:
        loss: Scalar, the weighted sum.
        terms: Every term by name, unweighted and detached.
        real: The input ``[B, C, ...]``, zero past each item's length.
        fake: The reconstruction, likewise.
        ids: int64 ``[B, T, Q]``.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    real: Tensor
    fake: Tensor
    ids: Tensor


class Objective(nn.Module):
    """A codec with its reconstruction objective and its weight average.

    Args:
        codec: The codec to train.
        losses: Reconstruction losses by name, each ``loss(estimate, reference) -> scalar`` on signals ``[B, C, ...]``; may be
            empty where the codec has losses of its own.
        loss_weights: Weight of each loss, the codec's own among them; 1 where none is given.
        quantizer_weight: Weight of the codec's quantizer loss.
        ema_decay: Decay of the weight average used in validation and export; None for no average.

    Raises:
        ValueError: If there is no loss, or a weight names none.
    """

    def __init__(
        self,
        codec: Codec,
        losses: Mapping[str, nn.Module],
        loss_weights: Mapping[str, float] | None = None,
        quantizer_weight: float = 1.0,
        ema_decay: float | None = 0.999,
    ) -> None:
        super().__init__()
        weights = dict(loss_weights or {})
        names = [*losses, *codec.own_losses]
        if not names:
            raise ValueError("losses must name at least one loss, got none")
        if unknown := sorted(weights.keys() - set(names)):
            raise ValueError(f"loss_weights names {unknown}, but the losses are {sorted(names)}")
        self.codec = codec
        self.losses = nn.ModuleDict(losses)
        self.loss_weights = {name: weights.get(name, 1.0) for name in names}
        self.quantizer_weight = quantizer_weight
        self.average = WeightAverage(codec, ema_decay) if ema_decay is not None else None

    @property
    def best_codec(self) -> Codec:
        """The codec to validate and export: the weight average where there is one."""
        codec = self.average.module if self.average is not None else self.codec
        assert isinstance(codec, Codec)
        return codec

    def forward(self, batch: Mapping[str, Tensor]) -> Evaluated:
        """The objective of a batch: of the codec itself in training mode, of :attr:`best_codec` in evaluation mode.

        Args:
            batch: ``{"signal": [B, C, ...], "lengths": [B]}``; lengths, in samples of the last axis, may be missing.
        """
        real, lengths = batch["signal"], batch.get("lengths")
        output = (self.codec if self.training else self.best_codec)(real, lengths)
        real, fake = mask_past_end(real, lengths), mask_past_end(output.reconstruction, lengths)
        with torch.autocast(real.device.type, enabled=False):  # spectra of bf16 signals lose what the loss compares
            terms = {name: loss(fake.float(), real.float()) for name, loss in self.losses.items()}
        terms |= output.losses
        terms["quantizer"] = output.quantizer_loss
        weights = {**self.loss_weights, "quantizer": self.quantizer_weight}
        total = torch.stack([weights[name] * value.float() for name, value in terms.items() if weights[name]]).sum()
        detached = {name: value.detach() for name, value in terms.items()}
        return Evaluated(total, detached, real, fake, output.ids)

    def update_average(self) -> None:
        """Follow the codec; to be called after each of its optimiser's steps."""
        if self.average is not None:
            self.average.update(self.codec)

    def load_codec(self, source: str) -> None:
        """Start from the weights of another codec of the same configuration, or of one with more residual codebooks.

        Args:
            source: A codec folder, a card's name, or ``hf:owner/name``.

        Raises:
            ValueError: If its weights do not fit.
        """
        if (Path(source) / WEIGHTS).is_file():
            weights = read_weights(Path(source) / WEIGHTS)
        else:
            from tokenizers_mm import registry

            weights = registry.load(source).state_dict()
        own = self.codec.state_dict()
        stages = {stage for key in own if (stage := _stage(key)) is not None}
        if stages:  # the first stages of a residual quantizer stand alone
            weights = {key: value for key, value in weights.items() if _stage(key) in {None, *stages}}
        self.codec.load_state_dict(fit(weights, own, f"{type(self.codec).__name__} ({source})"))
        if self.average is not None:
            self.average.reset(self.codec)


def mask_past_end(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``x`` with zeros past each item's length along the last axis."""
    if lengths is None:
        return x
    inside = torch.arange(x.shape[-1], device=x.device) < lengths.to(x.device)[:, None]
    return x * inside.reshape(len(x), *[1] * (x.ndim - 2), -1)


def require_finite(loss: Tensor, terms: Mapping[str, Tensor], step: int) -> None:
    """Stop a run before NaN reaches its weights and its checkpoint.

    Raises:
        FloatingPointError: If the loss is NaN or infinite; names the step and the terms.
    """
    if not torch.isfinite(loss):
        culprits = [f"{name} = {float(value):g}" for name, value in terms.items() if not torch.isfinite(value)]
        raise FloatingPointError(
            f"the loss is {float(loss):g} at step {step} ({', '.join(culprits) or 'every term is finite, their sum is not'}); "
            "resume from the last checkpoint with a lower learning rate or gradient_clip"
        )


def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Scale gradients down to a total norm of at most ``max_norm`` (None: leave them) and return the norm before."""
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _stage(key: str) -> int | None:
    """The residual stage that a weight belongs to."""
    match = re.match(r"quantizer\.stages\.(\d+)\.", key)
    return int(match[1]) if match else None
