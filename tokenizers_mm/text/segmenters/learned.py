"""H-Net's routing: a chunk begins where neighbouring states of an encoder point in different directions.

Hwang, Wang and Gu, "Dynamic Chunking for End-to-End Hierarchical Sequence Modeling", 2025. Here are the router, its ratio loss
and the smoothing that puts chunks back in place, for models that learn where to cut; and the segmenter that a trained router is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.text.segmenters.base import Segmenter

_LEAST = 1e-4  # probabilities are kept this far from 0 and 1 in the smoothing


class Router(nn.Module):
    """Probability that a chunk begins at each position, from states of an encoder.

    Args:
        dim: Width of the states.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        with torch.no_grad():  # at first neighbours are compared as they are
            self.query.weight.copy_(torch.eye(dim))
            self.key.weight.copy_(torch.eye(dim))

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """Probabilities ``[..., N]`` of states ``[..., N, D]``; 1 at position 0 and where ``first [..., N]`` says that a document
        begins."""
        alike = F.cosine_similarity(self.query(x[..., :-1, :]), self.key(x[..., 1:, :]), dim=-1)
        p = F.pad((1 - alike) / 2, (1, 0), value=1.0).clamp(0, 1)
        return p if first is None else p.masked_fill(first, 1.0)


def ratio_loss(p: Tensor, chosen: Tensor, target: float) -> Tensor:
    """H-Net's loss that holds the mean chunk at ``target`` positions: 1 where a ``1 / target`` share is chosen.

    Args:
        p: Probabilities of a boundary, any shape.
        chosen: Where there is one, bool.
        target: Wanted positions per chunk, above 1.
    """
    share, mean = chosen.to(p.dtype).mean(), p.mean()
    return target / (target - 1) * ((target - 1) * share * mean + (1 - share) * (1 - mean))


def dechunk(z: Tensor, p: Tensor, chosen: Tensor) -> Tensor:
    """Chunks smoothed by their probabilities, and each repeated at its positions.

    Args:
        z: Chunk states ``[C, D]``, in order.
        p: Probability at each position ``[N]``.
        chosen: Which positions begin a chunk, bool ``[N]``; the first does.

    Returns:
        ``[N, D]``: the exponential moving average ``y_t = P_t z_t + (1 - P_t) y_(t-1)`` of the chunk that each position is in.
    """
    weight = p[chosen].clamp(_LEAST, 1 - _LEAST)[:, None].to(z.dtype)
    smooth = [z[0]]
    for step in range(1, len(z)):
        smooth.append(weight[step] * z[step] + (1 - weight[step]) * smooth[-1])
    return torch.stack(smooth)[chosen.long().cumsum(0) - 1]


def straight_through(p: Tensor, chosen: Tensor) -> Tensor:
    """Ones with the gradient of each position's confidence: ``p`` where a chunk begins, else ``1 - p``."""
    confidence = torch.where(chosen, p, 1 - p)
    return confidence + (1 - confidence).detach()


class Learned(Segmenter):
    """A trained router as a segmenter: a chunk begins where its probability is above one half.

    Args:
        states: Encoder: bytes to causal states ``[N, D]``.
        router: Of the same width.
        max_bytes: Longest chunk (see :class:`Segmenter`).
    """

    def __init__(self, states: Callable[[bytes], Tensor], router: Router, max_bytes: int | None = None) -> None:
        super().__init__(max_bytes)
        self.states, self.router = states, router

    @torch.no_grad()
    def word_starts(self, data: bytes) -> np.ndarray:
        if not data:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero((self.router(self.states(data)) > 0.5).cpu().numpy())

    def settled(self, data: bytes) -> tuple[np.ndarray, int]:
        return self.word_starts(data), len(data)

    def restart(self, data: bytes, starts: np.ndarray) -> int:
        return 0  # a state depends on all bytes before it
