"""``mmtok``: the library from the command line. Heavy imports wait inside the commands: ``--help`` is instant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tokenizers_mm.cli import (  # noqa: F401  # they add their commands to the app
    codecs,
    detecting,
    dynamic,
    dynamic_models,
    evaluating,
    forecasting,
    large_vocabulary,
    lexinvariant,
    lm,
    lm_bench,
    lm_eval,
    modelling,
    probing,
    retrofitting,
    streaming,
    text,
    tokenize,
    training,
    transcoding,
)
from tokenizers_mm.cli.common import EXPECTED, app, complain, out


def main(args: list[str] | None = None) -> None:
    """Run ``mmtok``; expected failures print one line and exit with 1 (a traceback with ``--debug``)."""
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args
    try:
        app(args=[a for a in args if a != "--debug"], prog_name="mmtok")
    except EXPECTED as error:
        if debug:
            raise
        complain(error)
        raise SystemExit(1) from None


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works anywhere on the line.")] = False,
) -> None:
    if version:
        import tokenizers_mm

        out.print(f"tokenizers_mm {tokenizers_mm.__version__}", highlight=False)
        raise typer.Exit
