"""How reports show anomaly scores: the series above, the scores below, labelled windows shaded in both."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.timeseries import files
from tokenizers_mm.timeseries.anomaly.curves import segments
from tokenizers_mm.timeseries.anomaly.files import read
from tokenizers_mm.tokens import TokenSpec

POINTS = 2000  # columns of a picture: of more steps each column shows the range
MOST_VARIATES = 8


def render(path: str | Path, spec: TokenSpec, original: str | Path | None = None) -> Exhibit:
    """A labelled series, or the scores of one, as a report shows it.

    Args:
        path: The file of the series, or of scores.
        spec: Of the detector.
        original: The labelled series that these are the scores of.

    Raises:
        FileNotFoundError, ValueError: As :func:`tokenizers_mm.timeseries.anomaly.files.read`.
    """
    labelled = read(original or path, spec).numpy()
    scores = files.load(path).values[0] if original is not None else None
    image = picture(labelled[:-1], scores, labelled[-1])
    count = len(segments(labelled[-1]))
    caption = f"{labelled.shape[1]} steps, {count} labelled window" + ("" if count == 1 else "s")
    return Exhibit(caption=caption + (", anomaly score below" if scores is not None else ""), image=image)


def picture(
    series: np.ndarray, scores: np.ndarray | None = None, labels: np.ndarray | None = None, *, kind: str = "webp"
) -> bytes:
    """A picture of a series and its scores.

    Args:
        series: ``[C, N]``.
        scores: ``[N]``.
        labels: 0 or 1, ``[N]``: what is 1 is shaded.
        kind: ``"webp"``, ``"png"`` or ``"svg"``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 1 if scores is None else 2
    figure = Figure(figsize=(9, 1.6 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(rows, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2][:rows]}))
    for i, row in enumerate(series[:MOST_VARIATES]):
        _line(axes[0], row, f"C{i}")
    if scores is not None:
        _line(axes[1], scores, "#b3261e")
        axes[1].set_ylabel("score", fontsize=8)
    for axis in axes:
        for start, end in segments(labels) if labels is not None else ():
            axis.axvspan(start - 0.5, end - 0.5, color="#d9a400", alpha=0.3, lw=0)
        axis.margins(x=0)
        axis.tick_params(labelsize=7)
    more = len(series) - MOST_VARIATES
    axes[0].set_ylabel("value" if more <= 0 else f"first {MOST_VARIATES} of {len(series)}", fontsize=8)
    axes[-1].set_xlabel("step", fontsize=8)
    file = io.BytesIO()
    metadata = {"svg": {"Date": None}, "png": {"Software": None}}.get(kind)
    figure.savefig(file, format=kind, metadata=metadata)
    return file.getvalue()


def _line(axis, values: np.ndarray, colour: str) -> None:  # type: ignore[no-untyped-def]
    """A line, or the range of each column's steps where there are more steps than columns."""
    n = len(values)
    if n <= 2 * POINTS:
        axis.plot(np.arange(n), values, color=colour, lw=0.7)
        return
    edges = np.linspace(0, n, POINTS + 1).astype(int)
    low, high = np.minimum.reduceat(values, edges[:-1]), np.maximum.reduceat(values, edges[:-1])
    axis.fill_between(edges[:-1], low, high, color=colour, lw=0.7)
