"""Metric: one number that compares a reconstruction with its original, and how a wing declares it.

A wing's ``metrics.py`` holds ``METRICS: dict[str, Metric]`` and ``compute(reference, estimate, spec, names) -> Scores``. What a
metric cannot measure is None with a reason, never a substitute number, so that averages hold only what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal


class Unmeasurable(ValueError):  # noqa: N818 - it is an answer, not a fault
    """Raised by a metric that is not defined for a pair of signals; the message is the reason."""


@dataclass(frozen=True)
class Metric:
    """One reconstruction metric.

    Args:
        name: Title in tables, e.g. ``"PESQ wb"``.
        unit: Unit of the value, ``""`` where it has none.
        better: Which direction is better.
        digits: Decimals that are worth showing.
        function: Takes the wing's prepared pair of signals, returns the value or raises :class:`Unmeasurable`.
        definition: What exactly is computed, in one sentence; stored with every result.
        needs: Python packages without which it cannot be computed.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    digits: int
    function: Callable[[Any], float]
    definition: str = ""
    needs: tuple[str, ...] = ()

    @property
    def arrow(self) -> str:
        """The better direction as a sign."""
        return "↑" if self.better == "higher" else "↓"

    def describe(self) -> dict[str, Any]:
        """The declaration without its function, for JSON."""
        return {key: getattr(self, key) for key in ("name", "unit", "better", "digits", "definition")}


class Scores(dict[str, float | None]):
    """Values of one pair by metric key; ``reasons`` says for each None why."""

    def __init__(
        self, values: Mapping[str, float | None] | None = None, reasons: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(values or {})
        self.reasons: dict[str, str] = dict(reasons or {})

    def __reduce__(self) -> tuple:
        return Scores, (dict(self), self.reasons)


def select(metrics: Mapping[str, Metric], names: Iterable[str] | None) -> dict[str, Metric]:
    """The named metrics in the order given, all of them for None.

    Raises:
        ValueError: If a name is not one of ``metrics``.
    """
    chosen = list(metrics) if names is None else list(names)
    if unknown := [name for name in chosen if name not in metrics]:
        raise ValueError(f"unknown metrics {unknown}: expected some of {sorted(metrics)}")
    return {name: metrics[name] for name in chosen}


def measure(metrics: Mapping[str, Metric], pair: object) -> Scores:
    """Every metric of one pair of signals.

    Args:
        metrics: The metrics to compute, by key.
        pair: What their functions take.

    Returns:
        A value per key; None, with its reason, where a metric is not defined or not finite for this pair.
    """
    scores = Scores()
    for key, metric in metrics.items():
        value, reason = None, None
        if missing := [package for package in metric.needs if find_spec(package) is None]:
            reason = f"needs the package {', '.join(missing)}"
        else:
            try:
                value = float(metric.function(pair))
            except Unmeasurable as error:
                reason = str(error)
            except Exception as error:  # one metric's fault must not cost the others; it is counted and shown
                reason = f"{type(error).__name__}: {error}"
        if value is not None and not math.isfinite(value):
            value, reason = None, f"the result is {value}"
        scores[key] = value
        if reason is not None:
            scores.reasons[key] = reason
    return scores
