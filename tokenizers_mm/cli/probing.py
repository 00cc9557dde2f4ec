"""``mmtok probe``: what a classifier makes of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenizers_mm.cli.common import Device, app, err, number, out


@app.command("probe")
def run_probe(
    codecs: Annotated[list[str], typer.Argument(help="Cards, folders or hf:owner/name.", show_default=False)],
    suite: Annotated[str, typer.Option("--suite", help="A shipped probe's name, or a YAML file.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of classifiers that are networks.", min=0)] = 0,
    device: Device = "cpu",
) -> None:
    """Classify labelled data by a codec's tokens, beside features that need no codec.

    Example: [cyan]mmtok probe tfm-small --suite eeg-motor -o probe.json[/]
    """
    from tokenizers_mm.evaluation.probe import probe

    if output is not None and not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"--output must be in a folder that exists, got {str(output)!r}")
    with err.status("encoding and classifying"):
        report = probe(codecs, suite, device=device, seed=seed)
    out.print(report.table())
    for name, about in report.tokens.items():
        values = ", ".join(f"{key} {number(value)}" for key, value in about.items())
        out.print(f"* tokens of {name} on the test items: {values}", markup=False, highlight=False)
    if output is not None:
        report.save(output)
