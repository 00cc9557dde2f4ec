"""Run codecs over files: tokens, reconstructions, metrics, token health and speed, for any modality.

Each clip goes through alone, so that times are those of one clip and nothing depends on a batch. Metrics are computed on one
thread, in this process or in others: their values do not depend on where.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from tokenizers_mm import bitstream, registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation import environment
from tokenizers_mm.evaluation.health import token_health
from tokenizers_mm.evaluation.items import Items, find_items
from tokenizers_mm.evaluation.keep import Keeper
from tokenizers_mm.evaluation.metric import Scores, select
from tokenizers_mm.evaluation.report import CodecResult, ItemResult, Report, Summary
from tokenizers_mm.evaluation.suite import Suite, load_suite
from tokenizers_mm.tokens import Tokens, TokenSpec

# Clips are coded a few at a time and then measured: few, to bound memory; never both at once, as workers would disturb timing.
CLIPS_PER_WORKER = 4
T = TypeVar("T")


def evaluate(
    codecs: Sequence[str | Path | Codec],
    *,
    data: str | Path | None = None,
    split: str | None = "test",
    output: str | Path | None = None,
    limit: int | None = None,
    metrics: Iterable[str] | None = None,
    suite: str | Path | None = None,
    workers: int = 0,
    device: torch.device | str = "cpu",
    keep: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Measure codecs of one modality on the same files.

    A file that cannot be read, coded or measured is listed with its error, and the others are still evaluated.

    Args:
        codecs: Card names, folders or codecs.
        data: Folder, manifest CSV (columns ``path`` and, optionally, ``split``) or file; by default the suite's own samples.
        split: Rows of a manifest that count; None for all.
        output: JSON file to write.
        limit: At most so many files.
        metrics: Metric keys; by default the suite's.
        suite: Name or path of a suite; by default the modality's.
        workers: Processes for metrics; 0 computes them in this one.
        device: Where codecs that are loaded here run.
        keep: Folder for every item's original, reconstruction and tokens; their paths are in ``ItemResult.kept``.
        progress: Whether to show a progress bar.

    Returns:
        The report; ``report.table()`` prints.

    Raises:
        ValueError: If there is no codec, they are of several modalities, or a suite, metric or split is unknown.
        FileNotFoundError: If the data or the folder of ``output`` does not exist.
    """
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise FileNotFoundError(f"output must be in a folder that exists, got {str(output)!r}")
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    named = _load(codecs, device)
    modality = _one_modality(named)
    plan = load_suite(suite or modality)
    if plan.modality != modality:
        raise ValueError(f"suite {plan.name!r} is for {plan.modality} codecs, got {modality} codecs")
    files, room = registry.wing(modality, "files"), registry.wing(modality, "metrics")
    chosen = select(room.METRICS, plan.metrics if metrics is None else metrics)
    items = _items(plan, data, files, split, limit)
    with _scorer(modality, tuple(chosen), workers) as score, _bar(progress) as bar:
        results = []
        for name, codec in named.items():
            task = bar.add_task(name, total=len(items))
            keeper = None if keep is None else Keeper(Path(keep), files, name, "clean")
            coder = _Coder(codec, items, files, keeper)
            done = _run(coder, score, max(1, workers) * CLIPS_PER_WORKER, partial(bar.advance, task))
            results.append(_summarise(name, coder, tuple(done), tuple(chosen)))
    headline = tuple(key for key in plan.headline if key in chosen) or tuple(chosen)
    report = Report(
        suite=plan.name,
        modality=modality,
        data={
            "name": items.root.name,
            "split": items.split,
            "files": len(items),
            "fingerprint": items.fingerprint(),
        },
        definitions=chosen,
        headline=headline,
        codecs=tuple(results),
        machine=environment.machine(),
        versions=environment.versions(package for metric in chosen.values() for package in metric.needs),
        command=environment.command(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        kept=None if keep is None else os.path.relpath(keep, Path(output).parent if output else Path()),
    )
    if output is not None:
        report.save(output)
    return report


# -- what to run -----------------------------------------------------------------------------------


def _load(codecs: Sequence[str | Path | Codec], device: torch.device | str) -> dict[str, Codec]:
    """Codecs by a name each; all are loaded before the first is run, so that a typo costs nothing."""
    if isinstance(codecs, (str, Path, Codec)):
        codecs = [codecs]
    if not codecs:
        raise ValueError("codecs must name at least one codec, got none")
    named: dict[str, Codec] = {}
    for source in codecs:
        codec = source if isinstance(source, Codec) else registry.load(source, device=device)
        name = type(source).__name__ if isinstance(source, Codec) else os.fspath(source).rstrip("/")
        count = sum(taken == name or taken.startswith(f"{name} #") for taken in named)
        named[f"{name} #{count + 1}" if count else name] = codec
    return named


def _one_modality(named: dict[str, Codec]) -> str:
    modalities = {name: codec.spec.modality for name, codec in named.items()}
    if len(set(modalities.values())) > 1:
        raise ValueError(f"codecs must be of one modality, got {modalities}")
    return next(iter(modalities.values()))


def _items(plan: Suite, data: str | Path | None, files: ModuleType, split: str | None, limit: int | None) -> Items:
    if data is None:
        return find_items(plan.data_folder, files.EXTENSIONS, split=plan.split, limit=limit)
    return find_items(data, files.EXTENSIONS, split=split, limit=limit)


# -- one clip --------------------------------------------------------------------------------------


@dataclass
class _Coded:
    """A clip that went through a codec."""

    result: ItemResult
    reference: Tensor = field(default_factory=lambda: torch.empty(0))
    estimate: Tensor = field(default_factory=lambda: torch.empty(0))


class _Coder:
    """One codec over the files, timed; keeps the tokens."""

    def __init__(self, codec: Codec, items: Items, files: ModuleType, keeper: Keeper | None = None) -> None:
        self.codec, self.items, self.files, self.keeper = codec, items, files, keeper
        self.tokens: list[Tokens] = []
        self._warm = False

    def __call__(self, name: str) -> _Coded:
        """Encode and decode one file; whatever goes wrong becomes the item's error."""
        try:
            signal = self.files.read(self.items.path(name), self.codec.spec)
            batch = signal[None].to(self.codec.device)
            if not self._warm:  # first calls allocate and tune; they are not what a clip costs
                self.codec.reconstruct(batch)
                self._warm = True
            tokens, encode_seconds = self._timed(lambda: self.codec.encode(batch))
            estimate, decode_seconds = self._timed(lambda: self.codec.decode(tokens))
        except Exception as error:  # one file's fault must not cost the run: it is listed
            return _Coded(ItemResult(name, error=f"{type(error).__name__}: {error}"))
        tokens = tokens.to("cpu")
        self.tokens.append(tokens)
        result = ItemResult(
            name=name,
            size=tuple(tokens.side["size"][0].tolist()),
            seconds=signal.shape[-1] / self.codec.spec.sample_rate if self.codec.spec.sample_rate else None,
            steps=int(tokens.lengths[0]),
            bits=float(tokens.bits[0]),
            file_bytes=len(bitstream.dumps(tokens)),
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
            kept=self.keeper(name, tokens.spec, signal, estimate[0], tokens) if self.keeper else None,
        )
        return _Coded(result, signal, estimate[0].cpu())

    def _timed(self, function: Callable[[], T]) -> tuple[T, float]:
        cuda = self.codec.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self.codec.device)
        start = time.perf_counter()
        value = function()
        if cuda:
            torch.cuda.synchronize(self.codec.device)
        return value, time.perf_counter() - start


def _run(coder: _Coder, score: Scorer, chunk: int, advance: Callable[[], object]) -> Iterator[ItemResult]:
    """Results of all files in order, a chunk at a time."""
    for start in range(0, len(coder.items), chunk):
        coded = [coder(name) for name in coder.items.names[start : start + chunk]]
        scores = score([c for c in coded if c.result.error is None], coder.codec.spec)
        for c in coded:
            if c.result.error is None:
                found = next(scores)
                c.result = replace(c.result, metrics=dict(found), reasons=found.reasons)
            advance()
            yield c.result


# -- metrics, here or in other processes -----------------------------------------------------------

Scorer = Callable[[Sequence[_Coded], TokenSpec], Iterator[Scores]]


@contextmanager
def _scorer(modality: str, names: tuple[str, ...], workers: int) -> Iterator[Scorer]:
    """A function that computes the metrics of coded clips, lazily and in order."""

    def jobs(coded: Sequence[_Coded], spec: TokenSpec) -> Iterator[tuple]:
        for c in coded:
            yield modality, names, c.reference.numpy(), c.estimate.numpy(), spec

    if workers == 0:
        yield lambda coded, spec: map(_score, jobs(coded, spec))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield lambda coded, spec: pool.map(_score, jobs(coded, spec))


def _score(job: tuple[str, tuple[str, ...], np.ndarray, np.ndarray, TokenSpec]) -> Scores:
    modality, names, reference, estimate, spec = job
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return registry.wing(modality, "metrics").compute(
            torch.from_numpy(reference), torch.from_numpy(estimate), spec, names
        )
    except Exception as error:
        return Scores(dict.fromkeys(names), dict.fromkeys(names, f"{type(error).__name__}: {error}"))
    finally:
        torch.set_num_threads(threads)


# -- results ---------------------------------------------------------------------------------------


def _summarise(name: str, coder: _Coder, items: tuple[ItemResult, ...], metrics: tuple[str, ...]) -> CodecResult:
    codec, good = coder.codec, [item for item in items if item.error is None]
    health = token_health(Tokens.cat(coder.tokens)) if good else None
    timed = codec.spec.sample_rate is not None
    extent = sum(item.extent for item in good)
    unit = 1000 if timed else 1

    def rate(amount: float) -> float | None:
        return amount / extent if good else None

    return CodecResult(
        codec=name,
        config=codec.config,
        spec=codec.spec.to_dict(),
        parameters=sum(p.numel() for p in codec.parameters()),
        device=str(codec.device),
        rate_unit="kbit/s" if timed else "bit/sample",
        nominal_rate=rate(sum(item.bits for item in good) / unit),
        file_rate=rate(health.real_bytes * 8 / unit) if health else None,
        token_rate=rate(sum(item.steps for item in good) * codec.spec.num_codebooks),
        encode=Summary.of(item.encode_seconds / (item.seconds or 1) for item in good),
        decode=Summary.of(item.decode_seconds / (item.seconds or 1) for item in good),
        metrics={
            key: Summary.of((i.metrics[key] for i in good), (i.reasons[key] for i in good if key in i.reasons))
            for key in metrics
        },
        health=health,
        items=items,
    )


def _bar(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
