"""Detection: evaluating what scores every sample of a signal, instead of giving the signal back.

A detection suite's modality is a wing inside a wing (``timeseries.anomaly``) whose rooms are: ``files``, which reads signals with
one more channel at the end, the labels; ``metrics``, which compares these labelled signals with scores ``[1, N]``; ``detectors``,
whose ``load`` makes a detector of a name; and ``baselines`` and ``show``. A detector never sees the labels.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokenizers_mm import registry
from tokenizers_mm.evaluation.coders import Coded, Coder, codec_fingerprint
from tokenizers_mm.tokens import TokenSpec

WARM_UP = 512  # samples of a first call that is not timed


class AnomalyScorer(Protocol):
    """Something that says how anomalous every sample of a signal is.

    Attributes:
        definition: What exactly is computed, in one sentence; stored with every result.
        module: The network inside, if there is one.
    """

    definition: str
    module: nn.Module | None

    def score(self, signal: Tensor) -> Tensor:
        """Scores ``[N]`` of one signal ``[C, N]``, higher where it is more anomalous."""
        ...


@dataclass(frozen=True)
class DetectionBaseline:
    """A classical detector, and how a wing declares it: ``BASELINES: dict[str, DetectionBaseline]``.

    Args:
        name: Title in tables.
        build: Makes the scorer.
        needs: Python packages without which it cannot run.
    """

    name: str
    build: Callable[[], AnomalyScorer]
    needs: tuple[str, ...] = ()

    @property
    def definition(self) -> str:
        """What exactly is computed."""
        return self.build().definition

    def unavailable(self, spec: TokenSpec) -> str | None:
        """Why it cannot run here, or None if it can."""
        missing = [package for package in self.needs if find_spec(package) is None]
        return f"needs the package {', '.join(missing)}" if missing else None


class DetectorCoder(Coder):
    """A detector under evaluation: its estimate of a labelled signal ``[C + 1, N]`` is scores ``[1, N]``, which cost no bits.

    Args:
        name: In tables.
        scorer: What scores.
        modality: The wing.
        baseline: Whether it is one.
    """

    def __init__(self, name: str, scorer: AnomalyScorer, modality: str, *, baseline: bool = False) -> None:
        self.name, self.scorer, self._warm = name, scorer, False
        self.kind = "baseline" if baseline else "detector"
        self.spec = TokenSpec(modality, (2,), channels=0)
        module = scorer.module
        self.config: dict[str, Any] = dict(getattr(module, "config", {}))
        self.parameters = sum(p.numel() for p in module.parameters()) if module is not None else 0
        self.device = str(next((p.device for p in module.parameters()), "cpu")) if module is not None else "cpu"
        text = f"{type(scorer).__name__}: {scorer.definition} {codec_fingerprint(module) if module is not None else ''}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def code(self, signals: Sequence[Tensor], *, with_stability: bool = False) -> list[Coded]:
        return [self._score(signal[:-1]) for signal in signals]

    def _score(self, signal: Tensor) -> Coded:
        if not self._warm:  # first calls compile and allocate; they are not what a signal costs
            self.scorer.score(signal[:, :WARM_UP])
            self._warm = True
        start = time.perf_counter()
        scores = self.scorer.score(signal)
        seconds = time.perf_counter() - start
        if scores.shape != signal.shape[-1:] or not scores.isfinite().all():
            raise ValueError(f"{self.name} must give finite scores [{signal.shape[-1]}], got {list(scores.shape)}")
        return Coded(scores[None].cpu(), None, 0.0, 0, seconds, 0.0)


def detects(modality: str) -> bool:
    """Whether a modality is a wing of detectors, inside another wing."""
    if "." not in modality:
        return False
    try:
        registry.wing(modality, "detectors")
    except ValueError:
        return False
    return True


def load_detectors(sources: Sequence[Any], modality: str, device: torch.device | str = "cpu") -> dict[str, Coder]:
    """Detectors by a name each, from names that the wing's ``detectors`` room knows, or scorers as they are."""
    room = registry.wing(modality, "detectors")
    named: dict[str, Coder] = {}
    for source in [sources] if isinstance(sources, str) else sources:
        if isinstance(source, (str, Path)):
            name = str(source).rstrip("/")
            scorer: AnomalyScorer = load_detector(name, room, device)
        else:
            name, scorer = type(source).__name__, source
        count = sum(taken == name or taken.startswith(f"{name} #") for taken in named)
        name = f"{name} #{count + 1}" if count else name
        named[name] = DetectorCoder(name, scorer, modality)
    if not named:
        raise ValueError("codecs must name at least one detector, got none")
    return named


def load_detector(source: str, room: Any, device: torch.device | str = "cpu") -> AnomalyScorer:
    """One detector by name, of a wing's ``detectors`` room."""
    return room.load(
        source,
        codec=lambda name: registry.load(name, device=device),
        folder=registry.data_path("checkpoints"),
        device=device,
    )
