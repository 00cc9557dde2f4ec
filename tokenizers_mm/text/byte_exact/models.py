"""Language models as functions from token sequences to log-probabilities: ours, and those of ``transformers``.

Successive calls differ in their last tokens, so that keys and values of what they share are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.text.byte_exact.canonical import Encoded, Ids
from tokenizers_mm.text.byte_exact.model import ByteExactLM, Mode
from tokenizers_mm.text.byte_exact.state import END as STOP
from tokenizers_mm.text.byte_exact.state import SYMBOLS
from tokenizers_mm.text.byte_exact.tokenizer import canonical
from tokenizers_mm.text.flat import ByteLM, SubwordLM
from tokenizers_mm.text.hat_paper import HATPaper
from tokenizers_mm.text.model import Session, TextLM
from tokenizers_mm.text.rows import END, START, WORD


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
            chosen: dict[int, int] = {}  # sequence that is kept: row
            for i in waiting:
                shared = [_shared(kept, rows[i]) for kept in self._kept]
                chosen.setdefault(max(range(len(shared)), key=shared.__getitem__), i)
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
        parameters = inspect.signature(model.forward).parameters
        self._name = "cache" if "cache" in parameters else "past_key_values"  # renamed within transformers 5
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
            if len(self._kept) > shared:
                self._cache.crop(shared - len(self._kept))
        else:
            self._cache, shared = None, 0
        ids = torch.tensor([row[shared:]], device=self.model.device)
        output = self.model(input_ids=ids, use_cache=True, **{self._name: self._cache})
        self._cache, self._kept = output[self._name], row
        return output.logits[0, -1].double().log_softmax(-1)


class Bytes:
    """A language model of bytes, in words or not (HAT, H-Net, :class:`~tokenizers_mm.text.ByteLM`), for ensembles.

    States are byte strings; the session of the last ones goes on where the next ones go on from them. Models that mark the ends
    of words say a byte with a mark before it or without; both count.

    Args:
        model: In evaluation mode.

    Raises:
        TypeError: If it writes tokens of several bytes.
    """

    def __init__(self, model: TextLM) -> None:
        if isinstance(model, SubwordLM):
            raise TypeError("model must write bytes, a SubwordLM writes tokens: use byte_exact")
        self.model = model
        self._session: Session | None = None
        self._last: list[bytes] = []
        self._room = 0

    def start_batch(self, prompts: Sequence[bytes | str]) -> list[bytes]:
        """States after prompts: themselves."""
        return [p.encode("utf-8") if isinstance(p, str) else bytes(p) for p in prompts]

    def advance_batch(self, states: Sequence[bytes], symbols: Sequence[int]) -> list[bytes]:
        """States one byte later."""
        return [state + bytes([byte]) for state, byte in zip(states, symbols, strict=True)]

    def logprobs_batch(self, states: Sequence[bytes]) -> np.ndarray:
        """Log-probabilities of the next byte and of the end, ``[B, 257]``."""
        if not states:
            return np.zeros((0, SYMBOLS))
        logp = self._words(list(states)) if isinstance(self.model, HATPaper) else self._bytes(list(states))
        found = torch.full((len(states), SYMBOLS), -torch.inf, dtype=torch.float64)
        found[:, :256] = logp
        found[:, STOP] = logp[:, END]
        found[:, END] = -torch.inf
        return found.log_softmax(-1).numpy()

    def _bytes(self, states: list[bytes]) -> Tensor:
        if self._session is not None and self._room and [s[:-1] for s in states] == self._last and all(states):
            self._session.push(torch.tensor([s[-1] for s in states], device=self._session.logits.device))
            self._room -= 1
        elif states != self._last or self._session is None:
            self._room = 64 + max(map(len, states)) // 4
            self._session = self.model.session(states, self._room)
        self._last = states
        return _logp(self._session)

    def _words(self, states: list[bytes]) -> Tensor:
        session = self.model.session(states, 2)
        logp, ends = _logp(session), session.allowed[:, WORD].cpu()
        if ends.any():
            again = self.model.session([s for s, end in zip(states, ends.tolist(), strict=True) if end], 2)
            again.push(torch.full((int(ends.sum()),), WORD, device=again.logits.device))
            after = logp[ends, WORD, None] + _logp(again)
            logp[ends] = torch.logaddexp(logp[ends], after)
        logp[:, WORD] = -torch.inf
        return logp


def _logp(session: Session) -> Tensor:
    return session.logits.masked_fill(~session.allowed, -torch.inf).double().cpu().log_softmax(-1)


def byte_exact(
    model: ByteLM | SubwordLM, *, mode: Mode = "valid", width: int | None = None, threshold: float = 0.0
) -> ByteExactLM:
    """One of our models over tokens or bytes as a model of bytes; arguments as in :class:`ByteExactLM`.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(model, SubwordLM):
        tokenizer, start, end = canonical(model.codec[0]), model.start, model.end
    elif isinstance(model, ByteLM):
        tokenizer, start, end = Encoded([b"" if b == END else bytes([b]) for b in range(256)], list), START, END
    else:
        raise TypeError(f"model must be a SubwordLM or a ByteLM, got {type(model).__name__}")
    return ByteExactLM(
        Backbone(model), tokenizer, start=[start], ends=[end], mode=mode, width=width, threshold=threshold
    )


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
