"""Leaderboard: one Markdown page from the result files that pass verification."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers_mm import registry
from tokenizers_mm.cards import HUB
from tokenizers_mm.evaluation.plan import card_and_rate
from tokenizers_mm.evaluation.report import CodecResult, Report, Summary
from tokenizers_mm.evaluation.schema import json_schema, read_report
from tokenizers_mm.evaluation.suite import Suite, load_suite
from tokenizers_mm.evaluation.tables import MISSING, number, short_names
from tokenizers_mm.evaluation.verify import faults

SCHEMA_FILE = "schema.json"
INTRO = """# Leaderboard

Made by `mmtok leaderboard` from the files in `results/`, each written by the command it holds. A file enters only if its layout,
digest, suite, data fingerprint and command are right and all its means follow from its items.

Rates are nominal (ids with equally likely codes; a baseline's payload) and as written to files, headers included. ★: nothing in
the table scores better on the first metric at the same nominal rate or less. Mean ± 95 % confidence; * some clips are left out,
see the result. Speed is seconds of computing per second of signal on the machine of the result: compare it within one result.
"""
VARIANTS = """Codecs that do not ship, evaluated from their folders and named after them, best first; with the cards that ran
beside them.
"""


@dataclass(frozen=True)
class Board:
    """A leaderboard.

    Args:
        text: The page.
        accepted: Result files in it.
        rejected: Why the others are not, by file name.
    """

    text: str
    accepted: tuple[str, ...]
    rejected: dict[str, list[str]]


@dataclass(frozen=True)
class _Entry:
    file: str
    report: Report
    result: CodecResult


def results_folder() -> Path:
    """Where results live: ``eval/results``."""
    return registry.data_path("eval") / "results"


def build(results: str | Path | None = None) -> Board:
    """The leaderboard of a folder's ``*.json``.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    folder = results_folder() if results is None else Path(results)
    if not folder.is_dir():
        raise FileNotFoundError(f"results must be a folder, got {str(folder)!r}")
    accepted: dict[str, Report] = {}
    rejected: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name == SCHEMA_FILE:
            continue
        try:
            report = read_report(path)
        except ValueError as error:
            rejected[path.name] = [str(error).removeprefix(f"{path}: ")]
            continue
        if found := faults(report):
            rejected[path.name] = found
        else:
            accepted[path.name] = report
    return Board(_page(accepted), tuple(accepted), rejected)


def write(results: str | Path | None = None, output: str | Path | None = None, *, check: bool = False) -> Board:
    """Build the leaderboard and write it, and the JSON Schema of result files beside them.

    Args:
        results: Folder of result files; by default ``eval/results``.
        output: The page; by default ``LEADERBOARD.md`` beside that folder.
        check: Write nothing, but see whether both are what would be written.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: With ``check``, if one is not.
    """
    folder = results_folder() if results is None else Path(results)
    board, page = build(folder), folder.parent / "LEADERBOARD.md" if output is None else Path(output)
    schema = json.dumps(json_schema(), indent=1, sort_keys=True) + "\n"
    for path, text in ((page, board.text), (folder / SCHEMA_FILE, schema)):
        if check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                raise ValueError(f"{path} is not what `mmtok leaderboard` makes of {folder}: run it")
            continue
        partial = path.with_name(f".{path.name}.part")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    return board


def _page(reports: dict[str, Report]) -> str:
    parts = [INTRO]
    for name in sorted({report.suite for report in reports.values()}):
        of_suite = {file: report for file, report in reports.items() if report.suite == name}
        parts.append(_section(load_suite(name), of_suite))
    if not reports:
        parts.append("No result yet.\n")
    return "\n".join(parts)


def _section(suite: Suite, reports: dict[str, Report]) -> str:
    first = next(iter(reports.values()))
    data = f"{first.data['files']} files of {first.data['name']}" + (
        f" ({first.data['split']})" if first.data["split"] else ""
    )
    lines = [f"## {suite.name}", "", f"{data}, fingerprint `{first.data['fingerprint'][:16]}`.", ""]
    for condition in suite.conditions:
        entries = _newest([_Entry(f, r, c) for f, r in reports.items() for c in r.codecs if c.condition == condition])
        if len(suite.conditions) > 1:
            lines += [f"### {condition}", "", first.settings.conditions[condition], ""]
        if board := [entry for entry in entries if not _from_folder(entry.result)]:
            lines += [*_table(suite, board), ""]
        if variants := _variants(suite, entries):
            depth = "###" if len(suite.conditions) == 1 else "####"
            lines += [f"{depth} Variants", "", VARIANTS, *_table(suite, variants), ""]
    lines += ["| result | made | machine | command |", "|---|---|---|---|"]
    for file, report in reports.items():
        machine = f"{report.machine['cpu']}, {report.machine['threads']} thread(s)"
        lines.append(
            f"| [{file}](results/{file}) | {report.date[:10]} | {_plain(machine)} | `{_plain(report.command)}` |"
        )
    return "\n".join(lines) + "\n"


def _newest(entries: Sequence[_Entry]) -> list[_Entry]:
    """One entry per codec or baseline, the newest, cheapest first."""
    latest: dict[tuple[str, str], _Entry] = {}
    for entry in sorted(entries, key=lambda e: (e.report.date, e.file)):
        latest[entry.result.kind, entry.result.codec] = entry
    return sorted(latest.values(), key=lambda e: (_rate(e), e.result.codec))


def _from_folder(result: CodecResult) -> bool:
    """Whether a codec was given as a folder, which is nobody's to load by name."""
    shipped = {card.name for card in registry.list_codecs()}
    if result.kind == "detector":
        return os.sep in result.codec
    name = card_and_rate(result.codec)[0]
    return result.kind == "codec" and name not in shipped and not name.startswith(HUB)


def _variants(suite: Suite, entries: Sequence[_Entry]) -> list[_Entry]:
    """Codecs from folders, and the cards of the same results, best first by the first metric."""
    files = {entry.file for entry in entries if _from_folder(entry.result)}
    found = [entry for entry in entries if entry.file in files and entry.result.kind != "baseline"]
    sign = -1 if found and found[0].report.definitions[suite.headline[0]].better == "higher" else 1

    def quality(entry: _Entry) -> float:
        mean = entry.result.metrics[suite.headline[0]].mean
        return math.inf if mean is None else sign * mean

    return sorted(found, key=quality)


def _rate(entry: _Entry) -> float:
    return math.inf if entry.result.nominal_rate is None else entry.result.nominal_rate


def _table(suite: Suite, entries: Sequence[_Entry]) -> list[str]:
    definitions = entries[0].report.definitions
    titles = [f"{definitions[key].name} {definitions[key].arrow}" for key in suite.headline]
    header = [
        "",
        "codec",
        entries[0].result.rate_unit,
        "as file",
        *titles,
        "codes in use",
        "M params",
        "encode",
        "decode",
        "result",
    ]
    names = short_names(entry.result.codec for entry in entries)
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * 2 + "---:|" * (len(header) - 3) + "---|"]
    for entry in entries:
        result = entry.result
        name = _plain(names[result.codec])
        name = f"*{name}*" if result.kind == "baseline" else f"**{name}**"
        row = [
            "★" if _on_front(entry, entries, suite.headline[0]) else "",
            name + (f" ({len(result.errors)} failed)" if result.errors else ""),
            number(result.nominal_rate, 2),
            number(result.file_rate, 2),
            *(_cell(result.metrics[key], definitions[key].digits) for key in suite.headline),
            f"{result.health.mean('utilisation'):.1%}" if result.health else MISSING,
            number(result.parameters / 1e6 if result.parameters else None, 1),
            number(result.encode.mean, 3),
            number(result.decode.mean, 3),
            f"[{Path(entry.file).stem}](results/{entry.file})",
        ]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _on_front(entry: _Entry, entries: Sequence[_Entry], key: str) -> bool:
    """Whether nothing as cheap or cheaper scores better."""
    sign = 1 if entry.report.definitions[key].better == "higher" else -1
    mine = entry.result.metrics[key].mean
    others = [e.result.metrics[key].mean for e in entries if _rate(e) <= _rate(entry)]
    return mine is not None and not any(other is not None and sign * other > sign * mine for other in others)


def _cell(found: Summary, digits: int) -> str:
    text = number(found.mean, digits) + ("\\*" if found.failures else "")
    return text if found.ci95 is None else f"{text} ±{found.ci95:.{digits}f}"


def _plain(text: str) -> str:
    """Text that cannot break out of a Markdown table's cell."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;").split())
