"""Verify a result: made by the named command, on the named data, by the named suite, and every mean follows from its items.

This catches a result that is stale, partial, edited or made by hand from another; it cannot prove that a machine ran: for that,
run the command that the result holds.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from tokenizers_mm import registry
from tokenizers_mm.evaluation.coders import codec_fingerprint
from tokenizers_mm.evaluation.items import find_items
from tokenizers_mm.evaluation.plan import card_and_rate
from tokenizers_mm.evaluation.report import CodecResult, Report, Summary
from tokenizers_mm.evaluation.suite import Suite, load_suite
from tokenizers_mm.evaluation.summarise import rate, summarise_metrics, summarise_stability
from tokenizers_mm.tokens import TokenSpec

PARTIAL = ("--read", "--limit", "-n", "--metrics", "--split", "--conditions")
"""Options of ``mmtok eval`` that make something else than the suite."""


def faults(report: Report) -> list[str]:
    """Why a result cannot enter a leaderboard; empty if it can."""
    try:
        suite = load_suite(report.suite)
    except ValueError as error:
        return [f"suite: {error}"]
    found = [*_identity(report, suite), *_command(report)]
    for result in report.codecs:
        where = f"{result.codec} ({result.condition})"
        found += [f"{where}: {fault}" for fault in (*_items(report, result), *_numbers(report, result))]
    return found


def _identity(report: Report, suite: Suite) -> Iterator[str]:
    if report.digest != report.content_digest():
        yield "digest: the file was changed after it was made"
    if report.settings.suite_digest != suite.digest or report.modality != suite.modality:
        yield f"suite: it has changed since; run `{report.command}` again"
    if report.settings.limit is not None:
        yield f"limit: only {report.settings.limit} files were evaluated"
    if tuple(report.settings.conditions) != suite.conditions:
        yield f"conditions: {list(report.settings.conditions)}, the suite has {list(suite.conditions)}"
    metrics = registry.wing(suite.modality, "metrics").METRICS
    if report.definitions != {key: metrics[key].describe() for key in suite.metrics}:
        yield "definitions: these are not the suite's metrics as they are defined now"
    try:
        wanted = data_fingerprint(suite)
    except (ValueError, OSError) as error:
        yield f"data: cannot be checked: {error}"
    else:
        if report.data["fingerprint"] != wanted:
            yield f"data: fingerprint {report.data['fingerprint'][:16]}, the suite's is {wanted[:16]}"
    codecs = {r.codec for r in report.codecs}
    if len(report.codecs) != len(codecs) * len(suite.conditions):
        yield "codecs: not every codec was run once under every condition"


def data_fingerprint(suite: Suite) -> str:
    """The fingerprint that a suite's data must have: the one it records, or that of the files it names."""
    if suite.fingerprint is not None:
        return suite.fingerprint
    files = registry.wing(suite.modality, "files")
    archives = getattr(files, "ARCHIVES", {})
    return find_items(suite.data_folder, files.EXTENSIONS, split=suite.split, archives=archives).fingerprint()


def _command(report: Report) -> Iterator[str]:
    try:
        words = shlex.split(report.command)
    except ValueError:
        words = []
    if words[:2] != ["mmtok", "eval"]:
        yield f"command: must be `mmtok eval ...`, got {report.command!r}"
        return
    options = {word.partition("=")[0] for word in words}
    if partial := sorted(options & set(PARTIAL)):
        yield f"command: {', '.join(partial)} makes something else than the suite"
    named = {word.rstrip("/") for word in words[2:]}
    for result in report.codecs:
        if result.kind != "baseline" and Path(result.codec).is_absolute():
            yield f"command: {result.codec!r} is a path of one machine: name a card, or a folder from where you run"
        if result.kind != "baseline" and result.codec.partition(" #")[0] not in named:
            yield f"command: does not name the codec {result.codec!r}"
    if f"--suite={report.suite}" not in words and report.suite not in _values(words, "--suite", report.modality):
        yield f"command: does not name the suite {report.suite!r}"


def _values(words: list[str], option: str, default: str) -> list[str]:
    """What follows an option on the command line."""
    given = any(word == option or word.startswith(f"{option}=") for word in words)
    return [after for word, after in pairwise(words) if word == option] if given else [default]


def _items(report: Report, result: CodecResult) -> Iterator[str]:
    names = [item.name for item in result.items]
    if len(names) != report.data["files"] or len(set(names)) != len(names):
        yield f"items: {len(set(names))} of {report.data['files']} files"
    if names != [item.name for item in report.codecs[0].items]:
        yield "items: these are other files than the first codec's"
    if result.kind == "codec" and _card_fingerprint(result.codec) not in (None, result.fingerprint):
        yield "fingerprint: the card's weights have changed since"
    if incomplete := [
        item.name for item in result.items if item.error is None and set(item.metrics) != set(report.definitions)
    ]:
        yield f"items: {incomplete[0]} does not have the suite's metrics"


@cache
def _card_fingerprint(name: str) -> str | None:
    """Fingerprint of a card's codec with the weights that ship; None where no such weights are here."""
    name = card_and_rate(name)[0]
    card = {card.name: card for card in registry.list_codecs()}.get(name)
    if card is None or card.checkpoint_folder is None:
        return None
    return codec_fingerprint(registry.load(name))


def _numbers(report: Report, result: CodecResult) -> Iterator[str]:
    """Every sum and mean, from the items again."""
    good = [item for item in result.items if item.error is None]
    if any(set(item.metrics) != set(report.definitions) for item in good):
        return  # named already
    keys = [key for key, definition in report.definitions.items() if not definition.of_set]
    expected = summarise_metrics(result.items, keys)
    expected_stability = summarise_stability(result.items)
    speed = {
        name: Summary.of(getattr(item, f"{name}_seconds") / (item.seconds or 1) for item in good)
        for name in ("encode", "decode")
    }
    for name, got, wanted in (
        *((f"metrics.{key}", result.metrics.get(key), expected[key]) for key in keys),
        *((f"stability.{key}", result.stability.get(key), expected_stability[key]) for key in expected_stability),
        *((name, getattr(result, name), speed[name]) for name in speed),
    ):
        if got is None or not _same(got, wanted):
            yield f"{name}: the summary does not follow from the items"
    unit = 1000 if result.rate_unit == "kbit/s" else 1
    if not _close(result.nominal_rate, rate(sum(item.bits for item in good) / unit, result.items)):
        yield "nominal_rate: does not follow from the items"
    health = result.health
    size = health.real_bytes if health else sum(item.file_bytes for item in good)
    if not _close(result.file_rate, rate(8 * size / unit, result.items)):
        yield "file_rate: does not follow from the items"
    size_with_lm = result.lm.real_bytes if result.lm else None
    if not _close(result.lm_rate, None if size_with_lm is None else rate(8 * size_with_lm / unit, result.items)):
        yield "lm_rate: does not follow from the items"
    if result.kind == "codec" and good:
        yield from _tokens(result)


def _tokens(result: CodecResult) -> Iterator[str]:
    good, health = [item for item in result.items if item.error is None], result.health
    if health is None:
        yield "health: missing"
        return
    bits = TokenSpec.from_dict(result.spec).bits_per_step
    if any(not _close(item.bits, item.steps * bits) for item in good):
        yield "items: bits are not steps times the bits of a step"
    steps = sum(item.steps for item in good)
    if (health.items, health.steps) != (len(good), steps) or any(
        (sum(book.counts), book.count, len(book.counts)) != (steps, steps, book.used) for book in health.codebooks
    ):
        yield "health: does not count the items' ids"


def _same(got: Summary, wanted: Summary) -> bool:
    return (
        got.count == wanted.count
        and got.failures == wanted.failures
        and _close(got.mean, wanted.mean)
        and _close(got.ci95, wanted.ci95)
    )


def _close(got: float | None, wanted: float | None) -> bool:
    if got is None or wanted is None:
        return got is wanted
    return math.isclose(got, wanted, rel_tol=1e-6, abs_tol=1e-9)
