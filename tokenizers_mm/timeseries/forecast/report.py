"""A table of forecasters by horizon as a file: scores, and what one needs to measure them again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers_mm.evaluation import environment
from tokenizers_mm.timeseries.data import SeriesSource
from tokenizers_mm.timeseries.forecast.protocol import evaluate

HORIZON = "{horizon}"
"""Stands for the number in names of forecasters that were trained for one horizon."""


def measure(
    source: SeriesSource,
    names: Sequence[str],
    horizons: Sequence[int],
    *,
    context: int = 96,
    season: int = 24,
    stride: int = 1,
    each: Callable[[int, str, dict[str, float]], None] = lambda *_: None,
) -> dict[str, Any]:
    """Scores of every forecaster at every horizon.

    Args:
        source: See :func:`~tokenizers_mm.timeseries.forecast.protocol.evaluate`, as for the others.
        names: Of the forecasters; :data:`HORIZON` in one is replaced by the horizon.
        horizons: Samples ahead.
        context: Samples of the past.
        season: Samples of a season.
        stride: From one test window to the next.
        each: Is told horizon, name and scores as soon as they are there.

    Returns:
        ``rows`` with ``horizon``, ``model``, the scores and ``seconds``, and data, settings, machine, versions, command and date.

    Raises:
        ValueError: If a name is unknown, or the test rows are too few.
    """
    rows = []
    for horizon in horizons:
        for name in names:
            start, actual = time.perf_counter(), name.replace(HORIZON, str(horizon))
            found = evaluate(source, (actual,), context=context, horizon=horizon, season=season, stride=stride)[actual]
            each(horizon, name, found)
            rows.append({"horizon": horizon, "model": name, **found, "seconds": round(time.perf_counter() - start, 2)})
    data = Path(source.path)
    return {
        "data": {"name": data.name, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()},
        "settings": {"protocol": source.protocol, "context": context, "season": season, "stride": stride},
        "rows": rows,
        **environment.provenance(("scikit-learn", "transformers")),
    }


def save(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON."""
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
