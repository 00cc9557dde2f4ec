"""``mmtok eval | leaderboard | bench``: measure codecs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from tokenizers_mm.cli.common import Device, app, complain, err, out


@app.command("eval")
def evaluate(
    codecs: Annotated[list[str], typer.Argument(help="Cards, folders or hf:owner/name.", show_default=False)],
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
        models=dict(_pair(model) for model in models or ()),
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


def _pair(text: str) -> tuple[str, str]:
    """``ROLE=SOURCE`` as two."""
    role, equals, source = text.partition("=")
    if not (role and equals and source):
        raise ValueError(f"--model must be ROLE=FILE or ROLE=module:name, got {text!r}")
    return role, source
