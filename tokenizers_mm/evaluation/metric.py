"""Metric: one number that compares a reconstruction with its original, and how a wing declares it.

A wing's ``metrics.py`` holds ``METRICS: dict[str, Metric]`` and ``compute(reference, estimate, spec, names) -> Scores``; where
metrics need models, also ``MODELS`` (see :mod:`tokenizers_mm.evaluation.models`), and ``compute`` takes ``models`` and ``about``.
What a metric cannot measure is None with a reason, never a substitute number, so that averages hold only what was measured.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor


class Unmeasurable(ValueError):  # noqa: N818 - it is an answer, not a fault
    """Raised by a metric that is not defined for a pair of signals; the message is the reason."""


@dataclass(frozen=True)
class Definition:
    """What a report says of a metric.

    Args:
        name: Title in tables, e.g. ``"PESQ wb"``.
        unit: Unit of the value, ``""`` where it has none.
        better: Which direction is better.
        digits: Decimals that are worth showing.
        definition: What exactly is computed, in one sentence.
        model: Role of the model that it needs, ``""`` if none.
        of_set: Whether it is one number of the whole set, without values of items.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    digits: int
    definition: str = ""
    model: str = ""
    of_set: bool = False

    @property
    def arrow(self) -> str:
        """The better direction as a sign."""
        return "↑" if self.better == "higher" else "↓"


@dataclass(frozen=True)
class Metric:
    """One reconstruction metric.

    Args:
        name: Title in tables, e.g. ``"PESQ wb"``.
        unit: Unit of the value, ``""`` where it has none.
        better: Which direction is better.
        digits: Decimals that are worth showing.
        function: Takes the wing's prepared pair of signals (and the model, if it needs one), returns the value or raises
            :class:`Unmeasurable`. With ``combine`` it returns a pair of feature tensors ``[N, D]`` instead.
        definition: What exactly is computed, in one sentence; stored with every result.
        needs: Python packages without which it cannot be computed.
        model: Role of the model that it needs, ``""`` if none.
        combine: For a metric of the whole set: takes all items' features of the originals and of the reconstructions.
        of_tokens: Whether it measures the tokens: the function takes the whole :class:`~tokenizers_mm.evaluation.scoring.Job`.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    digits: int
    function: Callable[..., Any]
    definition: str = ""
    needs: tuple[str, ...] = ()
    model: str = ""
    combine: Callable[[Tensor, Tensor], float] | None = None
    of_tokens: bool = False

    @property
    def arrow(self) -> str:
        """The better direction as a sign."""
        return self.describe().arrow

    def describe(self) -> Definition:
        """The declaration without its function, for reports."""
        return Definition(
            self.name, self.unit, self.better, self.digits, self.definition, self.model, self.combine is not None
        )


OF_SET = "one number for the whole set"
"""Why an item has no value of a metric with ``combine``."""

Features = tuple[Tensor, Tensor]


class Scores(dict[str, float | None]):
    """Values of one pair by metric key; ``reasons`` says for each None why, ``features`` is what set metrics go on with."""

    def __init__(
        self,
        values: Mapping[str, float | None] | None = None,
        reasons: Mapping[str, str] | None = None,
        features: Mapping[str, Features] | None = None,
    ) -> None:
        super().__init__(values or {})
        self.reasons: dict[str, str] = dict(reasons or {})
        self.features: dict[str, Features] = dict(features or {})

    def __reduce__(self) -> tuple:
        return Scores, (dict(self), self.reasons, self.features)

    @classmethod
    def failed(cls, names: Iterable[str], reason: str) -> Scores:
        """None everywhere, for one reason."""
        names = list(names)
        return cls(dict.fromkeys(names), dict.fromkeys(names, reason))


def select(metrics: Mapping[str, Metric], names: Iterable[str] | None) -> dict[str, Metric]:
    """The named metrics in the order given, all of them for None.

    Raises:
        ValueError: If a name is not one of ``metrics``.
    """
    chosen = list(metrics) if names is None else list(names)
    if unknown := [name for name in chosen if name not in metrics]:
        near = difflib.get_close_matches(unknown[0], metrics, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"expected some of {sorted(metrics)}"
        raise ValueError(f"unknown metrics {unknown}: {hint}")
    return {name: metrics[name] for name in chosen}


def measure(
    metrics: Mapping[str, Metric], pair: object, models: Mapping[str, Callable[..., Any]] | None = None
) -> Scores:
    """Every metric of one pair of signals.

    Args:
        metrics: The metrics to compute, by key.
        pair: What their functions take.
        models: Callables by role.

    Returns:
        A value per key; None, with its reason, where a metric is not defined or not finite for this pair.
    """
    scores = Scores()
    for key, metric in metrics.items():
        try:
            value = _measured(metric, pair, models or {})
            if metric.combine is not None:
                scores.features[key] = _features(value)
                raise Unmeasurable(OF_SET)
            if not math.isfinite(value := float(value)):
                raise Unmeasurable(f"the result is {value}")
            scores[key] = value
        except Unmeasurable as error:
            scores[key], scores.reasons[key] = None, str(error)
        except Exception as error:  # one metric's fault must not cost the others; it is counted and shown
            scores[key], scores.reasons[key] = None, f"{type(error).__name__}: {error}"
    return scores


def _measured(metric: Metric, pair: object, models: Mapping[str, Callable[..., Any]]) -> Any:
    if missing := [package for package in metric.needs if find_spec(package) is None]:
        raise Unmeasurable(f"needs the package {', '.join(missing)}")
    if not metric.model:
        return metric.function(pair)
    if metric.model not in models:
        raise Unmeasurable(f"no model {metric.model!r} given")
    return metric.function(pair, models[metric.model])


def _features(value: Features) -> Features:
    reference, estimate = (torch.as_tensor(x).detach().float().cpu() for x in value)
    for x in (reference, estimate):
        if x.ndim != 2 or not x.isfinite().all():
            raise ValueError(f"features must be finite [N, D], got {list(x.shape)}")
    return reference, estimate
