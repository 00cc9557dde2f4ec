"""Plan: all that an evaluation was asked for, looked up and checked before any work, so that a typo costs nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import tokenizers_mm
from tokenizers_mm import registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation import baseline, condition
from tokenizers_mm.evaluation.coders import BaselineCoder, CodecCoder, Coder
from tokenizers_mm.evaluation.condition import Condition
from tokenizers_mm.evaluation.detection import DetectionBaseline, DetectorCoder, detects, load_detectors
from tokenizers_mm.evaluation.items import Items, find_items
from tokenizers_mm.evaluation.metric import Metric, select
from tokenizers_mm.evaluation.models import Model, Source, find_models
from tokenizers_mm.evaluation.report import SCHEMA
from tokenizers_mm.evaluation.suite import Suite, load_suite
from tokenizers_mm.reading import reading as reading_options

_RATE = re.compile(r"\d*\.?\d+")


@dataclass(frozen=True)
class Plan:
    """What to evaluate on, and what to measure.

    Args:
        suite: The suite.
        items: The files.
        fingerprint: Theirs.
        files: The wing's file room.
        metrics: By key.
        conditions: By name.
        baselines: By name.
        models: Those that there are, by role.
        reading: Options of the wing's file reader, by name.
    """

    suite: Suite
    items: Items
    fingerprint: str
    files: ModuleType
    metrics: dict[str, Metric]
    conditions: dict[str, Condition]
    baselines: dict[str, baseline.Baseline] | dict[str, DetectionBaseline]
    models: dict[str, Model]
    reading: Mapping[str, object] = field(default_factory=dict)


def make_plan(
    modality: str,
    suite: str | Path | None,
    data: str | Path | None,
    split: str | None,
    limit: int | None,
    metrics: Iterable[str] | None,
    conditions: Iterable[str] | None,
    baselines: Iterable[str] | None,
    models: Mapping[str, Source] | None,
    reading: Mapping[str, object] | None = None,
) -> Plan:
    """Look everything up; arguments are those of :func:`tokenizers_mm.evaluation.run.evaluate`."""
    plan = load_suite(suite or modality)
    if plan.modality != modality:
        raise ValueError(f"suite {plan.name!r} is for {plan.modality} codecs, got {modality} codecs")
    files, room = registry.wing(modality, "files"), registry.wing(modality, "metrics")
    chosen = select(room.METRICS, plan.metrics if metrics is None else metrics)
    named = list(plan.conditions if conditions is None else conditions)
    others = {} if set(named) <= {"clean"} else registry.wing(modality, "conditions").CONDITIONS
    wanted = list(plan.baselines if baselines is None else baselines)
    coders = registry.wing(modality, "baselines").BASELINES if wanted else {}
    rows = plan.split if split is None else None if split == "all" else split
    items = find_items(
        plan.data_folder if data is None else data,
        files.EXTENSIONS,
        split=rows,
        limit=limit,
        archives=getattr(files, "ARCHIVES", {}),
    )
    options = plan.reading if reading is None else reading
    reading_options(modality, options)
    return Plan(
        suite=plan,
        items=items,
        fingerprint=items.fingerprint(),
        files=files,
        metrics=chosen,
        conditions=condition.choose(others, named) or {"clean": condition.CLEAN},
        baselines=baseline.choose(coders, wanted),
        models=find_models(getattr(room, "MODELS", {}), models, getattr(room, "LOADERS", {})),
        reading=options,
    )


def load_coders(codecs: Sequence[Any], suite: str | Path | None, device: torch.device | str) -> tuple[list[Coder], str]:
    """What is evaluated, and its modality; all are loaded before the first is run, so that a typo costs nothing."""
    wanted = load_suite(suite).modality if suite is not None else ""
    if wanted and detects(wanted):
        return list(load_detectors(codecs, wanted, device).values()), wanted
    named = load_codecs(codecs, device)
    return [CodecCoder(name, codec) for name, codec in named.items()], one_modality(named)


def load_codecs(codecs: Sequence[str | Path | Codec], device: torch.device | str) -> dict[str, Codec]:
    """Codecs by a name each; ``NAME@KBPS`` is a scalable one at that bitrate, kbit/s."""
    if isinstance(codecs, (str, Path, Codec)):
        codecs = [codecs]
    if not codecs:
        raise ValueError("codecs must name at least one codec, got none")
    named: dict[str, Codec] = {}
    for source in codecs:
        codec = source if isinstance(source, Codec) else _load(source, device)
        name = type(source).__name__ if isinstance(source, Codec) else os.fspath(source).rstrip("/")
        count = sum(taken == name or taken.startswith(f"{name} #") for taken in named)
        named[f"{name} #{count + 1}" if count else name] = codec
    return named


def card_and_rate(source: str) -> tuple[str, float | None]:
    """``NAME@KBPS`` as the name and the bitrate; other sources, and paths that exist, as they are."""
    name, _, rate = source.rpartition("@")
    if not name or not _RATE.fullmatch(rate) or os.path.exists(source):
        return source, None
    return name, float(rate)


def _load(source: str | Path, device: torch.device | str) -> Codec:
    name, kbps = card_and_rate(os.fspath(source))
    if kbps is None:
        return registry.load(source, device=device)
    codec = registry.load(name, device=device)
    if codec.spec.scalable != "columns":
        raise ValueError(f"{os.fspath(source)}: {name} has one bitrate only")
    return codec.with_bitrate(kbps)


def one_modality(named: Mapping[str, Codec]) -> str:
    """The modality that all share."""
    modalities = {name: codec.spec.modality for name, codec in named.items()}
    if len(set(modalities.values())) > 1:
        raise ValueError(f"codecs must be of one modality, got {modalities}")
    return next(iter(modalities.values()))


def with_baselines(evaluated: Sequence[Coder], plan: Plan) -> tuple[list[Coder], dict[str, str]]:
    """What is evaluated, then each baseline at each rate of theirs; and why a baseline cannot run."""
    coders = list(evaluated)
    specs = {(coder.spec.sample_rate, coder.spec.channels): coder.spec for coder in coders}
    unavailable: dict[str, str] = {}
    for base in plan.baselines.values():
        for (rate, channels), spec in specs.items():
            name = base.name if len(specs) == 1 else f"{base.name} ({rate:g} Hz, {channels} ch)"
            if reason := base.unavailable(spec):
                unavailable[name] = reason
            elif isinstance(base, DetectionBaseline):
                coders.append(DetectorCoder(name, base.build(), spec.modality, baseline=True))
            else:
                coders.append(BaselineCoder(name, base, spec))
    return coders, unavailable


def facts_of(plan: Plan, coder: Coder, change: Condition, keep: str | Path | None) -> dict[str, object]:
    """Everything that an item's record depends on."""
    read = {**coder.reading, **plan.reading}
    return {
        "version": [tokenizers_mm.__version__, SCHEMA, torch.__version__],
        "coder": [coder.fingerprint, coder.spec.to_dict(), coder.device],
        "data": plan.fingerprint,
        "condition": change.definition,
        "metrics": {key: metric.definition for key, metric in plan.metrics.items()},
        "models": {role: model.source for role, model in plan.models.items()},
        "stability": plan.suite.stability,
        **({"reading": {name: str(value) for name, value in read.items()}} if read else {}),
        "keep": None if keep is None else str(Path(keep).resolve()),
    }
