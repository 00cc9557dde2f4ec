"""The generate loop: prompts to ids, step by step and lane by lane, for whatever model keeps to a small protocol.

What happens to logits, and in which order, is in :mod:`tokenizers_mm.lm.processors`. With guidance (Ho and Salimans, 2022) the
unconditional rows stand behind the conditional ones in one batch, and both read the same drawn ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tokenizers_mm.lm.cache import Cache
from tokenizers_mm.lm.processors import Generators, Sampling, choose, discourage, draw, guide, restrict

__all__ = ["Generated", "Generates", "Generators", "Mask", "Penalty", "Sampling", "draw", "generate"]

Mask = Callable[[int, int, Tensor], Tensor]
"""Of a step, a lane and the ids so far ``[B, steps, lanes]``: which ids may come, bool ``[B or 1, V]``."""
Penalty = Callable[[int, int, Tensor, Tensor], Tensor]
"""Of the same and logits ``[B, V]``: other logits."""


class Generates(Protocol):
    """What :func:`generate` needs of a model. A step has one or more lanes: parallel streams, codebooks."""

    def prefill(self, ids: Tensor, valid: Tensor | None, capacity: int) -> tuple[Tensor, Cache]:
        """Read prompts.

        Args:
            ids: int64 ``[B, S, lanes]``, or what else the model's prompts are, with batch and steps in front.
            valid: Which steps are real, bool ``[B, S]``, padding on the left; all by default.
            capacity: Steps that there will be with the new ones.

        Returns:
            Features ``[B, D]`` of the last step, and the cache.
        """

    def advance(self, ids: Tensor, cache: Cache) -> Tensor:
        """Features ``[B, D]`` of the step after ``ids [B, lanes]``."""

    def read(self, hidden: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Ids ``[B, lanes]`` after features ``[B, D]``: ``choose(lane, logits [B, V])`` gives those of each lane in turn."""


@dataclass
class Generated:
    """What was generated.

    Args:
        ids: int64 ``[B, steps, lanes]``; 0 where a row had ended.
        lengths: Steps of each row, the one that ended it among them, int64 ``[B]``.
    """

    ids: Tensor
    lengths: Tensor


@torch.no_grad()
def generate(
    model: Generates,
    ids: Tensor,
    steps: int,
    *,
    valid: Tensor | None = None,
    unconditional: Tensor | None = None,
    unconditional_valid: Tensor | None = None,
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    mask: Mask | None = None,
    penalties: Sequence[Penalty] = (),
    stop: Callable[[int, Tensor], Tensor] | None = None,
    samples: int = 1,
    generators: Generators = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Generated:
    """Continue prompts.

    Args:
        model: What continues them.
        ids: Prompts ``[B, S, lanes]``, padded on the left, or what else the model's ``prefill`` takes.
        steps: New steps at most.
        valid: Which steps of the prompts are real, bool ``[B, S]``; all by default.
        unconditional: Prompts that say nothing, for guidance: ``[B, S', ...]``.
        unconditional_valid: Of these.
        sampling: How ids are drawn: one for all lanes, or one for each. Guidance is the first's.
        mask: Which ids may come.
        penalties: Further changes of logits, after the mask.
        stop: Of a step and its ids ``[B, lanes]``: which rows end with it, bool ``[B]``.
        samples: Continuations of each prompt, one after the other in the batch.
        generators: One for all rows, or one for each row of the batch with samples.
        on_step: Sees each step and its ids ``[B, lanes]`` at once.

    Raises:
        ValueError: If guidance lacks unconditional prompts, logits are not numbers, or no id may come.
    """
    lanes = (sampling,) if isinstance(sampling, Sampling) else tuple(sampling)
    if lanes[0].guides and unconditional is None:
        raise ValueError(f"guidance {lanes[0].guidance} needs unconditional prompts, got none")
    batch = len(ids) * samples
    if unconditional is not None:
        ids, valid = _stacked((ids, unconditional), (valid, unconditional_valid))
    hidden, cache = model.prefill(ids, valid, ids.shape[1] + steps)
    if samples > 1:
        hidden, cache = hidden.repeat_interleave(samples, dim=0), cache.repeat(samples)
    rows = _Rows(batch, steps, hidden.device, lanes, mask, penalties, generators)
    for step in range(steps):
        drawn = model.read(hidden, rows.choose)
        new = rows.take(drawn[:batch])
        if on_step is not None:
            on_step(step, new)
        if stop is not None:
            rows.ended |= stop(step, new)
            if bool(rows.ended.all()):
                break
        if step + 1 < steps:
            hidden = model.advance(drawn, cache)
    rows.complain()
    return Generated(rows.so_far(len(lanes)), rows.lengths)


def _stacked(
    prompts: tuple[Tensor, Tensor], valid: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """Two batches of prompts as one, padded on the left to the same length."""
    if len(prompts[0]) != len(prompts[1]):
        raise ValueError(f"unconditional must be {len(prompts[0])} prompts, as many as ids, got {len(prompts[1])}")
    longest = max(prompt.shape[1] for prompt in prompts)
    if all(each is None for each in valid) and all(prompt.shape[1] == longest for prompt in prompts):
        return torch.cat(prompts), None
    padded, real = [], []
    for prompt, each in zip(prompts, valid, strict=True):
        each = torch.ones(prompt.shape[:2], dtype=torch.bool, device=prompt.device) if each is None else each
        missing = longest - prompt.shape[1]
        padded.append(torch.cat([prompt.new_zeros(len(prompt), missing, *prompt.shape[2:]), prompt], dim=1))
        real.append(torch.cat([each.new_zeros(len(each), missing), each], dim=1))
    return torch.cat(padded), torch.cat(real)


class _Rows:
    """Rows that are being generated, and how the next ids are chosen from logits.

    Args:
        batch: Rows B; features and logits of twice as many are guided.
        steps: At most.
        device: Where they are.
        sampling: Of each lane, or of all.
        mask, penalties, generators: As for :func:`generate`.
    """

    def __init__(
        self,
        batch: int,
        steps: int,
        device: torch.device,
        sampling: tuple[Sampling, ...],
        mask: Mask | None,
        penalties: Sequence[Penalty],
        generators: Generators,
    ) -> None:
        self.batch, self.steps, self.step = batch, steps, 0
        self.sampling, self.mask, self.penalties, self.generators = sampling, mask, penalties, generators
        self.ids: Tensor | None = None
        self.ended = torch.zeros(batch, dtype=torch.bool, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.troubles: list[tuple[int, int, tuple[str, ...], Tensor]] = []

    def so_far(self, lanes: int) -> Tensor:
        """Ids of the steps until now, ``[B, steps, lanes]``."""
        if self.ids is None:
            return self.lengths.new_zeros(self.batch, 0, lanes)
        return self.ids[:, : self.step]

    def take(self, drawn: Tensor) -> Tensor:
        """Keep the ids ``[B, lanes]`` of a step; returns them with 0 for rows that ended before."""
        if self.ids is None:
            self.ids = drawn.new_zeros(self.batch, self.steps, drawn.shape[1])
        drawn = drawn.masked_fill(self.ended[:, None], 0)
        self.ids[:, self.step] = drawn
        self.lengths += ~self.ended
        self.step += 1
        return drawn

    def choose(self, lane: int, logits: Tensor) -> Tensor:
        """Ids of a lane, drawn from logits ``[B, V]``, or ``[2 B, V]`` where they are guided."""
        sampling, so_far = self.sampling[min(lane, len(self.sampling) - 1)], self.so_far(lane + 1)
        guided = len(logits) != self.batch
        logits = logits.float()
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = guide(conditional, unconditional, self.sampling[0].scale(self.step))
        stages = {"model": logits}
        if self.mask is not None:
            logits = restrict(logits, self.mask(self.step, lane, so_far) | self.ended[:, None])
            stages["mask"] = logits
        if sampling.repetition_penalty != 1:
            logits = discourage(logits, so_far[..., lane], sampling.repetition_penalty)
        for penalty in self.penalties:
            logits = penalty(self.step, lane, so_far, logits)
            stages["penalties"] = logits
        self._watch(lane, stages)
        drawn = choose(logits, sampling, self.generators)
        return torch.cat([drawn, drawn]) if guided else drawn

    def _watch(self, lane: int, stages: dict[str, Tensor]) -> None:
        """Note which stage left a row without a number to draw by; on the CPU, where looking is free, say so at once."""
        largest = torch.stack([logits.amax(dim=-1) for logits in stages.values()])
        self.troubles.append((self.step, lane, tuple(stages), ~largest.isfinite()))
        if largest.device.type == "cpu":
            self.complain()

    def complain(self) -> None:
        """Raise for the first trouble.

        Raises:
            ValueError: If there was any.
        """
        for step, lane, names, troubles in self.troubles:
            for name, rows in zip(names, troubles.tolist(), strict=True):
                if any(rows):
                    where = f"step {step}, lane {lane}, row {rows.index(True)}"
                    what = "gives logits that are not numbers" if name == "model" else "leaves no id that may come"
                    raise ValueError(f"the {name} {what} at {where}")
        self.troubles.clear()
