"""``mmtok tokenize``: whole data sets to shards of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from tokenizers_mm.cli.common import Device, Reading, Weights, Window, app, err, out, pairs

if TYPE_CHECKING:
    from tokenizers_mm.scale.inputs import Input
    from tokenizers_mm.scale.work import Tally

BROKEN_LIST = "broken.tsv"


@app.command()
def tokenize(
    codec: Annotated[str, typer.Argument(help="A card's name, a folder, or hf:owner/name.", show_default=False)],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Files, folders, manifest CSVs (column path), uncompressed tars.", show_default=False),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.", show_default=False)],
    label: Annotated[
        str | None,
        typer.Option(
            help="Classes: a manifest's column; [bold]folder[/], the one that a file lies in; [bold]prefix[/], its name up to _."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Rows of the manifests, by their column split; default: all.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Text: every line is an item.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Signals encoded together.", min=1)] = 16,
    shard_items: Annotated[int, typer.Option("--shard-items", help="Most items of a shard.", min=1)] = 100_000,
    shard_mb: Annotated[
        int, typer.Option("--shard-mb", help="Most megabytes of tokens of a shard, in memory.", min=1)
    ] = 256,
    reading: Reading = None,
    window: Window = 10.0,
    weights: Weights = None,
    device: Device = "cpu",
) -> None:
    """Tokenize whole data sets to Parquet shards of tokens; the same command again goes on where it was stopped.

    Inputs that cannot be read are listed in OUT/broken.tsv and left out.

    Example: [cyan]mmtok tokenize snac-24khz recordings/ tokens/[/]

    Example: [cyan]mmtok tokenize vqgan-128 train-00000.tar train-00001.tar tokens/ --label prefix[/]

    Example: [cyan]mmtok tokenize ./my_eeg_codec eeg/manifest.csv tokens/ --split train --label task[/]

    Example: [cyan]mmtok tokenize bpe-8k corpus/ tokens/ --lines[/]
    """
    from tokenizers_mm import registry, transcode
    from tokenizers_mm.evaluation.coders import codec_fingerprint
    from tokenizers_mm.reading import reading as reading_options
    from tokenizers_mm.scale import Origin, ShardReader, ShardWriter, find_shards, work
    from tokenizers_mm.scale import inputs as listing

    model = registry.load(codec, weights=weights, device=device)
    modality = model.spec.modality
    files = registry.wing(modality, "files")
    options = reading_options(modality, {**model.reading, **pairs("--read", reading, "NAME=VALUE")})
    found = listing.find_inputs(inputs, files.EXTENSIONS, label=label, split=split)
    origin = Origin(transcode.writer_name(codec), model.spec, codec_fingerprint(model)[:16])
    with ShardWriter(output, origin, shard_items=shard_items, shard_bytes=shard_mb * 2**20) as writer:
        done = {key for path in find_shards(output) for key in ShardReader(path, origin).read_keys()}
        tally = work.tokenize(
            listing.examples(_followed(found), files, model.spec, window=window, options=options, lines=lines),
            model,
            writer,
            done=done,
            batch_size=batch_size,
            window=window,
            on_broken=work.broken_list(output / BROKEN_LIST),
        )
    out.print(_table(tally, sum(path.stat().st_size for path in find_shards(output))))
    if tally.broken:
        err.print(
            f"[yellow]note:[/] {escape(f'{tally.broken} inputs are broken: see {output / BROKEN_LIST}')}",
            soft_wrap=True,
        )
    if not tally.items and not tally.done_before:
        raise typer.Exit(1)


def _followed(inputs: list[Input]) -> Iterable[Input]:
    return track(inputs, console=err, transient=True, disable=not err.is_terminal)


def _table(tally: Tally, size: int) -> Table:
    """What was done, and what all shards take."""
    table = Table(
        "items", "there before", "steps", "Mbit nominal", "MB of shards", "seconds", "items/s", "broken", box=None
    )
    rate = tally.items / tally.elapsed if tally.elapsed else 0.0
    table.add_row(
        *(f"{count:,}" for count in (tally.items, tally.done_before, tally.steps)),
        *(f"{value:.3f}" for value in (tally.bits / 1e6, size / 1e6)),
        *(f"{value:.1f}" for value in (tally.elapsed, rate)),
        str(tally.broken),
    )
    return table
