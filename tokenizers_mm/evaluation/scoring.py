"""Metrics of many clips, in this process or in others; those that need a model always in this one, which holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.evaluation.metric import Metric, Scores
from tokenizers_mm.evaluation.models import Model
from tokenizers_mm.threads import one_thread
from tokenizers_mm.tokens import TokenSpec


@dataclass(frozen=True)
class Job:
    """One pair of signals to compare.

    Args:
        reference: What the coder was given, ``[C, ...]``.
        estimate: What it gave back.
        spec: Gives the rate.
        about: What the data's manifest says of the item.
    """

    reference: Tensor
    estimate: Tensor
    spec: TokenSpec
    about: Mapping[str, str] = field(default_factory=dict)


Scorer = Callable[[Sequence[Job]], Iterator[Scores]]
_Plain = tuple[str, tuple[str, ...], np.ndarray, np.ndarray, TokenSpec]


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
    plain = tuple(key for key, metric in metrics.items() if not metric.model)
    modelled = tuple(key for key, metric in metrics.items() if metric.model)

    def described(jobs: Sequence[Job]) -> Iterator[_Plain]:
        for job in jobs:
            yield modality, plain, job.reference.numpy(), job.estimate.numpy(), job.spec

    def score(jobs: Sequence[Job], scores: Iterator[Scores]) -> Iterator[Scores]:
        for job, found in zip(jobs, scores, strict=True):
            yield _add(found, _with_models(modality, modelled, job, models), metrics) if modelled else found

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
            return compute(torch.from_numpy(reference), torch.from_numpy(estimate), spec, names)
    except Exception as error:
        return Scores.failed(names, f"{type(error).__name__}: {error}")


def _with_models(modality: str, names: tuple[str, ...], job: Job, models: Mapping[str, Model]) -> Scores:
    calls = {role: model.call for role, model in models.items()}
    try:
        compute = registry.wing(modality, "metrics").compute
        return compute(job.reference, job.estimate, job.spec, names, models=calls, about=job.about)
    except Exception as error:
        return Scores.failed(names, f"{type(error).__name__}: {error}")


def _add(plain: Scores, modelled: Scores, metrics: Mapping[str, Metric]) -> Scores:
    """Both as one, in the order of ``metrics``."""
    values, reasons = {**plain, **modelled}, {**plain.reasons, **modelled.reasons}
    return Scores({key: values[key] for key in metrics}, reasons, {**plain.features, **modelled.features})
