"""Cross-entropy of an output layer, a few rows at a time, so that the logits of all never lie in memory.

The gradients are made on the way forward, while a slice of logits is at hand, as in Hsu et al., "Liger Kernel: Efficient Triton
Kernels for LLM Training", 2024; here with PyTorch's own operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_VALUES = 2**22  # logits at a time


def linear_cross_entropy(features: Tensor, weight: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """Sum of the nats of targets given ``features @ weight.T``, each times its share, in float32.

    Args:
        features: ``[N, D]``.
        weight: ``[V, D]``.
        targets: int ``[N]``.
        shares: ``[N]``, without gradient.
    """
    total: Tensor = _LinearCrossEntropy.apply(features, weight, targets, shares.detach())
    return total


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        backward = any(ctx.needs_input_grad)
        by_features = torch.empty_like(features) if backward else None
        by_weight = torch.zeros_like(weight) if backward else None
        total = shares.new_zeros((), dtype=torch.float32)
        rows = max(1, _VALUES // len(weight))
        for at in range(0, len(features), rows):
            some, target = features[at : at + rows], targets[at : at + rows, None]
            share = shares[at : at + rows].float()
            logits = (some @ weight.T).float()
            logits.sub_(logits.amax(dim=1, keepdim=True))
            known = logits.gather(1, target)[:, 0]
            sums = logits.exp_().sum(dim=1)
            total += ((sums.log() - known) * share).sum()
            if by_features is not None and by_weight is not None:
                gradient = logits.mul_((share / sums)[:, None])
                gradient.scatter_add_(1, target, -share[:, None])
                gradient = gradient.to(some.dtype)
                by_features[at : at + rows] = gradient @ weight
                by_weight.add_(gradient.T @ some)
        if by_features is not None and by_weight is not None:
            ctx.save_for_backward(by_features, by_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_features, by_weight = ctx.saved_tensors
        return by_features * total, by_weight * total, None, None
