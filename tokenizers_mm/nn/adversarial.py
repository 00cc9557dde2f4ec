"""Adversarial training of any modality: discriminator outputs, GAN losses, and the bundle that a recipe names.

Hinge: Lim & Ye, "Geometric GAN" (2017), its generator term clamped as in SEANet (Tagliasacchi et al., 2020). Least
squares: Mao et al., "Least Squares GAN" (2017). Feature matching: Kumar et al., "MelGAN" (2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DiscriminatorOutput(NamedTuple):
    """What one sub-discriminator says of a batch.

    Args:
        logits: Scores of any shape; high means real.
        features: The maps that feature matching compares, of any shapes; whether the logits are among them is the
            discriminator's choice.
    """

    logits: Tensor
    features: list[Tensor]


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """``mean(max(0, 1 - real)) + mean(max(0, 1 + fake))`` of the logits of one sub-discriminator."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """``mean(max(0, 1 - fake))``: no reward for pushing the logits past 1."""
    return F.relu(1 - fake).mean()


def least_squares_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """``mean((1 - real)^2) + mean(fake^2)`` of the logits of one sub-discriminator."""
    return (1 - real).square().mean() + fake.square().mean()


def least_squares_generator_loss(fake: Tensor) -> Tensor:
    """``mean((1 - fake)^2)``."""
    return (1 - fake).square().mean()


DISCRIMINATOR_LOSSES = {"hinge": hinge_discriminator_loss, "least_squares": least_squares_discriminator_loss}
GENERATOR_LOSSES = {"hinge": hinge_generator_loss, "least_squares": least_squares_generator_loss}


def feature_matching_loss(
    real: Sequence[DiscriminatorOutput],
    fake: Sequence[DiscriminatorOutput],
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """L1 distance between the features of real and generated signals.

    Args:
        real: Outputs for real signals, one per sub-discriminator; no gradient flows into them.
        fake: Outputs for generated signals.
        reduction: How sub-discriminators combine; the maps of one are always summed, each by its mean.

    Returns:
        Scalar.
    """
    distances = [
        torch.stack([F.l1_loss(f, r.detach()) for r, f in zip(a.features, b.features, strict=True)]).sum()
        for a, b in zip(real, fake, strict=True)
    ]
    return _reduce(distances, reduction)


class Adversary(nn.Module):
    """A discriminator with the losses it plays for: the unit that an adversarial recipe lists.

    WavTokenizer's objective is three of them: periods (``hinge``, ``mean``), resolutions (``hinge``, ``mean``) and the
    composite of DAC (``least_squares``, ``sum``).

    Args:
        discriminator: ``(x, condition) -> list[DiscriminatorOutput]``, one output per sub-discriminator.
        loss: The game.
        reduction: How the losses of the sub-discriminators combine.
        weight: Weight of the adversarial term in the generator's objective, not in the discriminator's own.
        feature_weight: Weight of the feature-matching term; 0 spares a pass over the real signals.
        frozen_random: Never train the discriminator: its random features still guide the generator, as they did in the
            training of the published WavTokenizer, whose composite discriminator was in no optimiser.

    Raises:
        ValueError: If ``loss`` or ``reduction`` is unknown, or a weight is negative.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: Literal["hinge", "least_squares"] = "hinge",
        reduction: Literal["mean", "sum"] = "mean",
        weight: float = 1.0,
        feature_weight: float = 1.0,
        frozen_random: bool = False,
    ) -> None:
        super().__init__()
        if loss not in GENERATOR_LOSSES:
            raise ValueError(f"loss must be one of {sorted(GENERATOR_LOSSES)}, got {loss!r}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        if weight < 0 or feature_weight < 0:
            raise ValueError(f"weight and feature_weight must be >= 0, got {weight} and {feature_weight}")
        self.discriminator = discriminator
        self.loss = loss
        self.reduction: Literal["mean", "sum"] = reduction
        self.weight = weight
        self.feature_weight = feature_weight
        self.frozen_random = frozen_random
        if frozen_random:
            self.discriminator.requires_grad_(False)

    def discriminator_loss(self, real: Tensor, fake: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the discriminator minimises.

        Args:
            real: Real signals.
            fake: Generated signals of the same shape; detached here.
            condition: Condition ids, int ``[B]``, for discriminators that take them.

        Returns:
            Scalar; a constant zero, at no cost, where the discriminator is frozen.
        """
        if self.frozen_random:
            return real.new_zeros(())
        pairs = zip(self.discriminator(real, condition), self.discriminator(fake.detach(), condition), strict=True)
        loss = DISCRIMINATOR_LOSSES[self.loss]
        return _reduce([loss(r.logits, f.logits) for r, f in pairs], self.reduction)

    def generator_loss(self, real: Tensor, fake: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the generator minimises; its gradient reaches ``fake`` only, never the discriminator's parameters.

        Args:
            real: Real signals.
            fake: Generated signals of the same shape, with gradients.
            condition: Condition ids, int ``[B]``, for discriminators that take them.

        Returns:
            The adversarial and the feature-matching term, scalars, already weighted: the objective is their sum.
        """
        with _frozen(self.discriminator):
            outputs = self.discriminator(fake, condition)
            with torch.no_grad():
                targets = self.discriminator(real, condition) if self.feature_weight else []
        loss = GENERATOR_LOSSES[self.loss]
        adversarial = self.weight * _reduce([loss(output.logits) for output in outputs], self.reduction)
        if not targets:
            return adversarial, adversarial.new_zeros(())
        return adversarial, self.feature_weight * feature_matching_loss(targets, outputs, self.reduction)


def _reduce(losses: list[Tensor], reduction: Literal["mean", "sum"]) -> Tensor:
    total = torch.stack(losses).sum()
    return total / len(losses) if reduction == "mean" else total


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the parameters inside: about a third of the backward pass is saved."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
