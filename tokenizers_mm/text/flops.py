"""Floating-point operations of language models: what they are matched by when they are compared.

Two for each multiplication of a matrix product, those of attention over the whole square among them, as PyTorch's own counter has
it; backward counts twice as much as forward (Kaplan et al., "Scaling Laws for Neural Language Models", 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tokenizers_mm.text.model import TextLM


class _Count(TorchFunctionMode):
    """Adds up the products that pass through linear layers and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.linear:
            x, weight = args[:2]
            self.total += 2 * x.numel() * weight.shape[0]
        elif function is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            self.total += 2 * q.numel() // q.shape[-1] * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def training_flops(model: TextLM, signal: Tensor) -> int:
    """Operations of one training step on rows ``[B, L]`` of documents."""
    with _Count() as count:
        model.score(signal)
    return 3 * count.total
