"""``mmtok text complete | compare | adapt | bench | store``: language models of text."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tokenizers_mm.cli.common import Device, err, number, out, save_report
from tokenizers_mm.cli.text import text

Models = Annotated[list[str], typer.Argument(help="Names of shipped models, or folders.", show_default=False)]
Data = Annotated[str, typer.Option("--data", help="A text file, or a folder of them.", show_default=False)]
Names = Annotated[
    str | None, typer.Option("--names", help="Of a folder's files, those so called, comma-separated: eng,deu.")
]
Split = Annotated[str | None, typer.Option("--split", help="Of line-aligned files: documents of this split.")]
Length = Annotated[int, typer.Option("--length", help="Bytes that a model sees at a time.", min=8)]
Report = Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")]


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
    byte_exact: Annotated[
        bool,
        typer.Option("--byte-exact", help="Of models over tokens: draw bytes, wherever prompts end."),
    ] = False,
    device: Device = "cpu",
) -> None:
    """Go on with texts; a single one appears as it is written.

    Models over tokens take the last token of a prompt as whole, also where it breaks off inside a word; with
    [bold]--byte-exact[/] they don't.

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
    if byte_exact:
        exact = registry.wing("text", "byte_exact")
        cpu = None if seed is None else torch.Generator().manual_seed(seed)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "utf8": True, "generator": cpu}
        found = exact.generate(exact.byte_exact(network), beginnings, max_bytes, **options)
        for prompt, more in zip(beginnings, found, strict=True):
            data = prompt.encode("utf-8") if isinstance(prompt, str) else prompt
            typer.echo((data + more.data).decode("utf-8", "ignore"))
        return
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


@text.command()
def compare(
    models: Models,
    data: Data,
    split: Split = None,
    names: Names = None,
    length: Length = 512,
    output: Report = None,
) -> None:
    """Compare models on the same documents: bits per byte, words told right, and the bits of misspelled text.

    Example: [cyan]mmtok text compare hat-small bpe-small --data ntrex/ --split valid --names eng,deu[/]
    """
    from tokenizers_mm import registry

    study = registry.wing("text", "study")
    documents = documents_of(data, split, names)
    found = {}
    for name in models:
        with err.status(name):
            found[name] = study.compare(_load(name), documents, length=length)
    kinds = list(study.PERTURBATIONS)
    table = Table("model", "bits/byte", "words right", *kinds, "MFLOP/byte", "parameters", box=None)
    for name, row in found.items():
        more = (f"+{row[f'bits_per_byte_{kind}'] - row['bits_per_byte']:.3f}" for kind in kinds)
        cost = number(row["training_flops_per_byte"] / 1e6)
        shown = f"{row['bits_per_byte']:.3f}", f"{100 * row['word_accuracy']:.1f} %"
        table.add_row(name, *shown, *more, cost, f"{row['parameters']:,.0f}")
    out.print(table)
    write_report(output, "compare", found, documents, length=length)


@text.command()
def adapt(
    models: Models,
    train: Annotated[str, typer.Option("--train", help="Texts to train on.", show_default=False)],
    valid: Annotated[str, typer.Option("--valid", help="Texts to measure on.", show_default=False)],
    train_split: Annotated[str | None, typer.Option("--train-split", help="As --split, for --train.")] = None,
    valid_split: Annotated[str | None, typer.Option("--valid-split", help="As --split, for --valid.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Of training.", min=1)] = 200,
    every: Annotated[int, typer.Option("--every", help="Steps between measurements.", min=1)] = 25,
    target: Annotated[float | None, typer.Option("--target", help="Bits per byte to reach.")] = None,
    length: Length = 512,
    output: Report = None,
) -> None:
    """Train copies of models on with texts that are new to them, and see how soon they know them.

    By default the target is the worst of the models' last bits per byte: what all of them reach.

    Example: [cyan]mmtok text adapt hat-small bpe-small --train ntrex/ita.txt.xz --train-split train --valid ...[/]
    """
    from tokenizers_mm import registry

    study = registry.wing("text", "study")
    before, after = documents_of(train, train_split, None), documents_of(valid, valid_split, None)
    curves = {}
    for name in models:
        with err.status(name):
            curves[name] = study.adapt(_load(name), before, after, steps=steps, every=every, length=length)
    goal = max(curve[-1]["bits_per_byte"] for curve in curves.values()) if target is None else target
    table = Table("model", "bits/byte before", f"after {steps} steps", f"steps to {goal:.3f}", "GFLOP/step", box=None)
    found: dict[str, Any] = {}
    for name, curve in curves.items():
        reached = study.steps_to(curve, goal)
        found[name] = {"steps_to_target": reached, "curve": curve}
        first, last = curve[0]["bits_per_byte"], curve[-1]["bits_per_byte"]
        cost = curve[-1]["training_flops"] / steps / 1e9
        table.add_row(name, f"{first:.3f}", f"{last:.3f}", number(reached), number(cost))
    out.print(table)
    write_report(output, "adapt", found, after, length=length, steps=steps, target=goal)


@text.command()
def bench(
    models: Models,
    data: Data,
    split: Split = None,
    names: Names = None,
    count: Annotated[int, typer.Option("--bytes", "-n", help="Bytes to write.", min=16)] = 1000,
    output: Report = None,
) -> None:
    """Time models one after the other, on one thread: training, writing with caches and without.

    Example: [cyan]mmtok text bench hat-small byte-small --data README.md[/]
    """
    import torch

    from tokenizers_mm import registry

    study = registry.wing("text", "study")
    documents = documents_of(data, split, names)
    torch.set_num_threads(1)
    found = {}
    for name in models:
        with err.status(name):
            found[name] = study.speed(_load(name), b"\n".join(documents), generate=count)
    table = Table("model", "trained, bytes/s", "written, bytes/s", "without caches", "ratio", box=None)
    keys = ("training_bytes_per_second", "cached_bytes_per_second", "uncached_bytes_per_second", "cached_over_uncached")
    for name, row in found.items():
        table.add_row(name, *(number(row[key]) for key in keys))
    out.print(table)
    write_report(output, "bench", found, documents, bytes=count)


@text.command()
def store(
    model: Annotated[str, typer.Argument(help="Folder of a model.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
) -> None:
    """Write a model or a hypernetwork with weights rounded to 16 bits: half the size, and what is measured from then on.

    Example: [cyan]mmtok text store runs/mine/model ./mine[/]
    """
    import torch

    from tokenizers_mm import registry
    from tokenizers_mm.weights import CONFIG, read_config

    config = Path(model) / CONFIG
    if config.is_file() and read_config(config).get("class") == "Hypernetwork":
        network = registry.wing("text", "surface").load_hypernetwork(model)
    else:
        network = _load(model)
    network.save_pretrained(folder, dtype=torch.float16)
    out.print(f"[green]written[/]: {folder}", highlight=False)


def _load(name: str) -> Any:
    from tokenizers_mm import registry

    return registry.wing("text", "generate").load_model(name)


def documents_of(path: str, split: str | None, names: str | None) -> list[bytes]:
    """Documents of a folder or file, which may name variables of the environment."""
    import os

    from tokenizers_mm import registry

    path = os.path.expandvars(path)  # so that reports name what everybody can set
    source = registry.wing("text", "corpus").TextSource(path, split, names.split(",") if names else None)
    return source.documents()


def write_report(
    output: Path | None, kind: str, found: Mapping[str, Any], documents: list[bytes], **settings: Any
) -> None:
    """A report with what it was made of and with."""
    if output is not None:
        report = {"kind": kind, "models": found, "settings": settings, "data": facts_of(documents)}
        save_report(output, report, ("tokenizers",))


def facts_of(documents: list[bytes]) -> dict[str, Any]:
    """What a report says of documents."""
    import hashlib

    digest = hashlib.sha256(b"\0".join(documents)).hexdigest()
    return {"documents": len(documents), "bytes": sum(map(len, documents)), "sha256": digest}
