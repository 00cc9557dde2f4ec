"""``mmtok forecast | forecast-eval``: the future of series in files, and how well it is foretold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tokenizers_mm.cli.common import Force, app, out

Horizon = Annotated[int, typer.Option("--horizon", "-H", help="Samples ahead.", min=1)]
Context = Annotated[int, typer.Option("--context", help="Samples of the past that a model sees.", min=1)]
Season = Annotated[int, typer.Option("--season", help="Samples of a season.", min=1)]


@app.command()
def forecast(
    source: Annotated[Path, typer.Argument(help="CSV, Parquet or NumPy; rows are points in time.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: NAME-forecast.csv beside it.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="last, seasonal, linear, boosting, or the folder of a trained model.")
    ] = "linear",
    horizon: Horizon = 24,
    context: Context = 96,
    season: Season = 24,
    force: Force = False,
) -> None:
    """Forecast every channel of a file, on its own clock, by a model fitted to the file itself or a trained one.

    Example: [cyan]mmtok forecast load.csv --horizon 48 --season 24[/]

    Example: [cyan]mmtok train bins-lm-small -o runs/lm; mmtok forecast load.csv --model runs/lm/model[/]
    """
    import numpy as np

    from tokenizers_mm import registry, transcode

    files, build = registry.wing("timeseries", "files"), registry.wing("timeseries", "forecast.protocol").build
    target = output or source.with_name(f"{source.name.partition('.')[0]}-forecast.csv")
    transcode.check_free(target, force)
    series = files.load(source).regular()
    signal = series.signal()
    paths = build(model, signal, context=context, horizon=horizon, season=season)(signal[None], horizon)[0]
    found = paths.quantile(0.5, dim=-1)
    times = None
    if series.times is not None and series.step is not None:
        times = series.times[-1] + series.step * np.arange(1, horizon + 1)
    files.save(target, files.Series(found.numpy(), series.names, times))
    out.print(f"[green]written[/]: {target}, {horizon} samples of {len(series.names)} channel(s)", highlight=False)


@app.command("forecast-eval")
def forecast_eval(
    source: Annotated[Path, typer.Argument(help="CSV, Parquet or NumPy.", show_default=False)],
    models: Annotated[str, typer.Option("--models", help="As for forecast, comma-separated.")] = "last,seasonal,linear",
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

    evaluate = registry.wing("timeseries", "forecast.protocol").evaluate
    make_source = registry.wing("timeseries", "data").SeriesSource
    if protocol not in (None, "etth", "ettm"):
        raise ValueError(f"--protocol must be etth or ettm, got {protocol!r}")
    table = Table("horizon", "model", "MSE", "MAE", "MASE", "WQL", box=None)
    for horizon in (int(text) for text in horizons.split(",")):
        found = evaluate(
            make_source(str(source), protocol=protocol),
            tuple(models.split(",")),
            context=context,
            horizon=horizon,
            season=season,
            stride=stride,
        )
        for name, row in found.items():
            cells = (f"{row[key]:.4f}" if key in row else "-" for key in ("mse", "mae", "mase", "wql"))
            table.add_row(str(horizon), name, *cells)
    out.print(table)
