"""Exponential moving average of a module's weights (Polyak & Juditsky, 1992), with the warm-up of TensorFlow and timm."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """A second copy of a module that follows it slowly; always in evaluation mode, never trained.

    Floating-point buffers (codebooks, running statistics) are averaged like weights, so that the averaged encoder meets the
    averaged codebook; other buffers are copied. Its state is part of the checkpoint, so a resumed run averages on exactly.

    Args:
        module: The module to follow; copied.
        decay: Share of the old average that a late update keeps. Update n keeps ``min(decay, (1 + n) / (10 + n))``, so that the
            random start is forgotten quickly.

    Raises:
        ValueError: If ``decay`` is outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Move one step towards ``source``, the module that this one was copied from."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, values = [], []
        for average, value in zip(_tensors(self.module), _tensors(source), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value.detach())
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1 - keep)
        self.updates += 1

    @torch.no_grad()
    def reset(self, source: nn.Module) -> None:
        """Start anew at the weights of ``source``."""
        for average, value in zip(_tensors(self.module), _tensors(source), strict=True):
            average.copy_(value)
        self.updates = 0

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def get_extra_state(self) -> int:
        return self.updates

    def set_extra_state(self, state: Any) -> None:
        self.updates = int(state)


def _tensors(module: nn.Module) -> chain[Tensor]:
    return chain(module.parameters(), module.buffers())
