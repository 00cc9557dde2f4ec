"""How much faster merging and byte-exact probabilities are than the plain algorithms, in turns, and whether they agree."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.text import naive
from tokenizers_mm.text.byte_exact.canonical import Ids
from tokenizers_mm.text.byte_exact.model import ByteExactLM
from tokenizers_mm.text.byte_exact.models import Backbone
from tokenizers_mm.text.byte_exact.tokenizer import canonical
from tokenizers_mm.text.dynamic import pieces_of
from tokenizers_mm.text.flat import SubwordLM
from tokenizers_mm.text.merging import Rule, merge
from tokenizers_mm.text.subword import SubwordCodec

_CALLS = 8  # bytes that a round takes


@dataclass(frozen=True)
class Race:
    """Seconds of processor time of each contender, round by round.

    Args:
        seconds: Contender to its rounds; the first one is ours.
        agreement: Largest difference between results: 0 for the same merges, of log-probabilities else.
        settings: What was run.
    """

    seconds: dict[str, list[float]]
    agreement: float
    settings: dict[str, int]

    def ratio(self, contender: str) -> float:
        """How many times longer a contender takes than ours: the median over rounds."""
        ours = next(iter(self.seconds.values()))
        return statistics.median(b / a for a, b in zip(ours, self.seconds[contender], strict=True))


def race_merging(
    codec: SubwordCodec, texts: Sequence[str], *, sequences: int, length: int, merges: int, rounds: int
) -> Race:
    """Merge a batch of ``sequences`` of ``length`` tokens, cut out of texts anywhere, with pairs that keep their places and with
    pairs counted anew each time.

    Raises:
        ValueError: If the texts hold less than one sequence.
    """
    ids = [i for text in texts for i in codec.vocabulary.encode(text).tolist()]
    if len(ids) < length:
        raise ValueError(f"texts must hold at least {length} tokens, got {len(ids)}")
    chance, tokens = random.Random(0), codec.vocabulary.tokens
    rows = [ids[at : at + length] for at in (chance.randint(0, len(ids) - length) for _ in range(sequences))]
    rule = Rule("pretokens", pieces_of(codec).pieces)
    results: dict[str, list[list[bytes]]] = {}

    def ours() -> None:
        found = merge(rows, tokens, rule, merges)
        names = [*tokens, *found.added]
        results["ours"] = [[names[i] for i in row] for row in found.rows]

    def plain() -> None:
        results["plain"] = naive.merge(rows, tokens, rule, merges)

    seconds = _turns({"places kept": ours, "counted anew": plain}, rounds)
    settings = {"sequences": sequences, "length": length, "merges": merges}
    return Race(seconds, float(results["ours"] != results["plain"]), settings)


def race_exact(codec: SubwordCodec, model: SubwordLM, text: str, *, size: int, rounds: int) -> Race:
    """Next-byte distributions after ``size`` bytes of a text: from byte to byte, from the start with the cache of keys and
    values, and by searching all covers without it. Masks are made anew in every round.

    Raises:
        ValueError: If the text is too short.
    """
    data = text.encode("utf-8")
    if len(data) < size + _CALLS:
        raise ValueError(f"text must have at least {size + _CALLS} bytes, got {len(data)}")
    found: dict[str, np.ndarray] = {}
    plain = _uncached(model)

    def fresh(lm: Callable[[Sequence[Ids]], Tensor]) -> ByteExactLM:
        return ByteExactLM(lm, canonical(codec), start=[model.start], ends=[model.end])

    seconds: dict[str, list[float]] = {name: [] for name in ("from byte to byte", "from the start", "covers searched")}
    for _ in range(rounds):
        exact = fresh(Backbone(model))
        state = exact.start(data[:size])
        exact.tokenizer._masks.clear()
        clock = time.process_time()
        for byte in data[size : size + _CALLS]:
            found["ours"] = exact.logprobs(state)
            state = exact.advance(state, byte)
        seconds["from byte to byte"].append((time.process_time() - clock) / _CALLS)
        again = fresh(Backbone(model))
        clock = time.process_time()
        for at in range(size, size + _CALLS):
            found["again"] = again.logprobs(again.start(data[:at]))
        seconds["from the start"].append((time.process_time() - clock) / _CALLS)
        reference = fresh(plain)
        clock = time.process_time()
        found["searched"] = naive.next_bytes(plain, reference, data[: size + _CALLS - 1])
        seconds["covers searched"].append(time.process_time() - clock)
    likely = found["ours"] > -20
    difference = max(float(np.abs(found[k] - found["ours"])[likely].max()) for k in ("again", "searched"))
    parameters = sum(p.numel() for p in model.parameters())
    return Race(
        seconds, difference, {"bytes": size, "vocabulary": len(codec.vocabulary.tokens), "parameters": parameters}
    )


def _uncached(model: SubwordLM) -> Callable[[Sequence[Ids]], Tensor]:
    @torch.no_grad()
    def lm(rows: Sequence[Ids]) -> Tensor:
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        y = model.backbone(model.embedding(ids))[torch.arange(len(rows)), lengths - 1]
        return model.head(y).double().log_softmax(-1)

    return lm


def _turns(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            clock = time.process_time()
            run()
            seconds[name].append(time.process_time() - clock)
    return seconds
