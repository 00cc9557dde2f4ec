"""``mmtok train | quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenizers_mm.cli.common import app, out


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A YAML file, or a shipped one by its name; not needed to resume.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="key=value in place of the recipe's; repeatable.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", "-r", help="A checkpoint, or a run's folder, to go on from.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
) -> None:
    """Train a codec from a recipe; the run's folder gets checkpoints, logs, and a codec that [bold]load[/] reads.

    Example: [cyan]mmtok train wavtokenizer-small --set data.init_args.train.path=~/speech[/]

    Example: [cyan]mmtok train --resume runs/my-run[/]

    On several devices every one holds the whole model. Language models that don't fit are sharded instead (FSDP):
    [cyan]mmtok train lm-joint --set trainer.strategy=fsdp2[/]
    """
    from tokenizers_mm.training.run import train as run

    folder = run(recipe, overrides or [], resume=resume, output=output)
    trained = next((path for path in folder.iterdir() if (path / "model.safetensors").is_file()), folder)
    hint = f"tm.load({str(trained)!r}), or mmtok eval {trained}" if trained.name == "codec" else f"written to {trained}"
    out.print(f"[green]done[/]: {hint}", highlight=False)


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what it writes.")] = Path("quickstart"),
    train_seconds: Annotated[int, typer.Option("--train-seconds", help="How long to train.", min=0)] = 60,
) -> None:
    """Encode, decode, evaluate and train on the shipped samples: three minutes on two cores."""
    from tokenizers_mm import quickstart as tour

    tour.run(output, train_seconds=train_seconds, console=out)
