"""Learning rate: linear warm-up, then half a cosine (Loshchilov & Hutter, "SGDR", 2017), counted in steps of one optimiser."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: float, floor: float = 0.0) -> float:
    """Factor of the learning rate at a step.

    Args:
        step: Steps that this optimiser has made so far.
        warmup_steps: Steps until the factor reaches 1; the first step has ``1 / warmup_steps``.
        total_steps: Steps of the whole run; infinity keeps the factor at 1 after the warm-up.
        floor: Factor at ``total_steps`` and after.

    Returns:
        A number in [floor, 1] after the warm-up, in (0, 1] during it.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if math.isinf(total_steps):
        return 1.0
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def build_scheduler(optimizer: Optimizer, *, warmup_steps: int, total_steps: float, min_lr: float) -> LambdaLR:
    """A scheduler to be stepped after every step of ``optimizer``; each parameter group decays to ``min_lr``.

    Raises:
        ValueError: If ``warmup_steps`` or ``min_lr`` is negative, or ``min_lr`` exceeds a group's rate.
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be >= 0, got {warmup_steps}")
    rates = [group["lr"] for group in optimizer.param_groups]
    if min_lr < 0 or min_lr > min(rates):
        raise ValueError(f"min_lr must be between 0 and the learning rate {min(rates):g}, got {min_lr:g}")

    def factor(floor: float):
        return lambda step: warmup_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps, floor=floor)

    return LambdaLR(optimizer, [factor(min_lr / rate if rate else 0.0) for rate in rates])


def planned_steps(module: LightningModule) -> float:
    """Optimiser steps of the whole run: the trainer's ``max_steps``, or what its ``max_epochs`` come to."""
    steps = module.trainer.max_steps
    return float(steps if steps > 0 else module.trainer.estimated_stepping_batches)


def scheduled(module: LightningModule, optimizer: Optimizer, warmup_steps: int, min_lr: float | None) -> dict[str, Any]:
    """What ``configure_optimizers`` of a module with one optimiser returns; without ``min_lr`` the rate stays as it is."""
    total = math.inf if min_lr is None else planned_steps(module)
    scheduler = build_scheduler(optimizer, warmup_steps=warmup_steps, total_steps=total, min_lr=min_lr or 0.0)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}
