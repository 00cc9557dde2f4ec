"""HAT as released, byte by byte: caches of bytes and of words, brought up to date by what a new byte changes.

A word is complete when the next one has begun, which a splitter tells only after the next character, and at times takes back. So
after every byte the open end of the text is split anew, complete words take a step of the backbone, and bytes whose guide changed
pass the decoder again: what comes out is what a pass over the whole text gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.text.model import Session
from tokenizers_mm.text.rows import MARKS, unknown, word_starts

if TYPE_CHECKING:
    from tokenizers_mm.text.hat_tfree import HATTFree

_TAIL = 256  # bytes of the open end before one looks for a later place to split from


class HATTFreeSession(Session):
    """Rows of text that go on; see the module.

    Raises:
        ValueError: If a prompt is empty: the first byte is not predicted.
    """

    @torch.no_grad()
    def __init__(self, model: HATTFree, prompts: Sequence[bytes], room: int) -> None:
        if not all(prompts):
            raise ValueError("prompts must not be empty: this model does not predict the first byte")
        self.model, device = model, model.first.device
        rows, longest = len(prompts), max(map(len, prompts))
        total = longest + room
        ring = min(total, (model.encoder.window or total) + longest + _TAIL)
        self.encoder, self.decoder = model.encoder.slots(rows, ring), model.decoder.slots(rows, ring)
        self.backbone = model.backbone.slots(rows, total)
        self.states = torch.zeros(rows, total, model.encoder.dim, device=device, dtype=model.first.dtype)
        self.words = torch.zeros(rows, total + 1, model.backbone.dim, device=device, dtype=model.first.dtype)
        self.words[:, 0] = model.first
        self.rows = [_Row(model) for _ in prompts]
        self._extend([bytes(prompt) for prompt in prompts])

    @torch.no_grad()
    def push(self, ids: Tensor) -> list[bytes]:
        out = [bytes([value]) for value in ids.tolist()]
        self._extend(out)
        return out

    def _extend(self, chunks: list[bytes]) -> None:
        model, device = self.model, self.states.device
        sizes = [len(chunk) for chunk in chunks]
        longest = max(sizes)
        ids = torch.tensor([list(chunk.ljust(longest, b"\0")) for chunk in chunks], device=device)
        places = _ragged([len(row.data) for row in self.rows], sizes, device)
        everyone = torch.arange(len(chunks), device=device)
        h = model.encoder.advance(model.embedding(ids), self.encoder, everyone, places)
        real = places >= 0
        self.states[everyone[:, None].expand_as(places)[real], places[real]] = h[real]
        changes = [row.extend(chunk) for row, chunk in zip(self.rows, chunks, strict=True)]
        self._close([(change.closed, change.complete) for change in changes])
        places = _ragged(
            [c.stale for c in changes], [len(r.data) - c.stale for r, c in zip(self.rows, changes, strict=True)], device
        )
        at = places.clamp(min=0)
        guides = torch.tensor(_squared(self.rows), device=device).gather(1, at)
        used = self.words.gather(1, guides[..., None].expand(-1, -1, self.words.shape[-1]))
        z = self.states.gather(1, at[..., None].expand(-1, -1, self.states.shape[-1]))
        z = model.decoder.advance(z, self.decoder, everyone, places, [guide(used) for guide in model.guides])
        last = z[everyone, (places >= 0).sum(dim=1) - 1]
        self.logits = model.head(model.norm(last))
        self.allowed = torch.ones_like(self.logits, dtype=torch.bool)

    def _close(self, spans: list[tuple[int, int]]) -> None:
        """Pool the words ``first .. end`` of each row and run the backbone over them."""
        rows = [i for i, (first, end) in enumerate(spans) if end > first]
        if not rows:
            return
        model, device = self.model, self.states.device
        where = [
            (i, word, self.rows[i].starts[word], self.rows[i].starts[word + 1])
            for i in rows
            for word in range(*spans[i])
        ]
        row, word, start, end = (torch.tensor(column, device=device) for column in zip(*where, strict=True))
        step = torch.arange(int((end - start).max()), device=device)
        places = start[:, None] + step
        inside = places < end[:, None]
        places = places.where(inside, start[:, None])
        vectors = model.connector(self.states[row[:, None], places], places, inside, word)
        counts = [spans[i][1] - spans[i][0] for i in rows]
        x = torch.nn.utils.rnn.pad_sequence(list(vectors.split(counts)), batch_first=True)
        at = torch.tensor(rows, device=device)
        word_places = _ragged([spans[i][0] for i in rows], counts, device)
        features = model.backbone.advance(x, self.backbone, at, word_places)
        real = word_places >= 0
        self.words[at[:, None].expand_as(word_places)[real], word_places[real] + 1] = features[real]


class _Change:
    """What new bytes did to a row.

    Args:
        closed: Words that were complete and are as they were.
        complete: Words that are complete now.
        stale: First byte whose guide is not what the decoder had.
    """

    def __init__(self, closed: int, complete: int, stale: int) -> None:
        self.closed, self.complete, self.stale = closed, complete, stale


class _Row:
    """Bytes, word starts, and the word whose guide each byte has."""

    def __init__(self, model: HATTFree) -> None:
        self.model = model
        self.data = bytearray()
        self.starts: list[int] = []
        self.guides: list[int] = []
        self.base = 0  # the text can be split anew from here

    def extend(self, chunk: bytes) -> _Change:
        before, old, old_guides = len(self.data), self.starts, self.guides
        self.data += chunk
        tail = bytes(self.data[self.base :])
        found = word_starts(tail, self.model.cut)
        fixed = [start for start in old if start < self.base]
        self.starts = [*fixed, *(found + self.base).tolist()]
        word = len(fixed) + np.cumsum(np.isin(np.arange(len(tail)), found)) - 1
        lag = unknown(tail, found) if self.model.strict else 0
        if self.model.strict and fixed:
            lag = lag | _first(tail)
        self.guides = [*old_guides[: self.base], *(word - lag).tolist()]
        same = 0
        while same + 1 < min(len(old), len(self.starts)) and old[same : same + 2] == self.starts[same : same + 2]:
            same += 1
        stale = next(
            (i for i in range(self.base, before) if self.guides[i] != old_guides[i] or self.guides[i] > same), before
        )
        self._advance(tail)
        return _Change(same, len(self.starts) - 1, stale)

    def _advance(self, tail: bytes) -> None:
        if marks := [match.end() for match in MARKS.finditer(tail)]:
            self.base += marks[-1]
        elif len(tail) > _TAIL:
            certain = self.model.segmenter.settled(tail)[0]
            certain = certain[certain < len(tail) - 8]
            self.base += self.model.segmenter.restart(tail, certain) if len(certain) else 0


def _first(tail: bytes) -> np.ndarray:
    """As :func:`unknown` has it, of the first word of bytes that are not a text's first."""
    out = np.zeros(len(tail), dtype=np.int64)
    lead = tail[0] if tail else 0
    length = 1 + (lead >= 0xC2) + (lead >= 0xE0) + (lead >= 0xF0)
    if lead < 0xF5:
        out[: length - 1] = 1
    return out


def _ragged(first: Sequence[int], counts: Sequence[int], device: torch.device) -> Tensor:
    """``first .. first + count`` of each row, padded with -1."""
    step = torch.arange(max(counts), device=device)
    begin, count = (torch.tensor(list(values), device=device)[:, None] for values in (first, counts))
    return (begin + step).where(step < count, -1)


def _squared(rows: Sequence[_Row]) -> list[list[int]]:
    longest = max(len(row.guides) for row in rows)
    return [[*row.guides, *[0] * (longest - len(row.guides))] for row in rows]
