"""Adversarial training of any modality: discriminator outputs, GAN losses, and the bundle that a recipe names.

Hinge: Lim & Ye, "Geometric GAN" (2017), its generator term clamped as in SEANet (Tagliasacchi et al., 2020) or not. Least
squares: Mao et al., "Least Squares GAN" (2017). Non-saturating: Goodfellow et al., 2014. Feature matching: Kumar et al.,
"MelGAN" (2019). LeCAM: Tseng et al., "Regularizing Generative Adversarial Networks under Limited Data" (2021). R1: Mescheder et
al., "Which Training Methods for GANs do actually Converge?" (2018), every few turns as in StyleGAN2 (Karras et al., 2020).
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


def linear_generator_loss(fake: Tensor) -> Tensor:
    """``-mean(fake)``: the hinge game's generator as published, which never stops pushing."""
    return -fake.mean()


def non_saturating_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross entropy, ``mean(softplus(-real)) + mean(softplus(fake))``."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """``mean(softplus(-fake))``."""
    return F.softplus(-fake).mean()


def patch_mean_generator_loss(fake: Tensor) -> Tensor:
    """``mean(softplus(-logit))`` of each item's mean logit, as Open-MAGVIT2 and IBQ train against a hinge discriminator."""
    return F.softplus(-fake.flatten(1).mean(dim=1)).mean()


Loss = Literal["hinge", "hinge_linear", "hinge_patch_mean", "least_squares", "non_saturating"]
DISCRIMINATOR_LOSSES = {
    "hinge": hinge_discriminator_loss,
    "hinge_linear": hinge_discriminator_loss,
    "hinge_patch_mean": hinge_discriminator_loss,
    "least_squares": least_squares_discriminator_loss,
    "non_saturating": non_saturating_discriminator_loss,
}
GENERATOR_LOSSES = {
    "hinge": hinge_generator_loss,
    "hinge_linear": linear_generator_loss,
    "hinge_patch_mean": patch_mean_generator_loss,
    "least_squares": least_squares_generator_loss,
    "non_saturating": non_saturating_generator_loss,
}
LECAM_DECAY = 0.999


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
        loss: The game: ``hinge`` (generator clamped), ``hinge_linear`` (as published; taming, LlamaGen), ``hinge_patch_mean``
            (Open-MAGVIT2, IBQ), ``least_squares``, or ``non_saturating`` (StyleGAN2, BSQ-ViT).
        reduction: How the losses of the sub-discriminators combine.
        weight: Weight of the adversarial term in the generator's objective, not in the discriminator's own.
        feature_weight: Weight of the feature-matching term; 0 spares a pass over the real signals.
        frozen_random: Never train the discriminator: its random features still guide the generator, as they did in the
            training of the published WavTokenizer, whose composite discriminator was in no optimiser.
        lecam_weight: Weight of LeCAM in the discriminator's objective: its logits must not run away from the moving average of
            the other side's, which helps where data are few.
        r1_weight: Weight (gamma) of the R1 penalty, half the squared gradient of the logits at real signals.
        r1_every: Turns of the discriminator between two penalties, each that many times as heavy.

    Raises:
        ValueError: If ``loss`` or ``reduction`` is unknown, a weight is negative, ``r1_every`` is not positive, or R1 is asked
            for with batch normalisation, which makes the gradient of one item that of all.
    """

    lecam_means: Tensor
    r1_turns: Tensor

    def __init__(
        self,
        discriminator: nn.Module,
        loss: Loss = "hinge",
        reduction: Literal["mean", "sum"] = "mean",
        weight: float = 1.0,
        feature_weight: float = 1.0,
        frozen_random: bool = False,
        lecam_weight: float = 0.0,
        r1_weight: float = 0.0,
        r1_every: int = 16,
    ) -> None:
        super().__init__()
        if loss not in GENERATOR_LOSSES:
            raise ValueError(f"loss must be one of {sorted(GENERATOR_LOSSES)}, got {loss!r}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        if min(weight, feature_weight, lecam_weight, r1_weight) < 0:
            given = f"{weight}, {feature_weight}, {lecam_weight} and {r1_weight}"
            raise ValueError(f"weight, feature_weight, lecam_weight and r1_weight must be >= 0, got {given}")
        if r1_every < 1:
            raise ValueError(f"r1_every must be at least 1, got {r1_every}")
        if r1_weight and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in discriminator.modules()):
            raise ValueError(
                "r1_weight needs a discriminator without batch normalisation, e.g. with normalisation per group"
            )
        self.discriminator = discriminator
        self.loss = loss
        self.reduction: Literal["mean", "sum"] = reduction
        self.weight = weight
        self.feature_weight = feature_weight
        self.frozen_random = frozen_random
        self.lecam_weight, self.r1_weight, self.r1_every = lecam_weight, r1_weight, r1_every
        if lecam_weight:
            self.register_buffer("lecam_means", torch.zeros(2))  # moving averages of the real and the fake logits
        if r1_weight:
            self.register_buffer("r1_turns", torch.zeros((), dtype=torch.long))
        if frozen_random:
            self.discriminator.requires_grad_(False)

    def discriminator_loss(self, real: Tensor, fake: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the discriminator minimises: the game and, where they have a weight, LeCAM and R1.

        Args:
            real: Real signals.
            fake: Generated signals of the same shape; detached here.
            condition: Condition ids, int ``[B]``, for discriminators that take them.

        Returns:
            Scalar; a constant zero, at no cost, where the discriminator is frozen.
        """
        if self.frozen_random:
            return real.new_zeros(())
        reals, fakes = self.discriminator(real, condition), self.discriminator(fake.detach(), condition)
        loss = DISCRIMINATOR_LOSSES[self.loss]
        pairs = zip(reals, fakes, strict=True)
        total = _reduce([loss(r.logits, f.logits) for r, f in pairs], self.reduction)
        if self.lecam_weight:
            total = total + self.lecam_weight * self._lecam(_mean_logit(reals), _mean_logit(fakes))
        if self.r1_weight:
            if int(self.r1_turns) % self.r1_every == 0:
                total = total + self.r1_every * self.r1_weight / 2 * self._r1(real, condition)
            self.r1_turns += 1
        return total

    def _lecam(self, real: Tensor, fake: Tensor) -> Tensor:
        """The penalty against the averages so far, which then move."""
        average_real, average_fake = self.lecam_means.clone().unbind()
        penalty = F.relu(real - average_fake).square() + F.relu(average_real - fake).square()
        self.lecam_means.lerp_(torch.stack([real, fake]).detach().float(), 1 - LECAM_DECAY)
        return penalty

    def _r1(self, real: Tensor, condition: Tensor | None) -> Tensor:
        """Mean squared norm of the logits' gradient at real signals, itself with a gradient."""
        with torch.autocast(real.device.type, enabled=False):
            real = real.detach().float().requires_grad_()
            logits = torch.stack([output.logits.sum() for output in self.discriminator(real, condition)]).sum()
            (gradient,) = torch.autograd.grad(logits, real, create_graph=True)
        return gradient.square().flatten(1).sum(dim=1).mean()

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


def _mean_logit(outputs: Sequence[DiscriminatorOutput]) -> Tensor:
    return torch.stack([output.logits.float().mean() for output in outputs]).mean()


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
