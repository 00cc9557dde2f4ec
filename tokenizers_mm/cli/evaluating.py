"""``mmtok eval | report | leaderboard | bench | bench-long``: measure codecs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from tokenizers_mm.cli.common import Device, Reading, Window, app, complain, err, out, pairs


@app.command("eval")
def evaluate(
    codecs: Annotated[
        list[str],
        typer.Argument(
            help="Cards, folders or hf:owner/name; NAME@KBPS: a scalable one at that bitrate.", show_default=False
        ),
    ],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Folder, manifest CSV or file; default: the shipped samples.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Rows of a manifest that count; 'all' for every row; default: the suite's."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="A shipped suite's name, or a YAML file; default: the modality's.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Comma-separated; default: the suite's.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Only the first files.", min=1)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="The report as one page to listen to and look at; send it to anyone.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", help="Folder for originals, reconstructions and tokens.", show_default=False),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Run the suite's classical coders too.")
    ] = True,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="ROLE=FILE (TorchScript, ONNX) or ROLE=module:name, for metrics that need one; repeatable."
        ),
    ] = None,
    reading: Reading = None,
    lm: Annotated[
        str | None,
        typer.Option(
            "--lm",
            help="Language model, by name or folder: also the rate of files whose ids it codes. Slow: milliseconds an id.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", help="Processes for metrics; 0: none extra.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Files coded together.", min=1)] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on from what a run to the same --output left when it was killed."
        ),
    ] = True,
    device: Device = "cpu",
    details: Annotated[bool, typer.Option("--details", help="Also print every metric.")] = False,
) -> None:
    """Measure reconstruction quality, bitrate, codebook use and speed; one row per codec.

    Example: [cyan]mmtok eval wavtokenizer-speech-16k ./my_codec --data ~/speech/test -o report.json --html report.html[/]
    """
    from tokenizers_mm.evaluation.html import write_html
    from tokenizers_mm.evaluation.run import evaluate as run

    if html is not None and not html.absolute().parent.is_dir():
        raise FileNotFoundError(f"--html must be in a folder that exists, got {str(html)!r}")
    passing = Path(f"{html}.partial") if html is not None and keep is None else None
    if passing is not None:
        passing.mkdir(exist_ok=True)
    report = run(
        codecs,
        data=data,
        split=split,
        suite=suite,
        output=output,
        limit=limit,
        metrics=metrics.split(",") if metrics else None,
        baselines=None if baselines else (),
        models=pairs("--model", models, "ROLE=FILE or ROLE=module:name"),
        reading=pairs("--read", reading, "NAME=VALUE") or None,
        lm=lm,
        workers=workers,
        batch_size=batch_size,
        device=device,
        resume=resume,
        keep=keep or passing,
    )
    if html is not None:
        write_html(report, html, items_folder=keep or passing)
    if passing is not None:
        shutil.rmtree(passing, ignore_errors=True)
        report = report.without_files()
        if output is not None:
            report.save(output)
    out.print(report.table())
    if details:
        out.print(report.details())
    for note in report.notes():
        out.print(f"* {note}", markup=False, highlight=False)
    if any(result.errors for result in report.codecs):
        raise typer.Exit(1)


@app.command("report")
def show_report(
    results: Annotated[
        list[Path], typer.Argument(help="Result files that `mmtok eval -o FILE` wrote.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; default: beside the first file.", show_default=False),
    ] = None,
    items: Annotated[
        list[Path] | None,
        typer.Option("--items", help="Folder of kept files (eval --keep) that is not beside its result; repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Items with sound and pictures.", min=0)] = 30,
) -> None:
    """Make one page to look at from saved results of the same data: all their codecs side by side.

    Example: [cyan]mmtok report a.json b.json -o page.html[/]
    """
    from tokenizers_mm.evaluation.html import write_html
    from tokenizers_mm.evaluation.merge import merge

    merged = merge(results, items=items or ())
    page = results[0].with_suffix(".html") if output is None else output
    write_html(merged.report, page, items_folder=merged.folder, limit=limit, sources=merged.sources)
    for note in merged.notes:
        out.print(f"* {note}", markup=False, highlight=False)
    out.print(f"[green]written[/]: {escape(str(page))}, {page.stat().st_size / 1e6:.1f} MB", highlight=False)


@app.command()
def leaderboard(
    results: Annotated[
        Path | None, typer.Argument(help="Folder of result files; default: eval/results.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; default: LEADERBOARD.md beside that folder.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the page is out of date.")] = False,
) -> None:
    """Make the leaderboard from result files that `mmtok eval --suite NAME -o FILE` wrote; what does not verify stays out.

    Example: [cyan]mmtok leaderboard eval/results[/]
    """
    from tokenizers_mm.evaluation.leaderboard import write

    board = write(results, output, check=check)
    out.print(f"{len(board.accepted)} results in the leaderboard", highlight=False)
    for file, faults in board.rejected.items():
        complain(ValueError("; ".join(faults)), file)
    if board.rejected:
        raise typer.Exit(1)


@app.command()
def bench(
    benchmark: Annotated[str, typer.Argument(help="A shipped benchmark, or a YAML file.")] = "audio",
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", help="Threads of PyTorch; default: its own choice.", min=1)
    ] = None,
    clock: Annotated[
        Literal["wall", "cpu"],
        typer.Option("--clock", help="cpu: processor time, for a busy machine and one thread."),
    ] = "wall",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
) -> None:
    """Time codecs beside public ones, in turns: encoding, decoding, training, memory, storage.

    Example: [cyan]mmtok bench --threads 2 -o bench.json[/]
    """
    from tokenizers_mm.evaluation import bench_tables
    from tokenizers_mm.evaluation.bench import bench as run

    with err.status("building the contenders") as status:
        report = run(benchmark, threads=threads, clock=clock, output=output, progress=status.update)
    for table in bench_tables.tables(report):
        out.print(table)
    for note in bench_tables.notes(report):
        out.print(f"* {note}", markup=False, highlight=False)


@app.command("bench-long")
def bench_long(
    codecs: Annotated[list[str], typer.Argument(help="Cards (random weights) or folders.", show_default=False)],
    hours: Annotated[float, typer.Option("--hours", help="Length of the signal.")] = 3.0,
    channels: Annotated[int, typer.Option("--channels", help="Of the signal, for codecs of any number.", min=1)] = 1,
    window: Window = 10.0,
    threads: Annotated[int, typer.Option("--threads", "-t", help="Threads of PyTorch.", min=1)] = 1,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where temporary files go: two recordings of that length.")
    ] = None,
) -> None:
    """Measure the memory and time of coding a generated recording of hours, each direction in a process of its own.

    Example: [cyan]mmtok bench-long wavtokenizer-speech-16k --hours 3[/]

    Example: [cyan]mmtok bench-long eeg-waveform --hours 2 --channels 64[/]
    """
    from tokenizers_mm.evaluation.long_signals import measure_long, table

    runs = []
    for codec in codecs:
        with err.status(f"{codec}: {hours:g} hours there and back"):
            runs.append(
                measure_long(codec, hours=hours, channels=channels, window=window, threads=threads, folder=folder)
            )
    out.print(table(runs))
    if not all(run.exact for run in runs):
        raise typer.Exit(1)
