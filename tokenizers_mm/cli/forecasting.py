"""``mmtok forecast | forecast-eval``: the future of series in files, and how well it is foretold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tokenizers_mm.cli.common import Force, app, err, out

Horizon = Annotated[int, typer.Option("--horizon", "-H", help="Samples ahead.", min=1)]
Context = Annotated[int, typer.Option("--context", help="Samples of the past that a model sees.", min=1)]
Season = Annotated[int, typer.Option("--season", help="Samples of a season.", min=1)]
_MODELS = (
    "last, seasonal, linear, boosting, totem-forecaster-etth1, bins-lm-etth1, or the folder of a trained model or a Chronos "
    "checkpoint."
)


@app.command()
def forecast(
    source: Annotated[Path, typer.Argument(help="CSV, Parquet or NumPy; rows are points in time.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: NAME-forecast.csv beside it.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help=_MODELS)] = "linear",
    horizon: Horizon = 24,
    context: Context = 96,
    season: Season = 24,
    levels: Annotated[
        str | None,
        typer.Option(
            "--quantiles", "-q", help="Levels such as 0.1,0.9: a column NAME-0.1 each; for models that draw paths."
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", "-p", help="Picture (.webp, .png, .svg) with bands of quantiles.")
    ] = None,
    force: Force = False,
) -> None:
    """Forecast every channel of a file, on its own clock, by a model fitted to the file itself or a trained one.

    Example: [cyan]mmtok forecast load.csv --horizon 48 --season 24[/]

    Example: [cyan]mmtok forecast load.csv -m bins-lm-etth1 --quantiles 0.1,0.9 --picture load.png[/]
    """
    from tokenizers_mm import registry, transcode

    room = registry.wing("timeseries", "forecast.ahead")
    target = output or source.with_name(f"{source.name.partition('.')[0]}-forecast.csv")
    for path in (target, *([picture] if picture else [])):
        transcode.check_free(path, force)
    found = room.forecast_file(source, model, horizon, context=context, season=season)
    found.save(target, room.parse_levels(levels))
    if picture is not None:
        found.show(picture)
    out.print(f"[green]written[/]: {target}, {horizon} samples of {len(found.past.names)} channel(s)", highlight=False)


@app.command("forecast-eval")
def forecast_eval(
    source: Annotated[Path, typer.Argument(help="CSV, Parquet or NumPy.", show_default=False)],
    models: Annotated[
        str, typer.Option("--models", help="As for forecast, comma-separated; {horizon} stands for the number.")
    ] = "last,seasonal,linear",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file of the table.")] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="etth or ettm; default: 70, 10 and 20 % of the rows.")
    ] = None,
    horizons: Annotated[str, typer.Option("--horizons", help="Comma-separated.")] = "96,192,336,720",
    context: Context = 96,
    season: Season = 24,
    stride: Annotated[int, typer.Option("--stride", help="From one test window to the next.", min=1)] = 1,
) -> None:
    """Score forecasters on the last rows of a file: values standardised by its first rows, every window, all channels.

    Example: [cyan]mmtok forecast-eval ETTh1.csv.gz --protocol etth[/]
    """
    from tokenizers_mm import registry

    room = registry.wing("timeseries", "forecast.report")
    make_source = registry.wing("timeseries", "data").SeriesSource
    if protocol not in (None, "etth", "ettm"):
        raise ValueError(f"--protocol must be etth or ettm, got {protocol!r}")
    if not source.is_file():
        raise FileNotFoundError(f"no file of series at {source}")
    if output is not None and not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"{output} must be in a folder that exists")
    table = Table("horizon", "model", "MSE", "MAE", "MASE", "WQL", box=None)

    def each(horizon: int, name: str, row: dict[str, float]) -> None:
        cells = (f"{row[key]:.4f}" if key in row else "-" for key in ("mse", "mae", "mase", "wql"))
        table.add_row(str(horizon), escape(name), *cells)

    with err.status("scoring forecasts"):
        report = room.measure(
            make_source(str(source), protocol=protocol),
            models.split(","),
            _numbers(horizons),
            context=context,
            season=season,
            stride=stride,
            each=each,
        )
    out.print(table)
    if output is not None:
        room.save(output, report)
        out.print(f"[green]written[/]: {output}", highlight=False)


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ValueError(f"--horizons must be numbers such as 96,192, got {text!r}")
    return [int(part) for part in parts]
