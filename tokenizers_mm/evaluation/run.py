"""Run codecs and baselines over files: tokens, reconstructions, metrics, token health and speed, for any modality.

By default each clip goes through alone, so that times are those of one clip. Neither workers, nor batches, nor a break in between
change a number (batches: but for the rounding of floating point).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tokenizers_mm import registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation import environment
from tokenizers_mm.evaluation.coders import Coded, Coder
from tokenizers_mm.evaluation.condition import Condition
from tokenizers_mm.evaluation.detection import AnomalyScorer
from tokenizers_mm.evaluation.keep import Keeper
from tokenizers_mm.evaluation.lm_file import LMFile, lm_file
from tokenizers_mm.evaluation.models import Source
from tokenizers_mm.evaluation.plan import Plan, facts_of, load_coders, make_plan, with_baselines
from tokenizers_mm.evaluation.report import CodecResult, ItemResult, Report, Settings
from tokenizers_mm.evaluation.scoring import Job, Scorer, scorer
from tokenizers_mm.evaluation.store import Record, Store
from tokenizers_mm.evaluation.summarise import summarise
from tokenizers_mm.lm.compression import LMCoder
from tokenizers_mm.reading import reading as reading_options
from tokenizers_mm.signals import Signal, extents
from tokenizers_mm.tokens import TokenSpec

# Clips are coded a few at a time and then measured: few, to bound memory; never both at once, as workers would disturb timing.
CLIPS_PER_WORKER = 4


def evaluate(
    codecs: Sequence[str | Path | Codec | AnomalyScorer],
    *,
    data: str | Path | None = None,
    split: str | None = None,
    output: str | Path | None = None,
    limit: int | None = None,
    metrics: Iterable[str] | None = None,
    suite: str | Path | None = None,
    conditions: Iterable[str] | None = None,
    baselines: Iterable[str] | None = None,
    models: Mapping[str, Source] | None = None,
    reading: Mapping[str, object] | None = None,
    lm: str | Path | None = None,
    workers: int = 0,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    keep: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Report:
    """Measure codecs of one modality, and baselines beside them, on the same files.

    A file that cannot be read, coded or measured is listed with its error, and the others are still evaluated. With ``output``,
    finished items are kept in the folder ``<output>.partial`` until the report is written, so that a run that was killed goes on
    from there and gives the same numbers.

    Args:
        codecs: Card names, folders or codecs, ``NAME@KBPS`` for a scalable one at a bitrate in kbit/s; with a suite of a
            detection wing, detectors.
        data: Folder, manifest CSV (columns ``path`` and, optionally, ``split``) or file; by default the suite's own samples.
        split: Rows of a manifest that count, ``"all"`` for all; by default the suite's.
        output: JSON file to write.
        limit: At most so many files.
        metrics: Metric keys; by default the suite's.
        suite: Name or path of a suite; by default the modality's.
        conditions: Names of conditions; by default the suite's.
        baselines: Names of baselines, none if empty; by default the suite's.
        models: What metrics need, by role (see :mod:`tokenizers_mm.evaluation.models`).
        reading: Options of the wing's file reader, by name; by default the suite's.
        lm: Name or folder of a language model, for the rate of files whose ids it codes. Takes milliseconds for each id, and
            begins anew after a break; codecs whose tokens it does not know have no such rate.
        workers: Processes for metrics; 0 computes them in this one.
        batch_size: Clips that are coded together.
        device: Where codecs that are loaded here run.
        keep: Folder for every item's original, reconstruction and tokens; their paths are in ``ItemResult.kept``.
        resume: Whether to go on from what an earlier run left behind.
        progress: Whether to show a progress bar.

    Returns:
        The report; ``report.table()`` prints.

    Raises:
        ValueError: If there is no codec, they are of several modalities, or a suite, metric, condition, baseline, model or
            split is unknown.
        FileNotFoundError: If the data, the model or the folder of ``output`` does not exist.
    """
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise FileNotFoundError(f"output must be in a folder that exists, got {str(output)!r}")
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    evaluated, modality = load_coders(codecs, suite, device)
    plan = make_plan(modality, suite, data, split, limit, metrics, conditions, baselines, models, reading)
    coders, unavailable = with_baselines(evaluated, plan)
    by_lm = None if lm is None else partial(lm_file, str(lm), LMCoder.load(lm))
    join = getattr(registry.wing(plan.suite.modality, "show"), "beside", None) if keep is not None else None
    work = None if output is None else Path(f"{output}.partial")
    if work is not None and not resume:
        shutil.rmtree(work, ignore_errors=True)
    results = []
    with scorer(plan.suite.modality, plan.metrics, plan.models, workers) as score, _bar(progress) as bar:
        for where, change in plan.conditions.items():
            for coder in coders:
                task = bar.add_task(
                    coder.name + ("" if len(plan.conditions) == 1 else f", {where}"), total=len(plan.items)
                )
                keeper = None if keep is None else Keeper(Path(keep), plan.files, coder.name, where, join)
                store = Store(work, coder.name, where, facts_of(plan, coder, change, keep))
                job = _Run(coder, where, change, plan, score, store, keeper, batch_size)
                records = job.records(workers, partial(bar.advance, task))
                file = None if by_lm is None else _coded(records, by_lm, bar, f"{coder.name} coded by {lm}")
                results.append(summarise(coder, where, records, plan.metrics, file))
    report = _report(plan, results, unavailable, limit, batch_size, keep, output)
    if output is not None:
        report.save(output)
        shutil.rmtree(Path(f"{output}.partial"), ignore_errors=True)
    return report


def _coded(records: Sequence[Record], code: Callable[..., LMFile], bar: Progress, title: str) -> LMFile | None:
    """The items' tokens as coded by a language model; None for what makes no tokens."""
    tokens = [record.tokens for record in records if record.tokens is not None]
    return code(tokens, partial(bar.advance, bar.add_task(title, total=len(tokens)))) if tokens else None


def _report(
    plan: Plan,
    results: Sequence[CodecResult],
    unavailable: dict[str, str],
    limit: int | None,
    batch_size: int,
    keep: str | Path | None,
    output: str | Path | None,
) -> Report:
    return Report(
        suite=plan.suite.name,
        modality=plan.suite.modality,
        data={
            "name": plan.items.root.resolve().name,
            "split": plan.items.split,
            "files": len(plan.items),
            "fingerprint": plan.fingerprint,
            "wanted": plan.suite.fingerprint,
        },
        definitions={key: metric.describe() for key, metric in plan.metrics.items()},
        headline=tuple(key for key in plan.suite.headline if key in plan.metrics) or tuple(plan.metrics),
        codecs=tuple(results),
        **environment.provenance(package for metric in plan.metrics.values() for package in metric.needs),
        settings=Settings(
            suite_digest=plan.suite.digest,
            conditions={name: change.definition for name, change in plan.conditions.items()},
            baselines={base.name: base.definition for base in plan.baselines.values()},
            models={role: model.source for role, model in plan.models.items()},
            limit=limit,
            batch_size=batch_size,
            unavailable=unavailable,
        ),
        kept=None if keep is None else os.path.relpath(keep, Path(output).parent if output else Path()),
        about={name: dict(plan.items.about[name]) for name in plan.items.names if name in plan.items.about},
    )


# -- one coder under one condition -----------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    coder: Coder
    where: str
    change: Condition
    plan: Plan
    score: Scorer
    store: Store
    keeper: Keeper | None
    batch_size: int

    def records(self, workers: int, advance: Callable[[], object]) -> list[Record]:
        """One record per file in order, those of an earlier run first."""
        done = self.store.load()
        left = [name for name in self.plan.items.names if name not in done]
        for _ in range(len(self.plan.items) - len(left)):
            advance()
        chunk = -(-max(1, workers) * CLIPS_PER_WORKER // self.batch_size) * self.batch_size
        for start in range(0, len(left), chunk):
            for record in self._chunk(left[start : start + chunk]):
                self.store.append(record)
                done[record.item.name] = record
                advance()
        return [done[name] for name in self.plan.items.names]

    def _chunk(self, names: Sequence[str]) -> Iterator[Record]:
        signals, failed = self._read(names)
        coded: dict[str, Coded] = {}
        readable = list(signals)
        for start in range(0, len(readable), self.batch_size):
            batch = readable[start : start + self.batch_size]
            coded |= self._code({name: signals[name] for name in batch}, failed)
        about, spec = self.plan.items.about, self.coder.spec
        scores = self.score([Job(signals[n], c.estimate, spec, about.get(n, {}), c.tokens) for n, c in coded.items()])
        measured = dict(zip(coded, scores, strict=True))
        for name in names:
            if name in failed:
                yield Record(ItemResult(name, error=failed[name]))
                continue
            found, item = measured[name], self._item(name, signals[name], coded[name])
            item = replace(item, metrics=dict(found), reasons=found.reasons)
            yield Record(item, coded[name].tokens, found.features)

    def _read(self, names: Sequence[str]) -> tuple[dict[str, Signal], dict[str, str]]:
        """Signals as the coder gets them, and errors of those that cannot be read."""
        signals, failed = {}, {}
        for name in names:
            try:
                signals[name] = self._signal(name)
            except Exception as error:  # one file's fault must not cost the run: it is listed
                failed[name] = f"{type(error).__name__}: {error}"
        return signals, failed

    def _signal(self, name: str) -> Signal:
        """An item as the coder gets it."""
        options = reading_options(self.plan.suite.modality, {**self.coder.reading, **self.plan.reading})
        signal = self.plan.files.read(self.plan.items.path(name), self.coder.spec, **options)
        return self.change.apply(signal, self.coder.spec, name)

    def _code(self, signals: Mapping[str, Signal], failed: dict[str, str]) -> dict[str, Coded]:
        """Signals through the coder; where a batch fails, one by one, to find whose fault it is."""
        stable = self.plan.suite.stability and self.where == "clean"
        try:
            return dict(zip(signals, self.coder.code(list(signals.values()), with_stability=stable), strict=True))
        except Exception as error:
            if len(signals) == 1:
                failed[next(iter(signals))] = f"{type(error).__name__}: {error}"
                return {}
        return {name: coded for key in signals for name, coded in self._code({key: signals[key]}, failed).items()}

    def _item(self, name: str, signal: Signal, coded: Coded) -> ItemResult:
        spec, tokens = self.coder.spec, coded.tokens
        rows = len(spec.axes) > 1 and spec.sample_rate is not None  # each channel has tokens of its own
        kept = None
        if self.keeper:
            prefixes = [] if tokens is None else self.coder.prefixes(tokens)
            kept = self.keeper(name, spec, signal, coded.estimate, tokens, prefixes)
        return ItemResult(
            name=name,
            size=tuple(tokens.side["size"][0].tolist()) if tokens is not None and not rows else _size(signal, spec),
            seconds=extents(signal)[-1] / spec.sample_rate if spec.sample_rate else None,
            steps=int(tokens.lengths[0]) if tokens is not None else 0,
            bits=coded.bits,
            file_bytes=coded.file_bytes,
            encode_seconds=coded.encode_seconds,
            decode_seconds=coded.decode_seconds,
            kept=kept,
            stability=coded.stability,
        )


def _size(signal: Signal, spec: TokenSpec) -> tuple[int, ...]:
    """Samples along each axis; channels count where they are an axis of the token grid."""
    return extents(signal) if isinstance(signal, str) or spec.axes[0] == "channel" else extents(signal)[1:]


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
