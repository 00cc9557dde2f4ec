"""Sampling bytes: prompts that may end anywhere, holes to fill, several models at once whatever their vocabularies are."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from tokenizers_mm.lm.backbone import draw
from tokenizers_mm.text.byte_exact.model import ByteExactLM
from tokenizers_mm.text.byte_exact.state import END, State
from tokenizers_mm.text.segmenters.base import whole_characters

Rule = Literal["mean", "product"]
Order = Literal["psm", "spm"]
_ENDINGS = (b"", *(first + rest for first in (b"\x80", b"\x90", b"\xa0") for rest in (b"", b"\x80", b"\x80\x80")))


class ByteModel(Protocol):
    """What samples bytes: :class:`ByteExactLM`, an ensemble, or another model of bytes."""

    def start_batch(self, prompts: Sequence[bytes | str]) -> list[Any]:
        """States after prompts."""

    def advance_batch(self, states: Sequence[Any], symbols: Sequence[int]) -> list[Any]:
        """States one byte later."""

    def logprobs_batch(self, states: Sequence[Any]) -> np.ndarray:
        """Log-probabilities of the next byte and of the end, ``[B, 257]``."""


class ByteEnsemble:
    """Several models of bytes as one; their vocabularies need have nothing in common.

    Args:
        models: Each keeps a state of its own over the same bytes.
        weights: Of the models; equal by default.
        rule: ``"mean"`` of probabilities, or ``"product"``, the normalised geometric mean.

    Raises:
        ValueError: If there is no model, or weights are not one non-negative number for each with a positive sum.
    """

    def __init__(
        self, models: Sequence[ByteModel], weights: Sequence[float] | None = None, rule: Rule = "mean"
    ) -> None:
        if not models:
            raise ValueError("models must hold at least one, got none")
        given = np.ones(len(models)) if weights is None else np.asarray(weights, dtype=np.float64)
        if given.shape != (len(models),) or (given < 0).any() or not given.sum() > 0:
            raise ValueError(f"weights must be {len(models)} non-negative numbers with a positive sum, got {weights}")
        if rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {get_args(Rule)}, got {rule!r}")
        self.models, self.weights, self.rule = tuple(models), given / given.sum(), rule

    def start_batch(self, prompts: Sequence[bytes | str]) -> list[tuple[Any, ...]]:
        """States after prompts: one of each model."""
        return list(zip(*(model.start_batch(prompts) for model in self.models), strict=True))

    def advance_batch(self, states: Sequence[tuple[Any, ...]], symbols: Sequence[int]) -> list[tuple[Any, ...]]:
        """States one byte later."""
        columns = zip(*states, strict=True)
        later = [m.advance_batch(column, symbols) for m, column in zip(self.models, columns, strict=False)]
        return list(zip(*later, strict=True))

    def logprobs_batch(self, states: Sequence[tuple[Any, ...]]) -> np.ndarray:
        """Log-probabilities of the next byte and of the end, ``[B, 257]``."""
        columns = zip(*states, strict=True)
        each = np.stack([m.logprobs_batch(column) for m, column in zip(self.models, columns, strict=False)])
        weights = self.weights[:, None, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.rule == "mean":
                return np.logaddexp.reduce(each + np.log(weights), axis=0)
            joint = np.where(weights > 0, weights * each, 0.0).sum(axis=0)
        return joint - np.logaddexp.reduce(joint, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Continuation:
    """What was sampled after a prompt.

    Args:
        data: The bytes.
        logp: Their log-probability in nats under the model (not the sampling), the end's included if it came.
        ended: Whether the text ended, or a stop string came, before the bytes ran out.
    """

    data: bytes
    logp: float
    ended: bool


def generate(
    model: ByteModel,
    prompts: Sequence[bytes | str],
    max_bytes: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    stop: Sequence[bytes] = (),
    utf8: bool = False,
    generator: torch.Generator | None = None,
) -> list[Continuation]:
    """Continue prompts byte by byte, all together.

    Args:
        model: Of bytes.
        prompts: Bytes or strings; each may break off inside a word or a character.
        max_bytes: Of each continuation.
        temperature: Of bytes, not tokens; 0 takes the likeliest.
        top_k: Draw only from so many of the likeliest bytes.
        top_p: Draw only from the likeliest bytes that together reach this probability.
        stop: Strings that end a continuation, left out of it.
        utf8: Draw no byte, nor the end, with which prompt and continuation would not be UTF-8.
        generator: Of the draws.

    Raises:
        ValueError: If a prompt cannot be said, or ``max_bytes`` is negative.
    """
    if max_bytes < 0:
        raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}")
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "generator": generator}
    data = [p.encode("utf-8") if isinstance(p, str) else bytes(p) for p in prompts]
    open_ = [item[whole_characters(item) :] for item in data] if utf8 else None
    return _continue(model, model.start_batch(data), max_bytes, stop, options, open_)


def _continue(
    model: ByteModel,
    states: list[Any],
    max_bytes: int,
    stop: Sequence[bytes],
    options: dict[str, Any],
    unfinished: list[bytes] | None = None,
) -> list[Continuation]:
    """Continuations of states; with the unfinished characters of their texts, only such as stay UTF-8."""
    data, logp, ended = [b""] * len(states), [0.0] * len(states), [False] * len(states)
    going = list(range(len(states)))
    for step in range(max_bytes):
        if not going:
            break
        each = model.logprobs_batch([states[i] for i in going])
        logits = torch.from_numpy(each)
        if unfinished is not None:
            fits = np.stack([_fits(_open(unfinished[i] + data[i])) for i in going])
            logits = logits.masked_fill(torch.from_numpy(~fits), -torch.inf)
        symbols = draw(logits, **options).tolist()
        for i, row, symbol in zip(going, each, symbols, strict=True):
            logp[i] += float(row[symbol])
            data[i] += b"" if symbol == END else bytes([symbol])
            found = next((s for s in stop if data[i].endswith(s)), b"") if symbol != END else b""
            ended[i] = symbol == END or bool(found)
            data[i] = data[i].removesuffix(found) if found else data[i]
        pairs = [(i, symbol) for i, symbol in zip(going, symbols, strict=True) if not ended[i]]
        going = [i for i, _ in pairs]
        if going and step + 1 < max_bytes:
            later = model.advance_batch([states[i] for i in going], [symbol for _, symbol in pairs])
            for i, state in zip(going, later, strict=True):
                states[i] = state
    return [Continuation(*item) for item in zip(data, logp, ended, strict=True)]


def _open(data: bytes) -> bytes:
    return data[whole_characters(data) :]


@functools.lru_cache(maxsize=4096)
def _fits(pending: bytes) -> np.ndarray:
    """Which symbols may follow the start of a character, bool ``[257]``."""

    def is_text(data: bytes) -> bool:  # an incremental decoder takes the beginnings of surrogates
        for ending in _ENDINGS:
            try:
                text = (data + ending).decode("utf-8")
            except UnicodeDecodeError:
                continue
            return len(text) == 1
        return False

    return np.array([*(is_text(pending + bytes([b])) for b in range(256)), not pending])


@dataclass(frozen=True)
class FillTokens:
    """The special ids of models that fill in the middle (Bavarian et al., "Efficient Training of Language Models to Fill in the
    Middle", 2022).

    Args:
        prefix, suffix, middle: Ids in front of the three parts.
        order: ``"psm"``, prefix, suffix, middle, or ``"spm"``, suffix, prefix, middle: there the middle goes on from the prefix.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    middle: tuple[int, ...]
    order: Order = "psm"


def fill_state(model: ByteExactLM, prefix: bytes | str, suffix: bytes | str, tokens: FillTokens) -> State:
    """The state in which what comes next fills the hole between prefix and suffix, wherever the prefix breaks off.

    The prefix's open end, whose tokens depend on what follows, stands where the middle does, so that the model sees no token
    sequence that it was not trained on.

    Raises:
        ValueError: If prefix or suffix cannot be said.
    """
    tokenizer = model.tokenizer
    left, right = (p.encode("utf-8") if isinstance(p, str) else bytes(p) for p in (prefix, suffix))
    after = tokenizer.encodings(right) if right else [()]
    if not after:
        raise ValueError(f"suffix must be text that the tokenizer has tokens for, got {right[:40]!r}")
    if tokens.order == "spm":
        context = (*model.prefix, *tokens.suffix, *after[0], *tokens.prefix, *tokens.middle)
        return model.start(left, context)
    border = tokenizer.border(left)
    closed = tokenizer.encodings(left[:border])[0] if border else ()
    context = (*model.prefix, *tokens.prefix, *closed, *tokens.suffix, *after[0], *tokens.middle)
    return model.start(left[border:], context)


def fill(
    model: ByteExactLM,
    prefix: bytes | str,
    suffix: bytes | str,
    tokens: FillTokens,
    max_bytes: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Continuation:
    """Bytes for the hole between prefix and suffix; arguments as in :func:`fill_state` and :func:`generate`."""
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "generator": generator}
    return _continue(model, [fill_state(model, prefix, suffix, tokens)], max_bytes, (), options)[0]
