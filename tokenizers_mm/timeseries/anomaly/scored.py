"""Score a file of a series: scores as a table, the most anomalous stretches, a picture or a page of them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch

from tokenizers_mm.evaluation.detection import AnomalyScorer
from tokenizers_mm.timeseries import files
from tokenizers_mm.timeseries.anomaly.curves import window_of
from tokenizers_mm.timeseries.anomaly.files import LABELS
from tokenizers_mm.timeseries.anomaly.show import picture
from tokenizers_mm.timeseries.series import Series

PICTURES = (".png", ".svg", ".webp", ".html")


@dataclass(frozen=True)
class Peak:
    """A place where the score is highest.

    Args:
        step: Of the highest score.
        when: Its timestamp, or its number where there are no times.
        score: The score there.
    """

    step: int
    when: str
    score: float


@dataclass(frozen=True)
class Scored:
    """A series and its scores.

    Args:
        series: As read, without columns of labels.
        scores: ``[N]``, higher where more anomalous.
        labels: 0 or 1 ``[N]``, of a column of labels, if the file has one; the scorer did not see it.
        definition: How the scores were made.
    """

    series: Series
    scores: np.ndarray
    labels: np.ndarray | None
    definition: str

    def save(self, path: str | Path) -> None:
        """Write times, if there are any, and a column ``score``: ``.csv``, ``.tsv``, ``.parquet``, ``.npy`` or ``.npz``."""
        files.save(path, Series(self.scores[None].astype(np.float64), ("score",), self.series.times))

    def peaks(self, count: int = 5) -> list[Peak]:
        """The highest scores, each farther from the others than half a period."""
        left, found = self.scores.astype(float), []
        reach = max(1, window_of(np.nan_to_num(self.series.values[0])) // 2)
        for _ in range(min(count, len(left))):
            step = int(np.argmax(left))
            if not np.isfinite(left[step]):
                break
            when = str(step) if self.series.times is None else str(self.series.times[step].astype("datetime64[s]"))
            found.append(Peak(step, when, float(self.scores[step])))
            left[max(0, step - reach) : step + reach + 1] = -np.inf
        return found

    def show(self, path: str | Path, title: str) -> None:
        """Write a picture, or a page with the picture and the peaks, by extension (:data:`PICTURES`).

        Raises:
            ValueError: If the extension is another.
        """
        path = Path(path)
        if path.suffix.lower() not in PICTURES:
            raise ValueError(f"a picture must end in {', '.join(PICTURES)}, got {str(path)!r}")
        if path.suffix.lower() == ".html":
            path.write_text(self._page(title), encoding="utf-8")
        else:
            path.write_bytes(picture(self.series.values, self.scores, self.labels, kind=path.suffix.lower()[1:]))

    def _page(self, title: str) -> str:
        image = base64.b64encode(picture(self.series.values, self.scores, self.labels, kind="svg")).decode()
        rows = "".join(f"<tr><td>{escape(p.when)}<td>{p.step}<td>{p.score:.4g}" for p in self.peaks(10))
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{escape(title)}</title><style>body{{font:16px system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}}"
            "img{width:100%}td,th{padding:.2rem .8rem;text-align:right}</style>"
            f"<h1>{escape(title)}</h1><p>{escape(self.definition)}. Steps: {len(self.series)}.</p>"
            f'<img alt="the series, its anomaly score below" src="data:image/svg+xml;base64,{image}">'
            f"<h2>Highest scores</h2><table><tr><th>when<th>step<th>score{rows}</table></html>\n"
        )


def score_file(
    path: str | Path, scorer: AnomalyScorer, *, time: str | None = None, columns: Sequence[str] | None = None
) -> Scored:
    """Score the series of a file, row by row as they are.

    Args:
        path: See :func:`tokenizers_mm.timeseries.files.load`; a column called as labels are is kept from the scorer.
        scorer: What scores.
        time: Column of timestamps, by default found.
        columns: Columns to score; by default all that hold numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or scored.
    """
    series = files.load(path, time=time, columns=columns)
    values = [i for i, name in enumerate(series.names) if columns is not None or name.lower() not in LABELS]
    labels = [i for i in range(len(series.names)) if i not in values]
    if not values:
        raise ValueError(f"{path} has no column of values, only {', '.join(series.names)}")
    scored = Series(series.values[values], tuple(series.names[i] for i in values), series.times)
    scores = scorer.score(torch.from_numpy(scored.values)).double().numpy()
    found = (series.values[labels] == 1).any(axis=0).astype(int) if labels else None
    return Scored(scored, scores, found, scorer.definition)
