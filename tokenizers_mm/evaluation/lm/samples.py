"""What a language model draws: whether it uses codes as held-out tokens do, and whether what they decode to is like theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.metric import Metric
from tokenizers_mm.lm.predicts import Predicts
from tokenizers_mm.tokens import Tokens, TokenSpec


@dataclass(frozen=True)
class Samples:
    """Items that were drawn, compared with held-out ones.

    Args:
        items: How many.
        divergence: Jensen-Shannon divergence of the codes' histograms in bits, 0 to 1, mean over codebooks: of the drawn items
            and all held-out ones but those whose grids they have. Few items differ by chance alone.
        metrics: Distances of what both decode to, by key of the wing's metrics of sets.
        reasons: Why there is no value of a metric.
    """

    items: int
    divergence: float
    metrics: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def draw(model: Predicts, like: Sequence[Tokens], seed: int) -> list[Tokens]:
    """Items of the grids of others, every id drawn as the model predicts; side information is that of the others.

    Args:
        model: Which.
        like: The others.
        seed: Each item has its own draws, so that it does not depend on the others.
    """
    return [_draw_one(model, item, np.random.default_rng([seed, i])) for i, item in enumerate(like)]


def _draw_one(model: Predicts, item: Tokens, rng: np.random.Generator) -> Tokens:
    shape, sizes = tuple(item.shapes[0].tolist()), item.spec.codebook_sizes
    state, ids = model.start(item.spec, shape), torch.zeros_like(item.ids)
    flat = ids.view(-1)
    for place in model.coding_order(item.spec, shape).tolist():
        upper = state.probabilities().cumsum()
        code = min(int(np.searchsorted(upper, rng.random() * upper[-1], side="right")), sizes[place % len(sizes)] - 1)
        flat[place] = code
        state.push(code)
    return replace(item, ids=ids)


def divergence(some: Sequence[Tokens], others: Sequence[Tokens]) -> float:
    """Jensen-Shannon divergence of the histograms of codes, in bits, mean over codebooks.

    Raises:
        ValueError: If either holds no ids.
    """
    sizes, found = some[0].spec.codebook_sizes, []
    steps = [torch.cat([item.ids[0] for item in items]) for items in (some, others)]
    if not all(map(len, steps)):
        raise ValueError("both sets must hold ids, got none")
    for column, size in enumerate(sizes):
        p, q = (torch.bincount(ids[:, column], minlength=size).double() / len(ids) for ids in steps)
        middle = (p + q) / 2
        found.append(sum(float(torch.special.xlogy(x, x / middle).nansum()) for x in (p, q)) / 2 / np.log(2))
    return max(0.0, float(np.mean(found)))


def compare(
    drawn: Sequence[Tokens],
    held_out: Sequence[Tokens],
    spec: TokenSpec,
    files: tuple[Sequence[Path], Sequence[Path]] = ((), ()),
) -> Samples:
    """Compare drawn items with held-out ones, the first of which have the same grids.

    Args:
        drawn: Items ``[N]``.
        held_out: More than N items.
        spec: Of their codec.
        files: What the drawn items and the first N held-out ones decode to, by :func:`write`; nothing for the histograms alone.

    Raises:
        ValueError: If there are no held-out items besides those with the same grids.
    """
    count = len(drawn)
    if len(held_out) <= count:
        raise ValueError(f"held_out must be more than the {count} drawn items, got {len(held_out)}")
    metrics, reasons = _distances(*files, spec) if files[0] else ({}, {})
    return Samples(count, divergence(drawn, held_out[count:]), metrics, reasons)


def write(items: Sequence[Tokens], codec: Codec, folder: Path) -> list[Path]:
    """Decode items to files of the codec's modality, which hold signals as any listener or viewer gets them."""
    files = registry.wing(codec.spec.modality, "files")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}{files.EXTENSIONS[0]}" for i in range(len(items))]
    for item, path in zip(items, paths, strict=True):
        files.write(path, codec.decode(item)[0], codec.spec)
    return paths


def set_metrics(modality: str) -> dict[str, Metric]:
    """The wing's metrics that compare two sets of signals and need no model, by key."""
    found: dict[str, Metric] = registry.wing(modality, "metrics").METRICS
    return {key: metric for key, metric in found.items() if metric.combine is not None and not metric.model}


def _distances(
    drawn: Sequence[Path], held_out: Sequence[Path], spec: TokenSpec
) -> tuple[dict[str, float], dict[str, str]]:
    """Values, and why others are missing."""
    metrics = set_metrics(spec.modality)
    files, compute = registry.wing(spec.modality, "files"), registry.wing(spec.modality, "metrics").compute
    features: dict[str, list[tuple[Tensor, Tensor]]] = {key: [] for key in metrics}
    reasons: dict[str, str] = {}
    for estimate, reference in zip(drawn, held_out, strict=True) if metrics else ():
        scores = compute(files.read(reference, spec), files.read(estimate, spec), spec, list(metrics))
        for key, pair in scores.features.items():
            features[key].append(pair)
        reasons |= {key: reason for key, reason in scores.reasons.items() if key not in scores.features}
    values = {}
    for key, pairs in features.items():
        combine = metrics[key].combine
        if pairs and combine is not None:
            values[key] = combine(*(torch.cat(side) for side in zip(*pairs, strict=True)))
    return values, reasons
