"""Metrics of many clips, in this process or in others; those that need a model always in this one, which holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context

import numpy as np

from tokenizers_mm import registry
from tokenizers_mm.evaluation.metric import Metric, Scores, measure
from tokenizers_mm.evaluation.models import Model
from tokenizers_mm.signals import Signal, portable, unpacked
from tokenizers_mm.threads import one_thread
from tokenizers_mm.tokens import Tokens, TokenSpec


@dataclass(frozen=True)
class Job:
    """One pair of signals to compare.

    Args:
        reference: What the coder was given, ``[C, ...]``.
        estimate: What it gave back.
        spec: Gives the rate.
        about: What the data's manifest says of the item.
        tokens: Its tokens, if the coder makes tokens.
    """

    reference: Signal
    estimate: Signal
    spec: TokenSpec
    about: Mapping[str, str] = field(default_factory=dict)
    tokens: Tokens | None = None


Scorer = Callable[[Sequence[Job]], Iterator[Scores]]
_Plain = tuple[str, tuple[str, ...], np.ndarray | str, np.ndarray | str, TokenSpec]


@contextmanager
def scorer(
    modality: str, metrics: Mapping[str, Metric], models: Mapping[str, Model], workers: int = 0
) -> Iterator[Scorer]:
    """A function that computes metrics of jobs, lazily and in order. Each is computed on one thread, so that its value does
    not depend on where.

    Args:
        modality: Wing whose metrics they are.
        metrics: Which ones.
        models: By role.
        workers: Processes; 0 computes in this one.
    """
    counted = {key: metric for key, metric in metrics.items() if metric.of_tokens}
    plain = tuple(key for key, metric in metrics.items() if not metric.model and key not in counted)
    modelled = tuple(key for key, metric in metrics.items() if metric.model)

    def described(jobs: Sequence[Job]) -> Iterator[_Plain]:
        for job in jobs:
            yield modality, plain, portable(job.reference), portable(job.estimate), job.spec

    def score(jobs: Sequence[Job], scores: Iterator[Scores]) -> Iterator[Scores]:
        for job, found in zip(jobs, scores, strict=True):
            others = [_with_models(modality, modelled, job, models)] if modelled else []
            others += [measure(counted, job)] if counted else []
            yield _joined([found, *others], metrics) if others else found

    if workers == 0:
        yield lambda jobs: score(jobs, map(_score, described(jobs)))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield lambda jobs: score(jobs, pool.map(_score, described(jobs)))


def _score(job: _Plain) -> Scores:
    modality, names, reference, estimate, spec = job
    try:
        compute = registry.wing(modality, "metrics").compute
        with one_thread():
            return compute(unpacked(reference), unpacked(estimate), spec, names)
    except Exception as error:
        return Scores.failed(names, f"{type(error).__name__}: {error}")


def _with_models(modality: str, names: tuple[str, ...], job: Job, models: Mapping[str, Model]) -> Scores:
    calls = {role: model.call for role, model in models.items()}
    try:
        compute = registry.wing(modality, "metrics").compute
        return compute(job.reference, job.estimate, job.spec, names, models=calls, about=job.about)
    except Exception as error:
        return Scores.failed(names, f"{type(error).__name__}: {error}")


def _joined(parts: Sequence[Scores], metrics: Mapping[str, Metric]) -> Scores:
    """All as one, in the order of ``metrics``."""
    joined = Scores()
    for part in parts:
        joined = Scores({**joined, **part}, {**joined.reasons, **part.reasons}, {**joined.features, **part.features})
    return Scores({key: joined[key] for key in metrics}, joined.reasons, joined.features)
