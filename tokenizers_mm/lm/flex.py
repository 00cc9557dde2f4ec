"""Rows of several documents by FlexAttention, which skips what no step sees and keeps no mask of L x L in memory.

Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention Kernels", 2024, in PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


def usable(x: Tensor) -> bool:
    """Whether it can stand in for attention with a mask: on GPUs. On CPUs it has no gradients, and is slow."""
    return x.is_cuda


def document_mask(documents: Tensor, groups: Tensor | None, *, causal: bool, window: int | None) -> BlockMask:
    """Which steps see which; arguments as of :class:`~tokenizers_mm.lm.transformer.Transformer` and its ``packed``."""

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = documents[row, query] == documents[row, key]
        if groups is not None:
            return seen & (groups[row, key] <= groups[row, query])
        seen = seen & (key <= query) if causal else seen
        return seen if window is None else seen & (key > query - window)

    make: Callable[..., BlockMask] = _compiled(create_block_mask) if documents.is_cuda else create_block_mask
    rows, steps = documents.shape
    return make(sees, rows, None, steps, steps, device=documents.device)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    """Attention of queries ``[B, H, L, D]`` to keys and values ``[B, G, L, D]``, H a multiple of G."""
    attention = _compiled(flex_attention) if q.is_cuda else cast(Callable[..., Any], flex_attention)
    found: Tensor = attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return found


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """On GPUs both need it: as they come they compute all of L x L."""
    return torch.compile(function)
