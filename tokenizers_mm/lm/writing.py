"""What a :class:`TokenLM` writes: rows that the generate loop fills, and the items that come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tokenizers_mm.lm.cache import Cache
from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.grammar import annotate
from tokenizers_mm.lm.plan import PAD
from tokenizers_mm.lm.sampling import Generators, Sampling, generate
from tokenizers_mm.lm.writer import Order, Writer

if TYPE_CHECKING:
    from tokenizers_mm.lm.token_lm import TokenLM


class Rows:
    """A model and the rows it writes, as :func:`~tokenizers_mm.lm.sampling.generate` needs them.

    Args:
        model: What writes.
        writers: One for each row, those without condition last where rows are guided.
    """

    def __init__(self, model: TokenLM, writers: Sequence[Writer]) -> None:
        self.model, self.writers = model, writers
        self._step: list[list[int]] = []  # ids of the step that is being drawn

    def prefill(self, ids: Tensor, valid: Tensor | None, capacity: int) -> tuple[Tensor, Cache]:
        """Read what the writers hold, ``[B, S, L]``, padded on the left."""
        model, cache = self.model, self.model.transformer.cache(len(ids), capacity)
        about = annotate(model.vocabulary, ids)
        kinds = torch.cat([about.kinds[:, 1:, 0], self._coming(ids.device)], dim=1)
        positions = about.positions if model.rope == "2d" else None
        features = model.transformer(model.embed(ids, kinds), valid, cache, positions)
        return features[:, -1], cache

    def advance(self, ids: Tensor, cache: Cache) -> Tensor:
        """Read the step ``[B, L]`` that was drawn last."""
        model, positions = self.model, None
        if model.rope == "2d":
            positions = torch.tensor([[writer.cursor.position] for writer in self.writers], device=ids.device)
        x = model.embed(ids[:, None], self._coming(ids.device))
        return model.transformer(x, None, cache, positions)[:, -1]

    def read(self, hidden: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Draw the lanes of a step one after the other, and write it."""
        self._step = [[] for _ in self.writers]

        def pick(lane: int, logits: Callable[[Iterable[Choice]], Tensor]) -> Tensor:
            choices = {writer.allowed(lane, ids) for writer, ids in zip(self.writers, self._step, strict=True)}
            drawn = choose(lane, logits(choices))
            for ids, id_ in zip(self._step, drawn.tolist(), strict=True):
                ids.append(id_)
            return drawn

        step = self.model.read(hidden, pick)
        for writer, ids in zip(self.writers, self._step, strict=True):
            if not writer.done:
                writer.push(ids)
        return step

    def mask(self, step: int, lane: int, so_far: Tensor) -> Tensor:
        """Which ids may come in a lane, bool ``[B, V]``."""
        out = torch.zeros(len(so_far), self.model.vocabulary.size, dtype=torch.bool)
        for row, writer, ids in zip(out, self.writers, self._step, strict=False):  # those without condition come last
            choice = writer.allowed(lane, ids)
            row[choice.codes.start : choice.codes.stop] = True
            row[list(choice.marks)] = True
        return out.to(so_far.device)

    def done(self, step: int, ids: Tensor) -> Tensor:
        """Which rows are complete, bool ``[B]``."""
        return torch.tensor([writer.done for writer in self.writers[: len(ids)]], device=ids.device)

    def _coming(self, device: torch.device) -> Tensor:
        """Kind of the first cell of each row's next step, ``[B, 1]``."""
        return torch.tensor([[writer.coming] for writer in self.writers], device=device)


def write(
    model: TokenLM,
    orders: Sequence[Order],
    max_steps: int,
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    generators: Generators = None,
    on_step: Callable[[Writer], None] | None = None,
) -> list[Writer]:
    """Fill rows, until each is what was ordered.

    Args:
        model: What writes.
        orders: One for each row.
        max_steps: That are drawn at most.
        sampling: How ids are drawn, in all lanes or in each. With guidance, rows without label and items before stand beside.
        generators: One for all rows, or one for each.
        on_step: Sees the first row after each step.

    Raises:
        ValueError: If orders do not fit, or the model gives no numbers.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    writers = [Writer(model.vocabulary, order) for order in orders]
    first = sampling if isinstance(sampling, Sampling) else sampling[0]
    blank = (
        [Writer(model.vocabulary, replace(order, label=None, before=())) for order in orders] if first.guides else []
    )
    open_ = [i for i, writer in enumerate(writers) if not writer.done]
    if not open_:
        return writers
    blank = [blank[i] for i in open_] if blank else []
    rows = Rows(model, [*(writers[i] for i in open_), *blank])
    ids, valid = _padded(rows.writers, model.device)
    count = len(open_)
    generate(
        rows, ids[:count], max_steps, valid=valid[:count], sampling=sampling, mask=rows.mask, stop=rows.done,
        unconditional=ids[count:] if blank else None, unconditional_valid=valid[count:] if blank else None,
        generators=[generators[i] for i in open_] if isinstance(generators, Sequence) else generators,
        on_step=None if on_step is None else lambda step, ids: on_step(rows.writers[0]),
    )  # fmt: skip
    return writers


def _padded(writers: Sequence[Writer], device: torch.device) -> tuple[Tensor, Tensor]:
    """What writers hold, padded on the left, and which steps are real."""
    rows = [torch.tensor(writer.written).flip(0) for writer in writers]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).flip(1).to(device)
    return ids, ids[..., 0] != PAD
