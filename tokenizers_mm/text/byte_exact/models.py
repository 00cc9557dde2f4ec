"""Language models as functions from token sequences to log-probabilities: ours, and those of ``transformers``.

Successive calls differ in their last tokens, so that keys and values of what they share are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.text.byte_exact.canonical import Ids
from tokenizers_mm.text.byte_exact.model import ByteExactLM, Mode
from tokenizers_mm.text.byte_exact.tokenizer import byte_tokenizer, canonical
from tokenizers_mm.text.flat import ByteLM, SubwordLM
from tokenizers_mm.text.rows import START


class Backbone:
    """Our models without a hierarchy, with a cache of several sequences.

    Args:
        model: In evaluation mode.
        sequences: That are kept.
        capacity: Tokens of each, and of any that is asked for.
    """

    def __init__(self, model: ByteLM | SubwordLM, sequences: int = 4, capacity: int = 2048) -> None:
        self.model, self.capacity = model, capacity
        self.slots = model.backbone.slots(sequences, capacity)
        self._kept: list[Ids] = [()] * sequences

    @torch.no_grad()
    def __call__(self, rows: Sequence[Ids]) -> Tensor:
        """Log-probabilities ``[B, V]`` of what follows each row."""
        if (longest := max(map(len, rows))) > self.capacity or not min(map(len, rows)):
            raise ValueError(f"rows must have 1 to {self.capacity} ids, got up to {longest}")
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        waiting = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while waiting:
            chosen: dict[int, int] = {}
            for i in waiting:
                slot = max(range(len(self._kept)), key=lambda s: _shared(self._kept[s], rows[i]))
                chosen.setdefault(slot, i)
            for i, logp in self._round({i: slot for slot, i in chosen.items()}, rows):
                found[i] = logp
            waiting = [i for i in waiting if not found[i].numel()]
        return torch.stack(found).double().cpu()

    def _round(self, chosen: dict[int, int], rows: Sequence[Ids]) -> list[tuple[int, Tensor]]:
        """One step of rows that have a sequence each."""
        news, firsts = [], []
        for i, slot in chosen.items():
            shared = min(_shared(self._kept[slot], rows[i]), len(rows[i]) - 1)
            self.slots.forget(slot, shared)
            self._kept[slot] = rows[i]
            news.append(torch.tensor(rows[i][shared:]))
            firsts.append(shared)
        device = self.model.head.weight.device
        ids = torch.nn.utils.rnn.pad_sequence(news, batch_first=True).to(device)
        lengths, first = torch.tensor([len(new) for new in news], device=device), torch.tensor(firsts, device=device)
        step = torch.arange(ids.shape[1], device=device)
        places = (first[:, None] + step).where(step < lengths[:, None], -1)
        at = torch.tensor(list(chosen.values()), device=device)
        y = self.model.backbone.advance(self.model.embedding(ids), self.slots, at, places)
        logits = self.model.head(y[torch.arange(len(ids)), lengths - 1])
        return list(zip(chosen, logits.double().log_softmax(-1), strict=True))


class Causal:
    """A decoder of ``transformers``, with a cache of one sequence.

    Args:
        model: In evaluation mode; its cache must be one that can be cut back (attention, no recurrence).
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._kept: Ids = ()
        self._cache: Any = None

    @torch.no_grad()
    def __call__(self, rows: Sequence[Ids]) -> Tensor:
        """Log-probabilities ``[B, V]`` of what follows each row."""
        if not min(map(len, rows)):
            raise ValueError("rows must have at least one id: give the model a start (its beginning-of-text id)")
        order = sorted(range(len(rows)), key=lambda i: rows[i])
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for i in order:
            found[i] = self._one(rows[i])
        return torch.stack(found).double().cpu()

    def _one(self, row: Ids) -> Tensor:
        shared = min(_shared(self._kept, row), len(row) - 1)
        if self._cache is not None and shared:
            self._cache.crop(shared)
        else:
            self._cache, shared = None, 0
        ids = torch.tensor([row[shared:]], device=self.model.device)
        output = self.model(input_ids=ids, past_key_values=self._cache, use_cache=True)
        self._cache, self._kept = output.past_key_values, row
        return output.logits[0, -1].double().log_softmax(-1)


def byte_exact(
    model: ByteLM | SubwordLM, *, mode: Mode = "valid", width: int | None = None, threshold: float = 0.0
) -> ByteExactLM:
    """One of our models over tokens or bytes as a model of bytes; arguments as in :class:`ByteExactLM`."""
    options: dict[str, Any] = {"mode": mode, "width": width, "threshold": threshold}
    if isinstance(model, ByteLM):
        end = model.bytes_of(model.end)[0] if hasattr(model, "end") else None
        return ByteExactLM(Backbone(model), byte_tokenizer(), start=[START], ends=[] if end is None else [end], **options)
    tokenizer = canonical(model.codec[0])
    return ByteExactLM(Backbone(model), tokenizer, start=[model.start], ends=[model.end], **options)


def byte_exact_transformers(
    model: Any, tokenizer: Any, *, mode: Mode = "valid", width: int | None = None, threshold: float = 0.0
) -> ByteExactLM:
    """A decoder and a tokenizer of ``transformers`` as a model of bytes; other arguments as in :class:`ByteExactLM`.

    Raises:
        ValueError: If neither has an id to begin a text with.
    """
    end = tokenizer.eos_token_id
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    if start is None:
        raise ValueError("tokenizer must have a bos or eos token, which a text begins after")
    return ByteExactLM(
        Causal(model.eval()),
        canonical(tokenizer),
        start=[start],
        ends=[] if end is None else [end],
        mode=mode,
        width=width,
        threshold=threshold,
    )


def _shared(a: Ids, b: Ids) -> int:
    """How many ids two sequences have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
