"""What a terminal shows of a report: tables, and notes on what the numbers leave out."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tokenizers_mm.cards import HUB
from tokenizers_mm.evaluation.report import CodecResult, Report

MISSING = "–"
IDS_PER_CODE = 10  # ids per entry from which use and perplexity are worth comparing


def notes(report: Report) -> list[str]:
    """What the numbers leave out, in words; see :meth:`Report.notes`."""
    lines = [f"{name} did not run: {reason}" for name, reason in report.settings.unavailable.items()]
    rates = sorted({result.spec["sample_rate"] for result in report.codecs if result.spec.get("sample_rate")})
    if len(rates) > 1:
        listed = " and ".join(f"{rate:g} Hz" for rate in rates)
        lines.append(
            f"codecs run at {listed}, each compared at its own rate: spectral distances do not compare across rates"
        )
    if report.data["wanted"] not in (None, report.data["fingerprint"]):
        lines.append(
            f"these are not the {report.suite} suite's files: the numbers do not compare with its other results"
        )
    lines += _models(report) + _left_out(report) + _failed(report) + _not_coded(report)
    for result in report.codecs:
        name = label(report, result, " ")
        books = result.health.codebooks if result.health else ()
        if few := [book for book in books if book.count < IDS_PER_CODE * book.size]:
            lines.append(
                f"{name}: use and perplexity come from {few[0].count} ids for {few[0].size} entries: "
                "too few to tell rare entries from dead ones"
            )
    return lines


def _models(report: Report) -> list[str]:
    """One line for all metrics whose model is not there."""
    lacking = [d for d in report.definitions.values() if d.model and d.model not in report.settings.models]
    if not lacking:
        return []
    roles = ", ".join(dict.fromkeys(d.model for d in lacking))
    return [f"not measured, for want of a model ({roles}): {', '.join(d.name for d in lacking)}"]


def _left_out(report: Report) -> list[str]:
    """What metrics were not defined for; codecs that lack the same number for the same reason share a line."""
    found: dict[str, list[str]] = {}
    for key, definition in report.definitions.items():
        if definition.model and definition.model not in report.settings.models:
            continue
        for result in report.codecs:
            summary = result.metrics[key]
            for reason, count in summary.failures.items():
                line = f"{definition.name} left out {count} of {summary.count + summary.failed}: {reason}"
                found.setdefault(line, []).append(label(report, result, " "))
    return _shared(report, found)


def _failed(report: Report) -> list[str]:
    """Items that failed; codecs that fail on the same item alike, as all do on a broken file, share a line."""
    found: dict[str, list[str]] = {}
    for result in report.codecs:
        for item, error in result.errors.items():
            found.setdefault(f"{item} failed: {error}", []).append(label(report, result, " "))
    return _shared(report, found)


def _not_coded(report: Report) -> list[str]:
    """Codecs whose tokens the language model does not know."""
    found: dict[str, list[str]] = {}
    for result in report.codecs:
        if result.lm is not None and result.lm.reason is not None:
            line = f"not coded by {result.lm.name}: {result.lm.reason}"
            found.setdefault(line, []).append(label(report, result, " "))
    return _shared(report, found)


def _shared(report: Report, found: dict[str, list[str]]) -> list[str]:
    """Lines with the codecs that they are about in front."""
    every = len(report.codecs) if len(report.codecs) > 1 else 0
    return [f"{'all' if len(names) == every else ', '.join(names)}: {line}" for line, names in found.items()]


def label(report: Report, result: CodecResult, gap: str) -> str:
    """The codec, and its condition where there are several."""
    return result.codec + (f"{gap}({result.condition})" if len(report.settings.conditions) > 1 else "")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Names by name: of a folder's path its last part, or as many as tell the paths apart; ``codec``, which every training
    run calls its folder, says nothing."""
    full = list(dict.fromkeys(names))

    def tail(name: str, count: int) -> str:
        if "/" not in name or name.startswith(HUB):
            return name
        return "/".join([part for part in name.split("/") if part not in ("", ".", "codec")][-count:]) or name

    for count in (1, 2, 3):
        short = {name: tail(name, count) for name in full}
        if len(set(short.values())) == len(full):
            return short
    return {name: name for name in full}


def summary(report: Report) -> Table:
    """One row per codec and condition; see :meth:`Report.table`."""
    data = report.data
    table = Table(
        title=f"{report.suite}: {data['files']} files of {data['name']}"
        + (f" ({data['split']})" if data["split"] else ""),
        caption="mean ± 95 % confidence; ↑ higher is better, ↓ lower; * see notes\n"
        + f"{report.machine['cpu']}, {report.machine['threads']} thread(s)",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        show_lines=len(report.codecs) > 1,
    )
    table.add_column("codec", overflow="fold", min_width=10)
    rate, timed = report.codecs[0].rate_unit, report.codecs[0].timed
    coded = any(result.file_rate is not None for result in report.codecs)  # detectors write nothing
    with_lm = any(result.lm_rate is not None for result in report.codecs)
    headers = (
        *((f"{rate}\nas file",) if coded else ()),
        *(("as file\nwith LM",) if with_lm else ()),
        *(_header(report, key) for key in report.headline),
        *(("in use\nperpl.", f"enc {'s/s' if timed else 's'}\ndec ↓") if coded else ("s ↓",)),
    )
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for result in report.codecs:
        failed = f"\n{len(result.errors)} failed *" if result.errors else ""
        costs = (f"{number(result.nominal_rate, 2)}\n{number(result.file_rate, 2)}",) if coded else ()
        table.add_row(
            escape(label(report, result, "\n")) + failed,
            *costs,
            *((_lm_cost(result),) if with_lm else ()),
            *(_cell(report, result, key, "\n") for key in report.headline),
            *(_work(result) if coded else (number(result.encode.mean, 3),)),
        )
    return table


def _lm_cost(result: CodecResult) -> str:
    """Rate of files coded by a language model, and how that differs from the others."""
    if result.lm_rate is None or not result.file_rate:
        return MISSING
    return f"{result.lm_rate:.2f}\n{result.lm_rate / result.file_rate - 1:+.1%}"


def _work(result: CodecResult) -> tuple[str, str]:
    """Use of the codebooks, and times."""
    health = result.health
    return (
        f"{health.mean('utilisation'):.1%}\n{health.mean('perplexity'):.0f}" if health else MISSING,
        f"{number(result.encode.mean, 3)}\n{number(result.decode.mean, 3)}",
    )


def details(report: Report) -> Table:
    """One row per metric, one column per codec and condition; see :meth:`Report.details`."""
    table = Table(title="all metrics", caption="mean ± 95 % confidence; * see notes", box=box.SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    for result in report.codecs:
        table.add_column(escape(label(report, result, "\n")), justify="right")
    for key in report.definitions:
        cells = [_cell(report, result, key, " ") for result in report.codecs]
        table.add_row(_header(report, key).replace("\n", " "), *cells)
    for key in dict.fromkeys(key for result in report.codecs for key in result.stability):
        shares = [result.stability[key].mean if key in result.stability else None for result in report.codecs]
        table.add_row(f"ids kept: {key.replace('_', ' ')} ↑", *(number(share, 3) for share in shares))
    return table


def _header(report: Report, key: str) -> str:
    metric = report.definitions[key]
    return f"{metric.name}\n{metric.unit + ' ' if metric.unit else ''}{metric.arrow}"


def best(report: Report, condition: str, key: str) -> CodecResult | None:
    """The codec with the best mean under a condition, where several can be compared; baselines do not take part."""
    peers = [r for r in report.codecs if r.kind != "baseline" and r.condition == condition]
    ranked = [(mean, i) for i, r in enumerate(peers) if (mean := r.metrics[key].mean) is not None]
    if len(ranked) < 2:
        return None
    return peers[(max if report.definitions[key].better == "higher" else min)(ranked)[1]]


def _cell(report: Report, result: CodecResult, key: str, gap: str) -> Text:
    found, digits = result.metrics[key], report.definitions[key].digits
    text = number(found.mean, digits) + ("*" if found.failures else "")
    if found.ci95 is not None:
        text += f"{gap}±{found.ci95:.{digits}f}"
    return Text(text, style="bold" if best(report, result.condition, key) is result else "")


def number(value: float | None, digits: int) -> str:
    """A number for a table; a dash for None."""
    return MISSING if value is None else f"{value:.{digits}f}"
