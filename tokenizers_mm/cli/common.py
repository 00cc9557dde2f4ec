"""What the commands share: the application, consoles, options, one-line errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

EXPECTED = (ValueError, TypeError, OSError, ImportError)
"""What bad input raises: one red line instead of a traceback."""

app = typer.Typer(
    name="mmtok",
    help="Discrete tokenizers and codecs for every modality: list, encode, decode, train, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)

CodecOption = Annotated[
    str,
    typer.Option("--codec", "-c", help="A card's name (mmtok list), a folder, or hf:owner/name.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite files that exist.")]
Device = Annotated[str, typer.Option("--device", help="Where to run: cpu, cuda, cuda:1, mps.")]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="For a card: downloaded model.safetensors, or its folder.", show_default=False),
]
LanguageModel = Annotated[
    Path | None,
    typer.Option(
        "--lm", help="Language model that codes a token file's ids: a shipped one's name, a folder.", show_default=False
    ),
]
Reading = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        help="NAME=VALUE for the modality's file reader, such as montage=tcp16 or highpass=0.5 for EEG; repeatable.",
        show_default=False,
    ),
]
Window = Annotated[float, typer.Option("--window", help="Seconds processed at a time.", min=0.1)]


def complain(error: BaseException, about: object = None) -> None:
    """Print one red line."""
    text = " ".join(str(error).split()) or type(error).__name__
    err.print(
        f"[bold red]error:[/] {escape(text if about is None else f'{about}: {text}')}", highlight=False, soft_wrap=True
    )


def pairs(option: str, values: list[str] | None, wanted: str) -> dict[str, str]:
    """Values ``NAME=VALUE`` of a repeatable option."""
    split = [text.partition("=") for text in values or ()]
    for text, (name, equals, value) in zip(values or (), split, strict=True):
        if not (name and equals and value):
            raise ValueError(f"{option} must be {wanted}, got {text!r}")
    return {name: value for name, _, value in split}


def number(value: float | None) -> str:
    """A number for a table; a dash for none."""
    return "-" if value is None else f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def save_report(output: Path, report: Mapping[str, Any], packages: Iterable[str] = ()) -> None:
    """Write a report and what it was made with as JSON, in a folder that is made if there is none, and say so."""
    from tokenizers_mm.evaluation.environment import provenance

    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**report, **provenance(packages)}, indent=1) + "\n", encoding="utf-8")
    out.print(f"[green]written[/]: {output}", highlight=False)
