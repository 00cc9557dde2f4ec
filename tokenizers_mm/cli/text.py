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
    paths = [source for source, _ in transcode.find(inputs, files.EXTENSIONS)]
    with err.status(f"learning {size} tokens from {len(paths)} file(s)"):
        codec = wing.SubwordCodec.learn(files.texts(paths, split), size, algorithm=algorithm.value)
        codec.save_pretrained(output)
    out.print(f"[green]done[/]: tm.load({str(output)!r}), or mmtok encode ... -c {output}", highlight=False)


@text.command("entropy-model")
def entropy_model(
    inputs: Annotated[list[Path], typer.Argument(help="Text files, or folders to search.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model.", show_default=False)],
    contexts: Annotated[
        int, typer.Option("--contexts", help="Contexts to keep, about; 31 bytes each.", min=1)
    ] = 100_000,
    mean_bytes: Annotated[float, typer.Option("--mean-bytes", help="Wanted mean length of patches.", min=1.1)] = 4.5,
    split: Annotated[str | None, typer.Option("--split", help="Lines to learn from, as docs.tsv says.")] = None,
    valid: Annotated[str | None, typer.Option("--valid", help="Lines to measure bits per byte on.")] = None,
) -> None:
    """Learn the small model of bytes that the segmenter [bold]entropy[/] cuts by, and its threshold.

    Example: [cyan]mmtok text entropy-model ntrex/ --split train --valid valid -o ./byte-ngram[/]
    """
    import math

    from tokenizers_mm import registry, transcode

    files, wing = registry.wing("text", "files"), registry.wing("text", "ngram")
    paths = [source for source, _ in transcode.find(inputs, files.EXTENSIONS)]
    with err.status(f"counting {len(paths)} file(s)"):
        model = wing.ByteNGram.learn(files.texts(paths, split), contexts=contexts, mean_bytes=mean_bytes)
        model.save_pretrained(output)
    out.print(f"[green]done[/]: {output}, threshold {model.threshold:.4f} nats", highlight=False)
    if valid is not None:
        data = [text.encode("utf-8") for text in files.texts(paths, valid)]
        nats, size = sum(float(model.nats(item).sum()) for item in data), sum(map(len, data))
        patches = sum(int((model.entropies(item)[1:] > model.threshold).sum()) + 2 for item in data)
        out.print(
            f"{valid}: {nats / size / math.log(2):.4f} bits per byte, {size / patches:.3f} bytes a patch",
            highlight=False,
        )
