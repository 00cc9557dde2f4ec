"""A small report with kept files, as evaluate(keep=...) leaves them, made without running a codec."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from tokenizers_mm.audio import files
from tokenizers_mm.evaluation.health import token_health
from tokenizers_mm.evaluation.keep import Keeper
from tokenizers_mm.evaluation.metric import Definition
from tokenizers_mm.evaluation.report import CodecResult, ItemResult, Report, Settings, Summary
from tokenizers_mm.tokens import Tokens, TokenSpec

RATE = 16000
SPEC = TokenSpec("audio", (64, 64), axes=("time",), hop=(320,), sample_rate=RATE)
METRICS = {
    "stoi": Definition("STOI", "", "higher", 3, "Intelligibility."),
    "mel": Definition("mel", "", "lower", 2, "Mel distance."),
    "mos": Definition("MOS", "", "higher", 1, "Needs a model.", model="mos"),
}
QUALITY = {"good": 0.9, "bad": 0.6, "Opus 6k": 0.7, "Opus 24k": 0.95}
ITEMS = ("a.wav", "b.wav", "sub/c.wav", "d.wav")


def toy_report(
    folder: Path | None = None,
    items: Sequence[str] = ITEMS,
    codecs: Sequence[str] = tuple(QUALITY),
    conditions: Sequence[str] = ("clean",),
    failing: dict[tuple[str, str], str] | None = None,
) -> Report:
    """Codecs by name (those that start with "Opus" are baselines) on items that get worse from the first to the last.

    Args:
        folder: Where the kept files go; None keeps nothing.
        items: Names.
        codecs: Names.
        conditions: Names.
        failing: Errors by codec and item.
    """
    results = [_result(folder, name, items, where, failing or {}) for where in conditions for name in codecs]
    return Report(
        suite="toy",
        modality="audio",
        data={
            "name": "clips",
            "split": "test",
            "files": len(items),
            "fingerprint": "0123456789abcdef" * 4,
            "wanted": None,
        },
        definitions=METRICS,
        headline=("stoi",),
        codecs=tuple(results),
        machine={"cpu": "Toy CPU", "cores": 2, "threads": 1, "os": "ToyOS"},
        versions={"python": "3.11", "torch": "2"},
        command="mmtok eval good bad",
        date="2026-01-02T03:04:05+00:00",
        settings=Settings("digest", dict.fromkeys(conditions, "")),
        about={name: {"language": "en" if i % 2 else "fi", "seconds": str(i)} for i, name in enumerate(items)},
    )


def _result(
    folder: Path | None, name: str, items: Sequence[str], where: str, failing: dict[tuple[str, str], str]
) -> CodecResult:
    baseline, quality = name.startswith("Opus"), QUALITY.get(name, 0.5)
    keeper = folder and Keeper(folder, files, name, where)
    made, all_tokens = [], []
    for i, item in enumerate(items):
        if (name, item) in failing:
            made.append(ItemResult(item, error=failing[name, item]))
            continue
        signal = _signal(i)
        steps = SPEC.steps(signal.shape[1])
        ids = torch.arange(2 * steps).reshape(1, steps, 2) * (i + 1) % (16 if name == "bad" else 64)
        tokens = Tokens(ids, SPEC)
        all_tokens.append(tokens)
        values: dict[str, float | None] = {"stoi": quality - 0.05 * i, "mel": 3 - 2 * quality + 0.1 * i, "mos": None}
        kept = keeper(item, SPEC, signal, quality * signal, None if baseline else tokens) if keeper else None
        seconds = signal.shape[1] / RATE
        made.append(
            ItemResult(
                item, None, (signal.shape[1],), seconds, steps, 600.0, 80, 0.01, 0.02, values, {"mos": "no model"}, kept
            )
        )
    good = [item for item in made if item.error is None]
    health = token_health(Tokens.cat(all_tokens)) if good and not baseline else None
    kbps = float(name[5:-1]) if baseline else 0.6 + 0.6 * quality
    return CodecResult(
        codec=name,
        config={},
        spec=SPEC.to_dict(),
        parameters=0 if baseline else 12345,
        device="cpu",
        rate_unit="kbit/s",
        nominal_rate=kbps,
        file_rate=1.1 * kbps,
        token_rate=None if baseline else 100.0,
        encode=Summary.of(0.01 for _ in good),
        decode=Summary.of(0.02 for _ in good),
        metrics={
            key: Summary.of((i.metrics[key] for i in good), (i.reasons[key] for i in good if key in i.reasons))
            for key in METRICS
        },
        health=health,
        items=tuple(made),
        kind="baseline" if baseline else "codec",
        condition=where,
    )


def _signal(i: int) -> torch.Tensor:
    """Three seconds of a tone, higher from item to item, swelling and fading."""
    t = torch.arange(3 * RATE) / RATE
    return (0.5 * torch.sin(2 * math.pi * 220 * (i + 1) * t) * torch.sin(math.pi * t).abs())[None]
