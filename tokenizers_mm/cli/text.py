"""``mmtok text ...``: what only text has."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tokenizers_mm.cli.common import app, err, out

text = typer.Typer(help="Vocabularies and language models of text.", no_args_is_help=True)
app.add_typer(text, name="text")


class Algorithm(StrEnum):
    """How a vocabulary is learned."""

    BPE = "bpe"
    UNIGRAM = "unigram"


@text.command()
def vocabulary(
    inputs: Annotated[list[Path], typer.Argument(help="Text files, or folders to search.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the codec.", show_default=False)],
    size: Annotated[int, typer.Option("--size", "-n", help="Tokens, the 256 bytes included.", min=256)] = 8192,
    algorithm: Annotated[Algorithm, typer.Option("--algorithm", "-a", help="What learns it.")] = Algorithm.BPE,
    split: Annotated[
        str | None, typer.Option("--split", help="Only lines of this split, as docs.tsv beside each file says.")
    ] = None,
) -> None:
    """Learn a subword vocabulary from texts; its codec's folder is what [bold]load[/] and [bold]encode[/] take.

    Example: [cyan]mmtok text vocabulary ntrex/ --split train -n 8192 -o ./bpe-8k[/]
    """
    from tokenizers_mm import registry, transcode

    wing = registry.wing("text", "subword")
    files = registry.wing("text", "files")
    paths = [source for source, _ in transcode.plan(inputs, files.EXTENSIONS, transcode.SUFFIX, Path("unused"))]
    with err.status(f"learning {size} tokens from {len(paths)} file(s)"):
        codec = wing.SubwordCodec.learn(files.texts(paths, split), size, algorithm=algorithm.value)
        codec.save_pretrained(output)
    out.print(f"[green]done[/]: tm.load({str(output)!r}), or mmtok encode ... -c {output}", highlight=False)
