"""What a :class:`TokenLM` writes: rows that the generate loop fills, and the items that come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.cache import Cache
from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.grammar import annotate
from tokenizers_mm.lm.plan import EMPTY, PAD
from tokenizers_mm.lm.sampling import Generators, Sampling, generate
from tokenizers_mm.lm.vocabulary import Vocabulary
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
        self._features: list[Tensor] = []  # [B, D] of the steps of a scale that are still to be drawn

    def prefill(self, ids: Tensor, valid: Tensor | None, capacity: int) -> tuple[Tensor, Cache]:
        """Read what the writers hold, ``[B, S, L]``, padded on the left."""
        model, count = self.model, len(self.writers[0].reads()[0])
        cache = model.transformer.cache(len(ids), capacity + model.vocabulary.longest_scale)
        if count > 1:  # a scale begins, of which nothing is there
            ids = F.pad(ids, (0, 0, 0, count - 1), value=EMPTY)
            valid = None if valid is None else F.pad(valid, (0, count - 1), value=True)
        about = annotate(model.vocabulary, ids)
        kinds = torch.cat([about.kinds[:, 1:, 0], self._coming(ids.device)], dim=1)
        positions = about.positions if model.rope == "2d" else None
        x = model.embed(about.read(ids), kinds)
        return self._next(model.transformer(x, valid, cache, positions, groups=about.group)[:, -count:]), cache

    def advance(self, ids: Tensor, cache: Cache) -> Tensor:
        """Read the step ``[B, L]`` that was drawn last, or what a scale is told from, when it begins."""
        if self._features:
            return self._features.pop(0)
        model, steps, positions, groups = self.model, ids[:, None], None, None
        places = tuple([writer.cursor.position] for writer in self.writers)
        if model.vocabulary.longest_scale:
            read, places = zip(*(writer.reads() for writer in self.writers), strict=True)
            steps = torch.tensor(read, device=ids.device)
            groups = ids.new_zeros(1, steps.shape[1]) if steps.shape[1] > 1 else None
        if model.rope == "2d":
            positions = torch.tensor(places, device=ids.device)
        x = model.embed(steps, self._coming(ids.device).expand(-1, steps.shape[1]))
        return self._next(model.transformer(x, None, cache, positions, groups=groups))

    def _next(self, features: Tensor) -> Tensor:
        """The first of features ``[B, n, D]``; the others are kept."""
        first, *self._features = features.unbind(dim=1)
        return first

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
    for batch in _together(model.vocabulary, orders, writers, open_):
        rows = Rows(model, [*(writers[i] for i in batch), *(blank[i] for i in batch if blank)])
        each = [generators[i] for i in batch] if isinstance(generators, Sequence) else generators
        _fill(rows, len(batch), max_steps, sampling, each, on_step)
    return writers


def _together(
    vocabulary: Vocabulary, orders: Sequence[Order], writers: Sequence[Writer], rows: Sequence[int]
) -> Iterable[list[int]]:
    """Rows that can be written side by side: those whose scales begin at the same steps."""
    batches: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        alone = vocabulary.longest_scale and orders[row].stream is None  # it may begin a scale anywhere
        batches.setdefault((row,) if alone else (-1, writers[row].phase), []).append(row)
    return batches.values()


def _fill(
    rows: Rows,
    count: int,
    max_steps: int,
    sampling: Sampling | Sequence[Sampling],
    generators: Generators,
    on_step: Callable[[Writer], None] | None,
) -> None:
    """Draw steps of rows that are written side by side, the first ``count`` of them, until each is what was ordered."""
    ids, valid = _padded(rows.writers, rows.model.device)
    guided = len(rows.writers) > count
    generate(
        rows, ids[:count], max_steps, valid=valid[:count], sampling=sampling, mask=rows.mask, stop=rows.done,
        unconditional=ids[count:] if guided else None, unconditional_valid=valid[count:] if guided else None,
        generators=generators, on_step=None if on_step is None else lambda step, ids: on_step(rows.writers[0]),
    )  # fmt: skip


def _padded(writers: Sequence[Writer], device: torch.device) -> tuple[Tensor, Tensor]:
    """What writers hold, padded on the left, and which steps are real."""
    rows = [torch.tensor(writer.written).flip(0) for writer in writers]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).flip(1).to(device)
    return ids, ids[..., 0] != PAD
