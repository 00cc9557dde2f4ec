"""From items to a codec's result: sums, means and intervals. The leaderboard recomputes results with the same functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from tokenizers_mm import registry
from tokenizers_mm.evaluation.coders import Coder
from tokenizers_mm.evaluation.health import token_health
from tokenizers_mm.evaluation.lm_file import LMFile
from tokenizers_mm.evaluation.metric import Metric
from tokenizers_mm.evaluation.report import CodecResult, ItemResult, Summary
from tokenizers_mm.evaluation.stability import STABILITY
from tokenizers_mm.evaluation.store import Record
from tokenizers_mm.tokens import Tokens, TokenSpec


def summarise(
    coder: Coder, condition: str, records: Sequence[Record], metrics: Mapping[str, Metric], lm: LMFile | None = None
) -> CodecResult:
    """One coder's result under one condition.

    Args:
        coder: What ran.
        condition: Its name.
        records: One per file.
        metrics: What was measured, by key.
        lm: All tokens as coded by a language model.
    """
    items = tuple(record.item for record in records)
    good = [item for item in items if item.error is None]
    tokens = [record.tokens for record in records if record.tokens is not None]
    health = token_health(Tokens.cat(tokens)) if tokens else None
    unit_name = rate_unit(coder.spec)
    unit = 1000 if unit_name == "kbit/s" else 1
    whole = 8 * (health.real_bytes if health else sum(item.file_bytes for item in good)) / unit
    ids = sum(item.steps for item in good) * coder.spec.num_codebooks
    return CodecResult(
        codec=coder.name,
        config=coder.config,
        spec=coder.spec.to_dict(),
        parameters=coder.parameters,
        device=coder.device,
        rate_unit=unit_name,
        nominal_rate=rate(sum(item.bits for item in good) / unit, items),
        file_rate=rate(whole, items),
        token_rate=rate(ids, items) if coder.kind == "codec" else None,
        encode=Summary.of(item.encode_seconds / (item.seconds or 1) for item in good),
        decode=Summary.of(item.decode_seconds / (item.seconds or 1) for item in good),
        metrics=summarise_metrics(items, metrics)
        | {key: _combine(key, metric, records) for key, metric in metrics.items() if metric.combine is not None},
        health=health,
        items=items,
        kind=coder.kind,
        condition=condition,
        fingerprint=coder.fingerprint,
        stability=summarise_stability(items),
        lm=lm,
        lm_rate=None if lm is None or lm.real_bytes is None else rate(8 * lm.real_bytes / unit, items),
    )


def rate_unit(spec: TokenSpec) -> str:
    """What rates are in: per second, of each channel where each has tokens of its own, or per sample without time."""
    if spec.sample_rate is None:
        return f"bit/{sample_name(spec.modality)}"
    return "kbit/s" if len(spec.axes) == 1 else f"bit/s/{spec.axes[0]}"


def sample_name(modality: str) -> str:
    """What a sample of a modality without time is called: its file room's ``SAMPLE``."""
    return getattr(registry.wing(modality, "files"), "SAMPLE", "sample")


def rate(amount: float, items: Sequence[ItemResult]) -> float | None:
    """An amount per second (or sample) of the items that did not fail; None of what costs nothing, as scores do."""
    extent = sum(item.extent for item in items if item.error is None)
    return amount / extent if extent and amount else None


def summarise_metrics(items: Sequence[ItemResult], keys: Collection[str]) -> dict[str, Summary]:
    """Summary by metric key of the items that did not fail."""
    good = [item for item in items if item.error is None]
    return {
        key: Summary.of((i.metrics[key] for i in good), (i.reasons[key] for i in good if key in i.reasons))
        for key in keys
    }


def summarise_stability(items: Sequence[ItemResult]) -> dict[str, Summary]:
    """Summary by stability key, of the items where it was measured."""
    measured = [item.stability for item in items if item.stability]
    return {key: Summary.of(shares[key] for shares in measured) for key in STABILITY if measured}


def _combine(key: str, metric: Metric, records: Sequence[Record]) -> Summary:
    """A metric of the whole set."""
    good = [record for record in records if record.item.error is None]
    found = [record.features[key] for record in good if key in record.features]
    reasons = [record.item.reasons[key] for record in good if key not in record.features]
    if not found or metric.combine is None:
        return Summary.of([], reasons)
    try:
        value = metric.combine(*(torch.cat(features) for features in zip(*found, strict=True)))
    except (RuntimeError, ValueError) as error:
        return Summary.of([], [*reasons, *[str(error)] * len(found)])
    return Summary(value, None, len(found), Summary.of([], reasons).failures)
