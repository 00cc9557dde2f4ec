"""Anomaly scores from tokens: how unlikely a model of a codec's tokens finds each of them, given those before.

Any model that predicts tokens will do; :class:`Bigram` needs no training, as it learns from the series while it reads it.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizers_mm.codec import Codec
from tokenizers_mm.timeseries.anomaly.prepare import prepared
from tokenizers_mm.timeseries.windows import standardise


class TokenModel(Protocol):
    """A model of sequences of ids."""

    definition: str
    module: nn.Module | None

    def log_likelihood(self, ids: Tensor, size: int) -> Tensor:
        """Natural log of the probability of each id, given those before it.

        Args:
            ids: int64 ``[R, T]``, a sequence per row.
            size: How many different ids there are.

        Returns:
            ``[R, T]``.
        """
        ...


class TokenLikelihood:
    """``-log p(token | past)`` of a codec's tokens, spread over the samples that each stands for, mean over variates.

    Args:
        codec: Of series, with a fixed number of samples per step.
        model: Of its tokens.

    Raises:
        ValueError: If the codec's steps have no fixed length.
    """

    def __init__(self, codec: Codec, model: TokenModel) -> None:
        if codec.spec.hop is None or codec.signal_ndim != 3:
            raise ValueError(f"codec must be one of series with a fixed number of samples per step, got {codec.spec}")
        self.codec, self.model = codec, model
        self.module: nn.Module | None = codec
        self.definition = f"Negative log-likelihood of {type(codec).__name__}'s tokens: {model.definition}"

    def score(self, signal: Tensor) -> Tensor:
        """Nats per token ``[N]`` of ``[C, N]``."""
        x = standardise(prepared(signal))
        parts = x[:, None] if self.codec.spec.channels == 1 else x[None]
        tokens = self.codec.encode(parts).to("cpu")
        steps = tokens.shapes[0, -1].item()
        rows = rearrange(tokens.ids, "b (r t) q -> (b r) t q", t=steps)
        nats = torch.zeros(rows.shape[:2])
        for column, size in enumerate(self.codec.spec.codebook_sizes):
            nats -= self.model.log_likelihood(rows[..., column], size).cpu()
        assert self.codec.spec.hop is not None
        return nats.mean(dim=0).repeat_interleave(self.codec.spec.hop[-1])[: x.shape[-1]]


class Bigram:
    """Counts of pairs seen so far in the same sequence, smoothed by counts of single ids, those by an even chance.

    Args:
        weight: How many observations the smoothing counts for.
    """

    module: nn.Module | None = None

    def __init__(self, weight: float = 2.0) -> None:
        if not weight > 0:
            raise ValueError(f"weight must be above 0, got {weight}")
        self.weight = weight
        self.definition = f"bigram counts of the series so far, smoothed with weight {weight:g}"

    def log_likelihood(self, ids: Tensor, size: int) -> Tensor:
        """See :class:`TokenModel`."""
        return torch.tensor([self._row(row, size) for row in ids.tolist()])

    def _row(self, ids: list[int], size: int) -> list[float]:
        singles: Counter[int] = Counter()
        pairs: Counter[tuple[int, int]] = Counter()
        contexts: Counter[int] = Counter()
        found, last = [], -1
        for position, value in enumerate(ids):
            single = (singles[value] + self.weight / size) / (position + self.weight)
            both = (pairs[last, value] + self.weight * single) / (contexts[last] + self.weight)
            found.append(math.log(both))
            singles[value] += 1
            pairs[last, value] += 1
            contexts[last] += 1
            last = value
        return found


class CausalModel:
    """A network ``ids [R, T] -> logits [R, T, V]`` whose outputs at a position predict the next.

    Args:
        network: The network.
        start: Id that stands before the first.
        context: Most ids that it sees before one; longer sequences go through in pieces that overlap by half.
    """

    def __init__(self, network: nn.Module, start: int, context: int = 1024) -> None:
        if context < 2:
            raise ValueError(f"context must be at least 2, got {context}")
        self.module: nn.Module | None = network
        self.network, self.start, self.context = network, start, context
        self.definition = f"{type(network).__name__} with a context of {context} tokens"

    @torch.inference_mode()
    def log_likelihood(self, ids: Tensor, size: int) -> Tensor:
        """See :class:`TokenModel`."""
        before = torch.cat([ids.new_full((len(ids), 1), self.start), ids[:, :-1]], dim=1)
        found = torch.zeros(ids.shape)
        half = self.context // 2
        for first in range(0, ids.shape[1], half):
            begin, end = max(0, first - half), min(first + half, ids.shape[1])
            logits = self.network(before[:, begin:end]).float().log_softmax(dim=-1)
            chosen = logits.gather(-1, ids[:, begin:end, None])[..., 0]
            found[:, first:end] = chosen[:, first - begin :].cpu()
        return found
