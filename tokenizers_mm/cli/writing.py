"""``mmtok text complete``: what a language model of text goes on with."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tokenizers_mm.cli.common import Device
from tokenizers_mm.cli.text import text


@text.command()
def complete(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or the folder of one.", show_default=False)],
    prompts: Annotated[list[str], typer.Argument(help="Beginnings; - reads one from stdin.", show_default=False)],
    max_bytes: Annotated[int, typer.Option("--max-bytes", "-n", help="Most bytes to write.", min=1)] = 256,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 takes the likeliest.", min=0)] = 0.8,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Draw from so many of the likeliest.", min=1)] = None,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Draw from the likeliest that together reach this probability.")
    ] = 0.95,
    seed: Annotated[int | None, typer.Option("--seed", help="For the same text again.")] = None,
    device: Device = "cpu",
) -> None:
    """Go on with texts; a single one appears as it is written.

    Example: [cyan]mmtok text complete hat-small "The government said"[/]

    Example: [cyan]mmtok text complete runs/mine/model "One" "Two" --temperature 0[/]
    """
    import torch

    from tokenizers_mm import registry

    generate = registry.wing("text", "generate")
    network = generate.load_model(model).to(device)
    beginnings = [sys.stdin.buffer.read() if prompt == "-" else prompt for prompt in prompts]
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    shown = [prompt if isinstance(prompt, str) else prompt.decode("utf-8", "ignore") for prompt in beginnings]
    pieces = generate.stream(
        network, beginnings, max_bytes, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator
    )
    if len(shown) == 1:
        first = next(pieces, [""])  # before anything is shown: what is wrong is said alone
        typer.echo(shown[0], nl=False)
        typer.echo(first[0], nl=False)
        for piece in pieces:
            typer.echo(piece[0], nl=False)
            sys.stdout.flush()
        typer.echo()
        return
    for piece in pieces:
        shown = [row + more for row, more in zip(shown, piece, strict=True)]
    for row in shown:
        typer.echo(row)
