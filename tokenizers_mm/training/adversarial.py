"""Train any codec on reconstruction losses and against discriminators.

The order of WavTokenizer (Ji et al., 2025): discriminators first, on the detached reconstruction, then the codec. Ours runs
the codec once per batch for both, gives each optimiser its own schedule, and trains every discriminator that is not frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tokenizers_mm.codec import Codec
from tokenizers_mm.nn.adversarial import Adversary
from tokenizers_mm.quantizers import synchronize
from tokenizers_mm.training.autoencoder import validate
from tokenizers_mm.training.objective import Objective, clip_gradients, require_finite
from tokenizers_mm.training.schedule import build_scheduler, planned_steps


class AdversarialModule(LightningModule):
    """A codec, its losses, its adversaries and two optimisers.

    ``global_step``, the trainer's ``max_steps``, checkpoints and logs count the codec's steps: a step of the discriminators
    is not counted. Each optimiser's cosine runs over its own steps. Across several processes adversarial training needs the
    strategy ``ddp_find_unused_parameters_true``, for each backward pass reaches only one side.

    Logs what :class:`~tokenizers_mm.training.autoencoder.AutoencoderModule` logs and, per adversary,
    ``train/discriminator/<name>``, ``train/adversarial/<name>`` and ``train/features/<name>`` (the latter two weighted).

    Args:
        codec: The codec to train.
        losses: Reconstruction losses by name, each ``loss(estimate, reference) -> scalar``.
        adversaries: Discriminators with their games, by name.
        loss_weights: Weight of each loss; 1 where none is given.
        quantizer_weight: Weight of the codec's quantizer loss (commitment, entropy).
        optimizer: Makes the optimiser of the codec's parameters.
        discriminator_optimizer: Makes the optimiser of all trainable discriminators; None makes another ``optimizer``.
        warmup_steps: Steps of linear warm-up of either optimiser; a cosine follows.
        min_lr: Learning rate at the end of the cosine.
        gradient_clip: Largest total norm of either side's gradients; None for no clipping.
        ema_decay: Decay of the weight average used in validation and export; None for no average.
        init_from: Start from the weights of this codec: a folder, a card's name, or ``hf:owner/name``.
        discriminator_start: First step of the adversarial game; before it its terms are zero.
        generator_start: First step at which the codec hears the adversaries, where that is to be later: discriminators that
            trained alone for a while spare it their first, random opinions.
        adaptive_cap: Scale each adversarial term so that its gradient at the codec's ``last_layer`` is as long as that of the
            reconstruction losses (times the adversary's weight), by a factor of at most this; None scales nothing. VQGAN
            (Esser et al., 2021) has 10000, and a weight of 0.8.
        discriminator_every: Steps between updates of the discriminators.
        discriminator_segment: The adversaries see a random crop of this many samples along every axis past the channels; None
            shows them everything.
        num_conditions: Draw a condition id below this for each optimiser's turn, for conditional discriminators.
    """

    def __init__(
        self,
        codec: Codec,
        losses: dict[str, nn.Module],
        adversaries: dict[str, Adversary],
        loss_weights: dict[str, float] | None = None,
        quantizer_weight: float = 1.0,
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=2e-4),
        discriminator_optimizer: OptimizerCallable | None = None,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        gradient_clip: float | None = None,
        ema_decay: float | None = 0.999,
        init_from: str | None = None,
        discriminator_start: int = 0,
        discriminator_every: int = 1,
        discriminator_segment: int | None = None,
        num_conditions: int = 1,
        generator_start: int = 0,
        adaptive_cap: float | None = None,
    ) -> None:
        super().__init__()
        if not adversaries:
            raise ValueError("adversaries must name at least one adversary; without one train an AutoencoderModule")
        for name, value in {"discriminator_every": discriminator_every, "num_conditions": num_conditions}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if adaptive_cap is not None and (adaptive_cap <= 0 or not hasattr(codec, "last_layer")):
            raise ValueError(
                f"adaptive_cap must be positive and needs a codec with a last_layer, "
                f"got {adaptive_cap:g} with {type(codec).__name__}"
            )
        self.automatic_optimization = False
        self.objective = Objective(codec, losses, loss_weights, quantizer_weight, ema_decay)
        self.adversaries = nn.ModuleDict(adversaries)
        self.make_optimizer = optimizer
        self.make_discriminator_optimizer = discriminator_optimizer or optimizer
        self.warmup_steps, self.min_lr, self.gradient_clip = warmup_steps, min_lr, gradient_clip
        self.init_from = init_from
        self.discriminator_start, self.discriminator_every = discriminator_start, discriminator_every
        self.discriminator_segment, self.num_conditions = discriminator_segment, num_conditions
        self.generator_start, self.adaptive_cap = generator_start, adaptive_cap

    @property
    def codec(self) -> Codec:
        """The codec to export."""
        return self.objective.best_codec

    def setup(self, stage: str) -> None:
        synchronize(self.objective.codec, self.trainer.world_size > 1)
        if stage == "fit" and self.init_from and self.trainer.ckpt_path is None:
            self.objective.load_codec(self.init_from)

    def configure_optimizers(self) -> Any:
        """The codec's optimiser and, unless every discriminator is frozen, the discriminators'."""
        steps = planned_steps(self)
        optimizers = [self.make_optimizer(_trainable(self.objective.codec))]
        horizons, names = [steps], ["lr"]
        if parameters := _trainable(self.adversaries):
            optimizers.append(self.make_discriminator_optimizer(parameters))
            horizons.append(max(1.0, -((self.discriminator_start - steps) // self.discriminator_every)))
            names.append("lr_discriminator")
        schedulers = [
            build_scheduler(optimizer, warmup_steps=self.warmup_steps, total_steps=horizon, min_lr=self.min_lr)
            for optimizer, horizon in zip(optimizers, horizons, strict=True)
        ]
        return optimizers, [{"scheduler": s, "name": name} for s, name in zip(schedulers, names, strict=True)]

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        result = self.objective(batch)
        loss, turn = result.loss, self.global_step - self.discriminator_start
        if turn >= 0:
            real, fake = random_crop(result.real, result.fake, self.discriminator_segment)
            if turn % self.discriminator_every == 0:
                self._discriminator_turn(real, fake.detach())
            if self.global_step >= self.generator_start:
                loss = loss + self._generator_terms(real, fake, loss)
        require_finite(loss.detach(), result.terms, self.global_step)
        self._optimize(0, loss)
        self.objective.update_average()
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in result.terms.items()})
        return {"loss": loss.detach(), "ids": result.ids}

    def _discriminator_turn(self, real: Tensor, fake: Tensor) -> None:
        if len(self.trainer.optimizers) == 1:
            return
        condition = self._draw_condition(real)
        terms = {name: a.discriminator_loss(real, fake, condition) for name, a in self._games()}
        self._optimize(1, torch.stack(list(terms.values())).sum())
        self.log_dict({f"train/discriminator/{name}": value.detach() for name, value in terms.items()})

    def _generator_terms(self, real: Tensor, fake: Tensor, reconstruction: Tensor) -> Tensor:
        condition = self._draw_condition(real)
        total = fake.new_zeros(())
        for name, adversary in self._games():
            adversarial, features = adversary.generator_loss(real, fake, condition)
            if self.adaptive_cap is not None and adversary.weight:
                scale = self._adaptive_scale(reconstruction, adversarial / adversary.weight)
                adversarial = scale * adversarial
                self.log(f"train/adaptive/{name}", scale)
            total = total + adversarial + features
            self.log(f"train/adversarial/{name}", adversarial.detach())
            self.log(f"train/features/{name}", features.detach())
        return total

    def _adaptive_scale(self, reconstruction: Tensor, adversarial: Tensor) -> Tensor:
        """How many times longer the reconstruction's gradient is at the last layer; the quantizer's loss has none there."""
        layer = cast(Tensor, self.objective.codec.last_layer)
        lengths = [
            torch.autograd.grad(term, layer, retain_graph=True)[0].float().norm()
            for term in (reconstruction, adversarial)
        ]
        return (lengths[0] / (lengths[1] + 1e-4)).clamp(max=self.adaptive_cap)

    def _games(self) -> list[tuple[str, Adversary]]:
        return [(name, cast(Adversary, adversary)) for name, adversary in self.adversaries.items()]

    def _draw_condition(self, x: Tensor) -> Tensor:
        """One id for the whole batch, ``[B]``."""
        return torch.randint(self.num_conditions, (1,)).to(x.device).expand(len(x))

    def _optimize(self, index: int, loss: Tensor) -> None:
        """One step of the codec's optimiser (0) or the discriminators' (1), and of its schedule."""
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        optimizer = cast(LightningOptimizer, optimizers[index] if isinstance(optimizers, list) else optimizers)
        scheduler: Any = schedulers[index] if isinstance(schedulers, list) else schedulers
        optimizer.zero_grad()
        self.manual_backward(loss)
        if index == 0:
            optimizer.step()
        else:  # past Lightning's wrapper, which would count this step in global_step
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        scheduler.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the side whose turn it is and log the norm of its gradients."""
        codecs_turn = optimizer is self.trainer.optimizers[0]
        side: nn.Module = self.objective.codec if codecs_turn else self.adversaries
        name = "train/grad_norm" if codecs_turn else "train/grad_norm_discriminator"
        self.log(name, clip_gradients(side.parameters(), self.gradient_clip))

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return validate(self, self.objective, batch)


def random_crop(real: Tensor, fake: Tensor, size: int | None) -> tuple[Tensor, Tensor]:
    """The same random window of two signals ``[B, C, ...]``: at most ``size`` samples along every axis past the channels."""
    if size is None:
        return real, fake
    for axis in range(2, real.ndim):
        length = min(size, real.shape[axis])
        start = int(torch.randint(real.shape[axis] - length + 1, ()))
        real, fake = real.narrow(axis, start, length), fake.narrow(axis, start, length)
    return real, fake


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
