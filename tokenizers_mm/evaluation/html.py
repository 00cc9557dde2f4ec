"""The report as one HTML file that needs nothing else: table, rate-quality plot, token use, items to hear and look at.

Everything inside comes from the report and the kept files; the page's own policy forbids the browser every request. Text from
data reaches the page as escaped HTML, or as JSON that the script writes with ``textContent`` only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from tokenizers_mm.evaluation.gallery import Gallery, worst_first
from tokenizers_mm.evaluation.health import TokenHealth
from tokenizers_mm.evaluation.html_rates import comparisons
from tokenizers_mm.evaluation.html_table import family, measured, styles, summary_table, titles
from tokenizers_mm.evaluation.report import CodecResult, Report
from tokenizers_mm.evaluation.summarise import rate

SCRIPTS = ("dom.js", "table.js", "charts.js", "player.js", "items.js", "main.js")
CURVE_POINTS = 80  # of a rank-frequency curve


def write_html(
    report: Report,
    path: str | Path,
    *,
    items_folder: str | Path | None,
    limit: int = 30,
    sources: Sequence[Report] = (),
) -> Path:
    """Write the report as one self-contained page; the same report and files give the same bytes.

    All items are listed with their numbers. Sound, pictures and token ribbons come with the worst ``limit`` of them (failed
    ones, then by the table's first metric), as far as they fit in about 30 MB.

    Args:
        report: What :func:`tokenizers_mm.evaluation.run.evaluate` returned.
        path: The file to write.
        items_folder: Folder of the kept files (``evaluate(keep=...)``); None for a page without sound and pictures.
        limit: How many items come with sound and pictures; 0 for none.
        sources: The results that ``report`` was merged from, whose machines and commands the page names.

    Returns:
        ``path``.

    Raises:
        ValueError: If ``limit`` is negative.
        FileNotFoundError: If the folder of ``path``, or ``items_folder``, does not exist.
    """
    path, folder = Path(path), None if items_folder is None else Path(items_folder)
    if limit < 0:
        raise ValueError(f"limit must be 0 or more, got {limit}")
    for name, wanted in (("path", path.absolute().parent), ("items_folder", folder)):
        if wanted is not None and not wanted.is_dir():
            raise FileNotFoundError(f"{name} must be in a folder that exists, got {str(wanted)!r}")
    gallery = Gallery(report, folder, limit)
    names = worst_first(report)
    media = gallery.collect(names)
    overviews = gallery.overviews() if limit else {}
    script, style = "\n".join(map(page_part, SCRIPTS)), page_part("page.css")
    text = Template(page_part("page.html")).substitute(
        policy=escape(_policy(script, style)),
        style=style,
        script=script,
        title=escape(f"{report.suite} on {report.data['name']}: {', '.join(r.codec for r in report.codecs[:3])}"),
        eyebrow=escape(f"{report.modality} evaluation, suite {report.suite}"),
        heading=escape(_heading(report)),
        facts=_facts(sources or [report]),
        table=summary_table(report),
        notes=_notes(report, gallery.missing),
        data=_json_island("report", json.dumps(_payload(report, names, media, overviews), sort_keys=True)),
        media="\n".join(_json_island(f"media-{i}", media[name]) for i, name in enumerate(names) if name in media),
    )
    path.write_bytes(text.encode("utf-8", "replace"))  # file names may hold bytes that are no text
    return path


def page_part(name: str) -> str:
    """A file of the page: style, script or template."""
    return resources.files("tokenizers_mm.evaluation").joinpath("page", name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """Content security policy: this script and this style sheet by their hashes, media from inside the page, no network."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _json_island(name: str, text: str) -> str:
    """JSON as an inert element: no character in it can end the element or start another."""
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<script type="application/json" id="{name}">{safe}</script>'


# -- header and notes ------------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _heading(report: Report) -> str:
    kinds = {
        kind: len({r.codec for r in report.codecs if r.kind == kind}) for kind in ("codec", "detector", "baseline")
    }
    compared = " and ".join(_count(number, kind) for kind, number in kinds.items() if number)
    return f"{compared} on {_count(report.data['files'], 'file')} of {report.data['name']}"


def _facts(reports: Sequence[Report]) -> str:
    """What was measured, where and how; what several results agree on once."""
    rows: dict[str, dict[str, None]] = {}
    for report in reports:
        for name, value in _facts_of(report).items():
            rows.setdefault(name, {})[value] = None
    return "\n".join(
        f"<div><dt>{name}</dt>{''.join(f'<dd>{value}</dd>' for value in values)}</div>" for name, values in rows.items()
    )


def _facts_of(report: Report) -> dict[str, str]:
    """Facts of one result, as HTML."""
    machine = dict(report.machine)
    cpu, cores, threads = (machine.pop(key, "?") for key in ("cpu", "cores", "threads"))
    split = f", split {report.data['split']}" if report.data.get("split") else ""
    fingerprint = str(report.data.get("fingerprint", ""))
    return {
        "Data": f"{escape(str(report.data['name']) + split)} "
        f'<code title="SHA-256 of names and contents: {escape(fingerprint)}">{escape(fingerprint[:12])}</code>',
        "Made": escape(report.date.replace("T", " ").replace("+00:00", " UTC")),
        "Machine": escape(f"{cpu}, {cores} cores, {threads} thread(s); " + "; ".join(map(str, machine.values()))),
        "Versions": escape(", ".join(f"{name} {number}" for name, number in report.versions.items())),
        "Command": f"<code>{escape(report.command)}</code>",
    }


def _notes(report: Report, missing: list[str]) -> str:
    notes = report.notes() + [f"not shown: {line}" for line in missing]
    if not notes:
        return '<p class="quiet">Every item was coded and every metric was defined for every item.</p>'
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    listed = f"<ul>{lines}</ul>"
    if len(notes) <= 4:
        return listed
    return f"<details><summary>{len(notes)} remarks: failures, undefined metrics, small samples</summary>{listed}</details>"


# -- data for the script ---------------------------------------------------------------------------


def _payload(
    report: Report, names: list[str], media: dict[str, str], overviews: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """What the script draws from; items in the order worst first."""
    by_name = [{item.name: item for item in result.items} for result in report.codecs]
    labels, keys = _labels(report), measured(report)
    items = []
    for i, name in enumerate(names):
        found = [items_of.get(name) for items_of in by_name]
        first = next((item for item in found if item is not None and item.error is None), None)
        items.append(
            {
                "name": name,
                "media": i if name in media else None,
                "seconds": _short(first.seconds) if first else None,
                "labels": {key: value for key, value in report.about.get(name, {}).items() if key in labels},
                "results": [
                    item and {
                        "error": item.error,
                        "metrics": {key: _short(value) for key, value in item.metrics.items()},
                        "reasons": item.reasons,
                        "bytes": item.file_bytes,
                    }
                    for item in found
                ],
            }
        )  # fmt: skip
    return {
        "unit": report.codecs[0].rate_unit,
        "headline": [key for key in report.headline if key in keys],
        "metrics": [{"key": key, **asdict(report.definitions[key])} for key in keys],
        "series": [
            {**_series(*of_one), "overview": overviews.get(i)}
            for i, of_one in enumerate(zip(report.codecs, titles(report), styles(report), strict=True))
        ],
        "items": items,
        "shown": len(media),
        "rates": comparisons(report),
    }


def _labels(report: Report) -> set[str]:
    """Columns of the manifest that sort the items into a few kinds (label, language, ...): words, each for several items."""
    values: dict[str, list[str]] = {}
    for row in report.about.values():
        for key, value in row.items():
            if key == "path":
                continue
            values.setdefault(key, []).append(value)
    kinds = {key: set(found) for key, found in values.items()}
    return {
        key
        for key, found in values.items()
        if 1 < len(kinds[key]) <= max(2, len(found) // 2)
        and not any(re.fullmatch(r"[\d.]+", kind) for kind in kinds[key])
    }


def _series(result: CodecResult, title: str, style: str) -> dict[str, Any]:
    return {
        "name": title,
        "kind": result.kind,
        "condition": result.condition,
        "family": family(result.codec) if result.kind == "baseline" else result.codec,
        "style": style,
        "rate": _short(result.file_rate),
        "lm_rate": _short(result.lm_rate),
        "metrics": {key: [_short(s.mean), _short(s.ci95), s.count] for key, s in result.metrics.items()},
        "health": result.health and _health_of(result.health, result),
        "stability": {key: _short(summary.mean) for key, summary in result.stability.items()},
    }


def _health_of(health: TokenHealth, result: CodecResult) -> dict[str, Any]:
    """Token health with each codebook's counts as curves of few points: share of the ids by rank, entries seen by ids seen."""
    unit = 1000 if result.rate_unit == "kbit/s" else 1
    books = []
    for book in health.codebooks:
        plain = {key: _short(value) if isinstance(value, float) else value for key, value in asdict(book).items()}
        del plain["counts"], plain["coverage"]
        plain["curve"] = [[rank, _short(book.counts[rank - 1] / book.count)] for rank in _ranks(book.used)]
        plain["seen"] = [[ids, _short(share)] for ids, share in book.coverage]
        books.append(plain)
    return {
        "books": books,
        "steps": health.steps,
        "ideal": _short(rate(health.ideal_bits / unit, result.items)) if result.timed else None,
        "unit": result.rate_unit,
    }


def _ranks(last: int) -> list[int]:
    """Ranks from 1 to ``last``, evenly spread on a logarithmic axis."""
    spread = (round(last ** (i / (CURVE_POINTS - 1))) for i in range(CURVE_POINTS))
    return sorted(set(spread)) if last else []


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
