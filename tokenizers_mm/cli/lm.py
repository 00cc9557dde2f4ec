"""``mmtok lm``: language models of tokens."""

from __future__ import annotations

import typer

from tokenizers_mm.cli.common import app

lm = typer.Typer(help="Language models of any codec's tokens.", no_args_is_help=True)
app.add_typer(lm, name="lm")
