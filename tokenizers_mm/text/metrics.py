"""Metrics of text: whether it comes back, what its tokens cost, and what a language model makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers_mm.evaluation.metric import Metric, Scores, Unmeasurable, measure, select
from tokenizers_mm.evaluation.scoring import Job
from tokenizers_mm.text.language_models import load_cost
from tokenizers_mm.tokens import Tokens, TokenSpec

MODELS: dict[str, str] = {
    "lm": "takes a text, returns its cost in nats; or model.safetensors in a language model's folder"
}
LOADERS = {"lm": load_cost}


@dataclass(frozen=True)
class Pair:
    """A text and what came back.

    Args:
        reference: What the codec was given.
        estimate: What it gave back.
        about: What the data's manifest says of it.
    """

    reference: str
    estimate: str
    about: Mapping[str, str] = field(default_factory=dict)


def lines(text: str) -> int:
    """Lines of a text; only U+000A ends one, and the last needs no end."""
    return text.count("\n") + (not text.endswith("\n")) if text else 0


def positions(tokens: Tokens) -> int:
    """What a model of these tokens steps through: words where there are words, else tokens."""
    words = tokens.side.get("word_lengths")
    return int(tokens.lengths.sum()) if words is None else int((words > 0).sum())


def _exact(pair: Pair) -> float:
    before, after = pair.reference.split("\n"), pair.estimate.split("\n")
    same = sum(a == b for a, b in zip(before, after, strict=False))
    return 100 * same / max(len(before), len(after))


def _tokens(job: Job) -> Tokens:
    if job.tokens is None:
        raise Unmeasurable("there are no tokens")
    return job.tokens


def _per(unit: Callable[[Job], float], amount: Callable[[Job], float]) -> Callable[[Job], float]:
    def value(job: Job) -> float:
        count = unit(job)
        if not count:
            raise Unmeasurable("the text is empty")
        return amount(job) / count

    return value


def _size(job: Job) -> int:
    return len(job.reference.encode("utf-8"))


def _bits_per_byte(pair: Pair, model: Callable[[str], float]) -> float:
    if not pair.reference:
        raise Unmeasurable("the text is empty")
    return model(pair.reference) / math.log(2) / len(pair.reference.encode("utf-8"))


METRICS: dict[str, Metric] = {
    "exact": Metric(
        "exact", "% of lines", "higher", 2, _exact, "Share of the lines that come back as they were, to the last byte."
    ),
    "bytes_per_token": Metric(
        "bytes/token", "", "higher", 3, _per(lambda job: int(_tokens(job).lengths.sum()), _size),
        "UTF-8 bytes by tokens.", of_tokens=True,
    ),
    "bytes_per_position": Metric(
        "bytes/position", "", "higher", 3, _per(lambda job: positions(_tokens(job)), _size),
        "UTF-8 bytes by positions of a model's backbone: words where the tokens have words, else tokens.", of_tokens=True,
    ),
    "positions_per_line": Metric(
        "positions/line", "", "lower", 2, _per(lambda job: lines(job.reference), lambda job: positions(_tokens(job))),
        "Positions of a model's backbone by lines; over parallel texts of one sentence a line, what each language pays.",
        of_tokens=True,
    ),
    "bpb": Metric(
        "bits/byte", "", "lower", 4, _bits_per_byte,
        "What the language model 'lm' (--model lm=...) needs for the text: sum of -log2 p by UTF-8 bytes.", model="lm",
    ),
}  # fmt: skip


def compute(
    reference: str,
    estimate: str,
    spec: TokenSpec,
    names: Iterable[str] | None = None,
    *,
    models: Mapping[str, Callable[..., Any]] | None = None,
    about: Mapping[str, str] | None = None,
) -> Scores:
    """Metrics of a text and what came back, by key.

    Args:
        reference: The text.
        estimate: What came back.
        spec: Of the codec.
        names: Which; by default all that are not of tokens.
        models: Callables by role; ``"lm"`` takes a text and gives its cost in nats.
        about: What the data's manifest says of the text.

    Raises:
        ValueError: If a name is unknown.
    """
    own = {key: metric for key, metric in METRICS.items() if not metric.of_tokens}
    return measure(select(own, names), Pair(reference, estimate, about or {}), models)
