"""Tables of a benchmark's report."""

from __future__ import annotations

import statistics

from rich.table import Table

from tokenizers_mm.evaluation.bench import BOTH, BenchReport, Cost
from tokenizers_mm.evaluation.bench_plan import STREAM, TASKS

COLUMNS = (TASKS[0], TASKS[1], BOTH, *TASKS[2:])


def tables(report: BenchReport) -> list[Table]:
    """Speed, what the contract adds, streams, distance from the arithmetic limit, parts of each codec, storage."""
    found = [_speed(report)]
    if any(report.ratios(codec, "encode", peer) for codec, peer in report.benchmark["pairs"].items()):
        found.append(_pairs(report))
    if any(report.seconds(name, task) for name in report.streams for task in STREAM):
        found.append(_streams(report))
    return [*found, _limits(report), *(_parts(report, c) for c in report.costs if c.parts), _storage(report)]


def notes(report: BenchReport) -> list[str]:
    """What a reader has to know beside the numbers."""
    machine, threads = report.machine, int(report.machine["threads"])
    clock = "wall-clock" if report.clock == "wall" else "processor"
    found = [
        f"{machine['cpu']}, {machine['cores']} cores, {threads} in use, torch {report.versions['torch']}; "
        f"{clock} time, median of {report.benchmark['rounds']} rounds, weights random"
    ]
    if max(report.load) - threads > 0.5:
        found.append(
            f"the machine was busy (load {report.load[0]:.1f} before, {report.load[1]:.1f} after): trust ratios, not seconds"
        )
    return found + [f"{name} left out: {reason}" for name, reason in report.left_out.items()]


def _speed(report: BenchReport) -> Table:
    reference, clips = report.benchmark["reference"], report.benchmark["batch"]
    columns = [task for task in COLUMNS if any(report.seconds(cost.contender, task) for cost in report.costs)]
    training = " (training: per step)" if "train step" in columns else ""
    batches = f"; batches of {clips}" if any(task.endswith("batch") for task in columns) else ""
    table = Table(
        title=f"ms per {report.unit}{training}, times faster than {reference} (range){batches}", title_justify="left"
    )
    table.add_column("", no_wrap=True)
    for name in (*columns, *(f"peak MB, {task}" for task in ("encode", BOTH))):
        table.add_column(name, justify="right")
    for cost in report.costs:
        cells = [_timed(report, cost.contender, task) for task in columns]
        peaks = [cost.peak_bytes.get(task) for task in ("encode", BOTH)]
        table.add_row(cost.contender, *cells, *("-" if peak is None else f"{peak / 1e6:.0f}" for peak in peaks))
    return table


def _timed(report: BenchReport, contender: str, task: str) -> str:
    seconds, ratios = report.seconds(contender, task), report.ratios(contender, task)
    if not seconds:
        return "-"
    text = f"{1000 * statistics.median(seconds):.1f}"
    if not ratios or contender == report.benchmark["reference"]:
        return text
    return f"{text}\n{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"


def _pairs(report: BenchReport) -> Table:
    """Our seconds by those of the same network without the contract; the ids that both give, where weights are the same."""
    table = Table(title="codec / plain call of the same network (range): 1.05 is 5 % slower", title_justify="left")
    for name in ("", "plain"):
        table.add_column(name, no_wrap=True)
    if report.same_ids:
        table.add_column("same ids", justify="right")
    columns = [task for task in COLUMNS if any(report.seconds(codec, task) for codec in report.benchmark["pairs"])]
    for name in columns:
        table.add_column(name, justify="right")
    for codec, peer in report.benchmark["pairs"].items():
        found = [[1 / ratio for ratio in report.ratios(codec, task, peer)] for task in columns]
        cells = [f"{statistics.median(r):.3f} ({min(r):.2f}-{max(r):.2f})" if r else "-" for r in found]
        same = [f"{report.same_ids[codec]:.2%}" if codec in report.same_ids else "-"] if report.same_ids else []
        table.add_row(codec, peer, *same, *cells)
    return table


def _streams(report: BenchReport) -> Table:
    """Milliseconds per push of one hop, beside the time that the hop lasts."""
    table = Table(title="streams: ms per pushed hop, one session (share of real time)", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("hop ms", "encode", "decode", "latency ms, encode", "decode"):
        table.add_column(name, justify="right")
    for codec, stream in report.streams.items():
        spent = [report.seconds(codec, task) for task in STREAM]
        cells = [
            f"{1000 * statistics.median(s):.1f} ({statistics.median(s) / stream.hop:.0%})" if s else "-" for s in spent
        ]
        latencies = (stream.encode_latency, stream.decode_latency)
        table.add_row(codec, f"{1000 * stream.hop:.1f}", *cells, *(f"{1000 * latency:.1f}" for latency in latencies))
    return table


def _limits(report: BenchReport) -> Table:
    rates = ", ".join(f"{name} {2 * rate / 1e9:.0f}" for name, rate in report.gemm.items())
    table = Table(
        title=f"arithmetic limit per {report.unit} at the best measured rate of matrix products (GFLOP/s: {rates})",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for name in ("M params", "encode GMAC", "limit ms", "of limit", "decode GMAC", "limit ms", "of limit"):
        table.add_column(name, justify="right")
    for cost in report.costs:
        cells = [f"{cost.parameters / 1e6:.1f}"]
        for task in ("encode", "decode"):
            if task not in cost.multiply_adds:
                cells += ["-"] * 3
                continue
            limit, seconds = report.limit(cost, task), report.seconds(cost.contender, task)
            share = f"{limit / statistics.median(seconds):.0%}" if seconds else "-"
            cells += [f"{cost.multiply_adds[task] / 1e9:.2f}", f"{1000 * limit:.1f}", share]
        table.add_row(cost.contender, *cells)
    return table


def _parts(report: BenchReport, cost: Cost) -> Table:
    table = Table(title=f"parts of {cost.contender}, per {report.unit}", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("MMAC", "ms", "limit ms", "of limit"):
        table.add_column(name, justify="right")
    for part, (count, seconds) in cost.parts.items():
        limit = count / max(report.gemm.values())
        share = f"{limit / seconds:.0%}" if seconds and count else "-"
        table.add_row(part, f"{count / 1e6:.0f}", f"{1000 * seconds:.2f}", f"{1000 * limit:.2f}", share)
    return table


def _storage(report: BenchReport) -> Table:
    table = Table(title="stored ids: MB of 2-byte ids per second", title_justify="left")
    for name in ("codec", "format"):
        table.add_column(name, no_wrap=True)
    for name in ("bits per id", "write MB/s", "read MB/s"):
        table.add_column(name, justify="right")
    for row in report.storage:
        table.add_row(row.codec, row.format, f"{row.bits_per_id:.2f}", f"{row.write:.1f}", f"{row.read:.1f}")
    return table
