"""``mmtok anomaly | corpus | bench-corpus``: score series, and generate the labelled ones that detectors are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tokenizers_mm.cli.common import Device, app, err, out

DETECTION = "timeseries.anomaly"


@app.command()
def anomaly(
    series: Annotated[
        Path, typer.Argument(help="CSV, TSV, Parquet or NumPy file; rows are points in time.", show_default=False)
    ],
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            "-d",
            help="timercd-small, a folder of TimeRCD, z-score, sub-pca, isolation-forest, matrix-profile, "
            "reconstruction:CODEC or likelihood:CODEC.",
        ),
    ] = "timercd-small",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Scores as CSV, TSV, Parquet or NumPy; default: beside the series."),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", "-p", help="Picture (.png, .svg, .webp) or page (.html) of series and scores."),
    ] = None,
    time: Annotated[str | None, typer.Option("--time", help="Column of timestamps; default: found.")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Columns to score, comma-separated; default: all with numbers.")
    ] = None,
    count: Annotated[int, typer.Option("--peaks", help="How many of the highest scores to list.", min=0)] = 5,
    device: Device = "cpu",
) -> None:
    """Score how anomalous every row of a series is, without training.

    A column called label, is_anomaly or the like is kept from the detector and shaded in the picture.

    Example: [cyan]mmtok anomaly machine.csv -o scores.csv --picture scores.html[/]
    """
    from tokenizers_mm import registry
    from tokenizers_mm.evaluation.detection import load_detector

    output = output or series.with_name(f"{series.name.partition('.')[0]}-scores.csv")
    for path in (output, *([picture] if picture else [])):
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"{path} must be in a folder that exists")
    scorer = load_detector(detector, registry.wing(DETECTION, "detectors"), device)
    with err.status(f"scoring {series.name}"):
        found = registry.wing(DETECTION, "scored").score_file(
            series, scorer, time=time, columns=columns.split(",") if columns else None
        )
    found.save(output)
    if picture is not None:
        found.show(picture, f"{series.name}: {detector}")
    table = Table("when", "step", "score", title=f"highest scores of {len(found.scores)}")
    for peak in found.peaks(count):
        table.add_row(peak.when, str(peak.step), f"{peak.score:.4g}")
    if count:
        out.print(table)
    written = " and ".join(str(path) for path in (output, picture) if path)
    out.print(f"written: {written}", markup=False, highlight=False)


@app.command()
def corpus(
    output: Annotated[
        Path, typer.Argument(help="Folder of the corpus; one that was cut short goes on.", show_default=False)
    ],
    series: Annotated[int, typer.Option("--series", "-n", help="How many series.", min=1)] = 1000,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Same seed, same series.", min=0)] = 0,
    variates: Annotated[
        str, typer.Option("--variates", "-v", help="Variates per series: a number, or a range 2-50.")
    ] = "1",
    lengths: Annotated[str, typer.Option("--lengths", help="Least and most steps per series.")] = "1000-10000",
    shard_size: Annotated[int, typer.Option("--shard-size", help="Series per Parquet file.", min=1)] = 256,
    workers: Annotated[
        int, typer.Option("--workers", "-w", help="Processes; their number changes no byte.", min=1)
    ] = 1,
) -> None:
    """Generate labelled time series with anomalies, to train detectors on.

    Example: [cyan]mmtok corpus corpora/small --series 24000 --seed 1 --workers 2[/]
    """
    from tokenizers_mm import registry

    room = registry.wing("timeseries", "synthetic")
    settings = room.CorpusSettings(
        series, seed, _range("--variates", variates), _range("--lengths", lengths), shard_size
    )
    paths = room.write_corpus(output, settings, workers=workers, progress=True)
    size = sum(path.stat().st_size for path in paths)
    out.print(
        f"written: {output}, {series} series in {len(paths)} files, {size / 1e6:.1f} MB", markup=False, highlight=False
    )


@app.command("bench-corpus")
def bench_corpus(
    series: Annotated[int, typer.Option("--series", "-n", help="How many series.", min=1)] = 4096,
    workers: Annotated[int, typer.Option("--workers", "-w", help="Processes.", min=2)] = 2,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of each.", min=1)] = 3,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
) -> None:
    """Time the generator of corpora by one process and by several, in turns; their bytes must be the same.

    Example: [cyan]mmtok bench-corpus --workers 2 -o corpus.json[/]
    """
    import json

    from tokenizers_mm import registry

    measure = registry.wing("timeseries", "synthetic.speed").measure_corpus
    with err.status("generating") as status:
        report = measure(series, workers, rounds, status.update)
    table = Table("processes", "seconds by the wall", "seconds of processors", box=None)
    for name, count in (("single", 1), ("parallel", workers)):
        seconds = (sorted(report[name][clock])[rounds // 2] for clock in ("wall", "cpu"))
        table.add_row(str(count), *(f"{value:.2f}" for value in seconds))
    out.print(table)
    out.print(
        f"{report['faster']:.2f} times faster by the wall at a load of {report['load'][0]:.1f}, "
        f"{report['faster_on_free_cores']:.2f} where every process has a core to itself; the same bytes",
        highlight=False,
    )
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _range(option: str, text: str) -> tuple[int, int]:
    """``5`` or ``2-50`` as least and most."""
    least, dash, most = text.partition("-")
    try:
        return int(least), int(most if dash else least)
    except ValueError:
        raise ValueError(f"{option} must be a number or a range such as 2-50, got {text!r}") from None
