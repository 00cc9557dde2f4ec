"""Ids of single channels, folded into the batch, to and from the grid of channels and time that EEG tokens are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from tokenizers_mm.tokens import Tokens, TokenSpec


def fold(x: Tensor) -> Tensor:
    """Signals ``[B, C, N]`` with every channel an item of its own, ``[B * C, 1, N]``."""
    return rearrange(x, "b c n -> (b c) 1 n")


def pack(ids: Tensor, spec: TokenSpec, steps: Sequence[int]) -> Tokens:
    """Tokens of ids ``[B, C, T, Q]`` of which item b's first ``steps[b]`` are valid.

    Items that are shorter than T move together, because a grid fills the first steps of its row.
    """
    batch, channels, longest, _ = ids.shape
    shapes = torch.tensor([[channels, n] for n in steps], device=ids.device).reshape(batch, 2)
    if all(n == longest for n in steps):
        return Tokens(rearrange(ids, "b c t q -> b (c t) q"), spec, shapes=shapes)
    packed = torch.zeros_like(ids).flatten(1, 2)
    for row, item, n in zip(packed, ids, steps, strict=True):
        row[: channels * n] = item[:, :n].flatten(0, 1)
    return Tokens(packed, spec, shapes=shapes)


def unpack(tokens: Tokens) -> Tensor:
    """Ids ``[B, C, T, Q]`` of items of equal grids."""
    return rearrange(tokens.ids, "b (c t) q -> b c t q", c=tokens.shape[0], t=tokens.shape[1])
