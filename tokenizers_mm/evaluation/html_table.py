"""The summary table of the HTML report, one row per codec and condition; part of the page itself: it shows without a script."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from tokenizers_mm.evaluation.report import CodecResult, Report, Summary
from tokenizers_mm.evaluation.tables import MISSING, short_names

COLOURS, GREYS = 8, 4  # that the style sheet has for codecs and for families of baselines


def family(name: str) -> str:
    """What a coder is called without its setting: ``Opus 6k`` and ``Opus 24k`` are one family, and so are JPEG's q10 and q50."""
    return re.sub(r"[\s@:_-]+(q|\d+:)?\d+(\.\d+)?\s*k?(bit/s|bps)?$", "", name) or name


def measured(report: Report) -> list[str]:
    """Keys of the metrics that have a number anywhere; the remarks name the others."""
    order = dict.fromkeys((*report.headline, *report.definitions))
    return [key for key in order if any(result.metrics[key].count for result in report.codecs)]


def titles(report: Report) -> list[str]:
    """A short title per result: of a path what tells it apart."""
    short = short_names(result.codec for result in report.codecs)
    return [short[result.codec] for result in report.codecs]


def styles(report: Report) -> list[str]:
    """A class of the style sheet per result: codecs get colours, families of baselines shapes in grey."""
    codecs = list(dict.fromkeys(r.codec for r in report.codecs if r.kind != "baseline"))
    families = list(dict.fromkeys(family(r.codec) for r in report.codecs if r.kind == "baseline"))
    return [
        f"c{codecs.index(r.codec) % COLOURS}" if r.kind != "baseline" else f"b{families.index(family(r.codec)) % GREYS}"
        for r in report.codecs
    ]


@dataclass(frozen=True)
class _Column:
    """A column of the summary table."""

    label: str
    unit: str
    digits: int
    value: Callable[[CodecResult], float | None]
    better: str = ""
    summary: Callable[[CodecResult], Summary] | None = None
    definition: str = ""
    extra: bool = False  # shown on demand


def _columns(report: Report) -> list[_Column]:
    unit, timed = report.codecs[0].rate_unit, report.codecs[0].timed
    coded = any(result.file_rate is not None for result in report.codecs)  # detectors give nothing back
    per, ids = ("s/s", f"1/{unit.partition('/')[2]}") if timed else ("s", "1/sample")
    columns = [
        _Column("rate", unit, 2, lambda r: r.file_rate, definition="As written to files, everything included."),
        _Column(
            "with LM", unit, 2, lambda r: r.lm_rate, definition="As written to files, ids coded by a language model."
        ),
        _Column("nominal", unit, 2, lambda r: r.nominal_rate, definition="Of the ids alone, equally likely."),
        _Column("ids", ids, 1, lambda r: r.token_rate, definition="Token ids, over all codebooks.", extra=True),
        *(_metric(report, key) for key in measured(report)),
        _Column("in use", "%", 1, _health("utilisation", 100), "higher", definition="Codebook entries that occur."),
        _Column("perplexity", "", 0, _health("perplexity"), definition="2 to the entropy of the ids."),
        _Column(
            "encode" if coded else "time",
            per,
            3,
            lambda r: r.encode.mean,
            "lower",
            lambda r: r.encode,
            "Computing time.",
        ),
        _Column(
            "decode",
            per,
            3,
            lambda r: r.decode.mean if coded else None,
            "lower",
            _decode if coded else None,
            "Computing time.",
        ),
        _Column("parameters", "M", 2, lambda r: r.parameters / 1e6 if r.parameters else None, extra=True),
    ]
    return [column for column in columns if column.summary or any(column.value(r) is not None for r in report.codecs)]


def _decode(result: CodecResult) -> Summary:
    return result.decode


def _metric(report: Report, key: str) -> _Column:
    def summary(result: CodecResult) -> Summary:
        return result.metrics[key]

    m = report.definitions[key]
    extra = key not in report.headline
    return _Column(m.name, m.unit, m.digits, lambda r: summary(r).mean, m.better, summary, m.definition, extra)


def _health(name: str, scale: float = 1.0) -> Callable[[CodecResult], float | None]:
    return lambda result: result.health.mean(name) * scale if result.health else None


def summary_table(report: Report) -> str:
    """Head and body of the table, as HTML; all text from data is escaped."""
    columns = _columns(report)
    first = '<th scope="col" aria-sort="none" data-better="lower"><button type="button">codec</button></th>'
    head = first + "".join(_head_cell(column) for column in columns)
    rows = []
    for result, style, title in zip(report.codecs, styles(report), titles(report), strict=True):
        peers = [r for r in report.codecs if r.kind == result.kind != "baseline" and r.condition == result.condition]
        cells = "".join(_cell(column, result, peers) for column in columns)
        rows.append(
            f'<tr class="{escape(result.kind)}" data-condition="{escape(result.condition)}">'
            f'<th scope="row" data-value="{escape(title)}" title="{escape(result.codec)}"><i class="swatch {style}"></i>'
            f"<span>{escape(title)}{_about(result)}</span></th>{cells}</tr>"
        )
    return f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"


def _about(result: CodecResult) -> str:
    notes = [
        "baseline" if result.kind == "baseline" else "",
        result.condition if result.condition != "clean" else "",
        f"{len(result.errors)} failed" if result.errors else "",
    ]
    text = ", ".join(note for note in notes if note)
    return f"<small>{escape(text)}</small>" if text else ""


def _head_cell(column: _Column) -> str:
    arrow = {"higher": "↑", "lower": "↓"}.get(column.better, "")
    words = {"higher": "Higher is better.", "lower": "Lower is better."}.get(column.better, "")
    tail = " ".join(part for part in (column.unit, arrow) if part)
    title = " ".join(part for part in (column.definition, words) if part)
    return (
        f'<th scope="col" aria-sort="none" data-better="{column.better or "lower"}"{_extra(column)} title="{escape(title)}">'
        f'<button type="button">{escape(column.label)}<small>{escape(tail) or "&nbsp;"}</small></button></th>'
    )


def _cell(column: _Column, result: CodecResult, peers: list[CodecResult]) -> str:
    value = column.value(result)
    if value is None:
        text, number = MISSING, ""
    else:
        text, number = f"{value:.{column.digits}f}", f"{value:.8g}"
    best = bool(column.better) and value is not None and len(peers) > 1 and text == _best_text(column, peers)
    summary, title = column.summary(result) if column.summary else None, ""
    if summary is not None:
        if summary.failures:
            text += '<sup title="left out, see the remarks">*</sup>'
        if summary.ci95 is not None:
            text += f"<small>±{summary.ci95:.{column.digits}f}</small>"
        reasons = "".join(f"; {count} left out: {reason}" for reason, count in summary.failures.items())
        title = f' title="{escape(f"mean of {summary.count}{reasons}")}"'
    mark = ' class="best"' if best else ""
    return f'<td data-value="{number}"{mark}{_extra(column)}{title}>{text}</td>'


def _extra(column: _Column) -> str:
    return " data-extra" if column.extra else ""


def _best_text(column: _Column, peers: list[CodecResult]) -> str:
    """The best value as it is shown: values that look equal are equally best."""
    values = [value for value in map(column.value, peers) if value is not None]
    return f"{max(values) if column.better == 'higher' else min(values):.{column.digits}f}"
