"""Detectors by name: TimeRCD's folders, a codec's reconstruction error, the likelihood of its tokens, the baselines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.detection import AnomalyScorer
from tokenizers_mm.timeseries.anomaly.baselines import BASELINES
from tokenizers_mm.timeseries.anomaly.scorers import CodecReconstruction, TimeRCDScorer
from tokenizers_mm.timeseries.anomaly.tokens import Bigram, TokenLikelihood
from tokenizers_mm.timeseries.timercd import TimeRCD
from tokenizers_mm.weights import CONFIG

DEFAULT = "timercd-small"


def load(
    source: str, *, codec: Callable[[str], Codec], folder: Path, device: torch.device | str = "cpu"
) -> AnomalyScorer:
    """A detector.

    Args:
        source: A shipped detector or a folder of TimeRCD, ``reconstruction:CODEC``, ``likelihood:CODEC``, or a baseline.
        codec: Loads a codec by name.
        folder: Where shipped detectors are.
        device: Where a network runs.

    Raises:
        ValueError: If there is no such detector.
    """
    kind, colon, name = source.partition(":")
    if colon and kind == "reconstruction":
        return CodecReconstruction(codec(name))
    if colon and kind == "likelihood":
        return TokenLikelihood(codec(name), Bigram())
    if source in BASELINES:
        return BASELINES[source].build()
    for found in (Path(source), folder / source):
        if (found / CONFIG).is_file():
            return TimeRCDScorer(TimeRCD.from_pretrained(found).to(device))
    raise ValueError(
        f"no detector {source!r}: expected a folder of TimeRCD, {DEFAULT!r}, one of {', '.join(BASELINES)}, "
        "reconstruction:CODEC or likelihood:CODEC"
    )
