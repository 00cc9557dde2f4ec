"""What a token language model gives back, and the negative log-likelihood of tokens under it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.lm.cache import Cache


@dataclass
class LMOutput:
    """What a forward pass found.

    Args:
        logits: float ``[B, L, V]``, those of step t for the token at t + 1.
        hidden_states: If asked for, layers + 1 times ``[B, L, D]``: the embeddings, then what each block gives. The last is the
            input of the final norm.
        attentions: If asked for, one ``[B, H, L, S]`` for each layer: shares of the S steps that there are with the cache's.
        past: The cache, if one was given, extended in place.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    past: Cache | None = None


@dataclass
class Trace:
    """Collects hidden states, and attentions where there is a list for them."""

    hidden: list[Tensor] = field(default_factory=list)
    attentions: list[Tensor] | None = None


def token_nll(logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Negative log-likelihood in nats of each token but the first, in float32.

    Args:
        logits: ``[B, L, V]``, those at t for the token at t + 1.
        ids: int ``[B, L]``.
        mask: Which tokens count, bool ``[B, L]``, or how much, float; all by default.

    Returns:
        ``[B, L - 1]``, times the mask.
    """
    ids = ids if mask is None else ids.where(mask != 0, 0)  # padding may be no id at all
    nll = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(
        ids[:, 1:]
    )
    return nll if mask is None else (nll * mask[:, 1:]).masked_fill(mask[:, 1:] == 0, 0)
