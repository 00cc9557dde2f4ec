"""Snake, the periodic activation of DAC and its descendants.

Ziyin et al., "Neural Networks Fail to Learn Periodic Functions and How to Fix It", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_EPS = 1e-9  # keeps a channel whose alpha reached zero finite


class Snake(nn.Module):
    """``x + sin(alpha * x)**2 / alpha`` with one learned ``alpha`` per channel.

    Args:
        channels: C.

    Shape:
        ``[B, C, N] -> [B, C, N]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.alpha + _EPS).reciprocal()
        if torch.is_grad_enabled():
            return x + scale * torch.sin(self.alpha * x).square()
        wave = torch.mul(x, self.alpha).sin_()  # one buffer for all steps: memory traffic is what this layer costs
        return wave.square_().mul_(scale).add_(x)
