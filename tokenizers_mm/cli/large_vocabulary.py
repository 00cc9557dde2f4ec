"""``mmtok text grow-vocabulary | complete-large | bench-index``: vocabularies far larger than a model's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tokenizers_mm.cli.common import err, number, out, save_report
from tokenizers_mm.cli.text import text

Model = Annotated[str, typer.Option("--model", "-m", help="A shipped model over subwords, or the folder of one.")]


@text.command("grow-vocabulary")
def grow_vocabulary(
    inputs: Annotated[list[Path], typer.Argument(help="Text files, or folders to search.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    size: Annotated[int, typer.Option("--size", "-n", help="New tokens.", min=1)] = 100_000,
    model: Model = "bpe-small",
    hypernetwork: Annotated[
        str | None,
        typer.Option("--hypernetwork", help="What embeds new tokens, by name or folder; else the mean of parts."),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option("--max-bytes", help="Of a new token.", min=2)] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only lines of this split, as docs.tsv says.")] = None,
) -> None:
    """Go on with the merges of a model's vocabulary and embed every new token: its folder is what the commands below take.

    Example: [cyan]mmtok text grow-vocabulary ntrex/ --split train -n 100000 -o ./large[/]
    """
    from tokenizers_mm import registry, transcode

    files, network = registry.wing("text", "files"), _load(model)
    paths = [source for source, _ in transcode.find(inputs, files.EXTENSIONS)]
    with err.status(f"merging words of {len(paths)} file(s)"):
        grow = registry.wing("text", "growing").grow
        grown = grow(network.codec[0], files.texts(paths, split), size, max_bytes=max_bytes)
    with err.status(f"embedding {size} tokens"):
        large = registry.wing("text", "large_vocabulary").LargeVocabulary
        embedder = None if hypernetwork is None else _embedder(network, hypernetwork)
        found = large.of(network, grown.tokens, embedder, words=grown.words)
        found.save(output)
    words = int(found.whole.sum())
    out.print(f"[green]done[/]: {output}, {len(found)} entries, {words} of them whole words", highlight=False)


@text.command("complete-large")
def complete_large(
    vocabulary: Annotated[Path, typer.Argument(help="Folder of a grown vocabulary.", show_default=False)],
    prompts: Annotated[list[str], typer.Argument(help="Beginnings.", show_default=False)],
    model: Model = "bpe-small",
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most entries to write.", min=1)] = 40,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 takes the likeliest.", min=0)] = 1.0,
    mask_partial: Annotated[
        bool, typer.Option("--mask-partial", help="After a whole word nothing that goes on with it.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Score all entries; without, Faiss finds the likeliest.")
    ] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="For the same text again.")] = None,
) -> None:
    """Go on with texts in a grown vocabulary.

    Example: [cyan]mmtok text complete-large ./large "The government said" --mask-partial[/]
    """
    import torch

    from tokenizers_mm import registry

    writing, network = registry.wing("text", "large_generation"), _load(model)
    large = registry.wing("text", "large_vocabulary").LargeVocabulary.load(vocabulary)
    index = registry.wing("text", "inner_products").ExactIndex(large.outputs) if exact else None
    sampling = writing.Sampling(temperature=temperature, mask_partial=mask_partial)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    with err.status("writing"):
        found = writing.LargeVocabularyLM(network, large, index).complete(prompts, max_tokens, sampling, generator)
    for row in found:
        typer.echo(row)


@text.command("bench-index")
def bench_index(
    entries: Annotated[int, typer.Option("--entries", help="Of a made-up vocabulary.", min=1000)] = 100_000,
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="Folder of a grown one instead.", show_default=False)
    ] = None,
    model: Model = "bpe-small",
    data: Annotated[
        str | None, typer.Option("--data", help="Texts that the model reads; by default the shipped samples.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Of line-aligned files: documents of this split.")
    ] = None,
    queries: Annotated[int, typer.Option("--queries", help="Places in them.", min=1)] = 200,
    steps: Annotated[int, typer.Option("--steps", help="Of generation to time.", min=1)] = 50,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
) -> None:
    """Time finding the likeliest entries beside scoring all, on one thread, and count how many are found.

    A made-up vocabulary has tokens of two to four of the model's own, embedded as their mean.

    Example: [cyan]mmtok text bench-index --entries 1000000[/]
    """
    import os

    import torch

    from tokenizers_mm import registry

    torch.set_num_threads(1)
    network, study = _load(model), registry.wing("text", "index_bench")
    large = registry.wing("text", "large_vocabulary").LargeVocabulary
    source = registry.data_path("eval") / "samples" / "text" if data is None else os.path.expandvars(data)
    texts = [
        found.decode("utf-8") for found in registry.wing("text", "corpus").TextSource(str(source), split).documents()
    ]
    with err.status("embedding entries"):
        if vocabulary is not None:
            found = large.load(vocabulary)
        else:
            own = network.codec[0].vocabulary.tokens
            made_up = study.random_tokens(own, entries - len(network.embedding.weight))
            found = large.of(network, made_up)
    with err.status(f"searching {len(found)} entries"):
        report = study.bench(network, found, texts, queries=queries, steps=steps)
    _show(report)
    if output is not None:
        save_report(output, {"kind": "bench-index", "model": model, **report}, ("faiss-cpu",))


def _show(report: dict[str, Any]) -> None:
    table = Table("index", "cells searched", "recall@1", "recall@20", "ms a query", box=None)
    for row in report["searches"]:
        share = f"{row['nprobe']} of {row['cells']}{' *' if row['default'] else ''}" if "nprobe" in row else "all rows"
        name = row.get("space", row["index"])
        shown = (f"{row[key]:.3f}" for key in ("recall_at_1", "recall_at_20"))
        table.add_row(name, share, *shown, number(row["milliseconds"]))
    out.print(table)
    settings, step = report["settings"], report["milliseconds_per_step"]
    out.print(
        f"* the default; a step takes {number(step['faiss'])} ms, {number(step['exact'])} ms exactly, the model alone "
        f"{number(step['model alone'])} ms; built in {settings['build_seconds']:.1f} s, {settings['peak_gib']:.2f} GiB",
        highlight=False,
    )


def _embedder(network: Any, hypernetwork: str) -> Any:
    from tokenizers_mm import registry

    surface, parts_of = registry.wing("text", "surface"), registry.wing("text", "embedders").parts_of
    found = surface.load_hypernetwork(hypernetwork)
    forms = surface.SurfaceForms(parts_of(network.codec[0]), found.surface_length)
    return surface.HypernetworkEmbedder(found, forms, *registry.wing("text", "dynamic_inputs").embedding_rows(network))


def _load(name: str) -> Any:
    from tokenizers_mm import registry

    network = registry.wing("text", "generate").load_model(name)
    if not isinstance(network, registry.wing("text", "flat").SubwordLM):
        raise ValueError(f"model must be over subwords, {name} is a {type(network).__name__}")
    return network
