"""From logits to probabilities to ids: every step a pure function, applied in one fixed order.

Guidance (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022) on raw logits, the vocabulary of the step, penalties,
temperature, top-k, top-p (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020), min-p (Nguyen et al., "Turning
Up the Heat", 2024), softmax in float32. Draws are exponential races, for which the host never waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenizers_mm.checks import at_least

Generators = torch.Generator | Sequence[torch.Generator] | None
"""Of draws: one for all rows, or one for each, so that a row's draws do not depend on the batch's."""


@dataclass(frozen=True)
class Sampling:
    """How ids are drawn.

    Args:
        temperature: Of the softmax; 0 takes the likeliest.
        top_k: Draw only from so many of the likeliest, and those as likely as the last; None or 0 for all.
        top_p: Draw only from the likeliest that together reach this probability; at least one.
        min_p: Draw only from those at least this share as likely as the likeliest.
        repetition_penalty: Divides the positive logits of ids that were drawn before in this lane and multiplies negative ones
            (Keskar et al., "CTRL", 2019).
        guidance: Scale s of ``u + s (c - u)`` with conditional and unconditional logits c and u: one, or one for each step, the
            last for all after.
        guidance_steps: First step that is guided and the first that is not any more; all by default.

    Raises:
        ValueError: If a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    guidance: float | tuple[float, ...] = 1.0
    guidance_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        at_least(0, temperature=self.temperature, top_k=self.top_k)
        if not (0 <= self.top_p <= 1 and 0 <= self.min_p <= 1 and self.repetition_penalty > 0):
            raise ValueError(
                "top_p and min_p must be in [0, 1] and repetition_penalty positive, got "
                f"{self.top_p}, {self.min_p}, {self.repetition_penalty}"
            )
        if isinstance(self.guidance, Sequence) and not self.guidance:
            raise ValueError("guidance must be a scale or at least one, got none")

    @property
    def guides(self) -> bool:
        """Whether any step needs unconditional logits."""
        scales = self.guidance if isinstance(self.guidance, Sequence) else (self.guidance,)
        return any(scale != 1 for scale in scales)

    def scale(self, step: int) -> float:
        """Of the guidance at a step; 1 where there is none."""
        if self.guidance_steps is not None and not self.guidance_steps[0] <= step < self.guidance_steps[1]:
            return 1.0
        if isinstance(self.guidance, Sequence):
            return self.guidance[min(step, len(self.guidance) - 1)]
        return self.guidance


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Logits ``[..., V]`` pushed away from the unconditional ones; with scale 1 the conditional ones as they are."""
    return conditional if scale == 1 else unconditional + scale * (conditional - unconditional)


def restrict(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits ``[B, V]`` of the ids in ``allowed``, bool ``[B or 1, V]``, the others impossible."""
    return logits.masked_fill(~allowed, -torch.inf)


def discourage(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Logits ``[B, V]``, those of ``ids [B, n]`` lowered: divided by the penalty where positive, multiplied where negative."""
    found = logits.gather(-1, ids)
    return logits.scatter(-1, ids, torch.where(found > 0, found / penalty, found * penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits and those that equal the last of them."""
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The likeliest until they reach probability p together, the one that crosses it among them."""
    ranked, order = logits.float().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    late = ranked.cumsum(dim=-1) - ranked >= p
    late[..., 0] = False
    return logits.masked_fill(torch.zeros_like(late).scatter(-1, order, late), -torch.inf)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Those at least ``share`` times as likely as the likeliest."""
    p = logits.float().softmax(dim=-1)
    return logits.masked_fill(p < share * p.amax(dim=-1, keepdim=True), -torch.inf)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Of each id, float32 ``[..., V]``: temperature, top-k, top-p, min-p, softmax; temperature 0 gives the likeliest all."""
    if sampling.temperature == 0:
        return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits.float() / max(sampling.temperature, 1e-5)
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        logits = keep_min_p(logits, sampling.min_p)
    return logits.softmax(dim=-1)


def pick(p: Tensor, generators: Generators = None) -> Tensor:
    """Ids drawn with probabilities ``p [..., V]``: the first to come when each waits Exp(p), which ``p / Exp(1)`` orders.

    Raises:
        ValueError: If there is not one generator, or one for each row.
    """
    return (p / waits(p, generators)).argmax(dim=-1)


def waits(like: Tensor, generators: Generators = None) -> Tensor:
    """Draws of Exp(1) like ``[B, ...]`` numbers; like ids, in float32.

    Raises:
        ValueError: If there is not one generator, or one for each row.
    """
    rows = torch.empty_like(like, dtype=like.dtype if like.is_floating_point() else torch.float32)
    if generators is None or isinstance(generators, torch.Generator):
        return rows.exponential_(generator=generators)
    if len(generators) != len(rows):
        raise ValueError(f"generators must be one, or one for each of {len(rows)} rows, got {len(generators)}")
    for row, each in zip(rows, generators, strict=True):
        row.exponential_(generator=each)
    return rows


def draw(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One id per row of ``logits [..., V]``; arguments as in :class:`Sampling`."""
    return choose(logits, Sampling(temperature, top_k, top_p), generator)


def choose(logits: Tensor, sampling: Sampling, generators: Generators = None) -> Tensor:
    """One id per row of ``logits [..., V]``."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    return pick(probabilities(logits, sampling), generators)
