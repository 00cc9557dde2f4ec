"""``mmtok text decipher | learn-key``: lexinvariant language models of letters."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from tokenizers_mm.cli.common import err, number, out, save_report
from tokenizers_mm.cli.modelling import facts_of
from tokenizers_mm.cli.text import text

Model = Annotated[
    str, typer.Argument(help="A shipped model's name, or the folder of one with its probe.", show_default=False)
]
Split = Annotated[str | None, typer.Option("--split", help="Of line-aligned files: documents of this split.")]
Seed = Annotated[int, typer.Option("--seed", help="Of rows and keys.")]


@text.command("learn-key")
def learn_key(
    model: Annotated[str, typer.Argument(help="Folder of a trained model.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    data: Annotated[
        str, typer.Option("--data", help="Texts to learn from, not those to decipher.", show_default=False)
    ],
    split: Split = None,
    texts: Annotated[int, typer.Option("--texts", help="Stretches to learn from.", min=1)] = 256,
    length: Annotated[int, typer.Option("--length", help="Letters of each.", min=16)] = 512,
    seed: Seed = 0,
) -> None:
    """Learn to read the key of a cipher off a lexinvariant model's states; writes the model, rounded to 16 bits, and the probe.

    Example: [cyan]mmtok text learn-key runs/mine/model ./mine --data train.txt[/]
    """
    import torch

    wing = _wing()
    plain = wing.windows(_documents(data, split), length)
    generator = torch.Generator().manual_seed(seed)
    network = wing.load_symbol_model(model)
    with torch.no_grad():  # what is measured later is the rounded model: so is what the probe learns from
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
    chosen = plain[torch.randperm(len(plain), generator=generator)[:texts]]
    with err.status(f"{len(chosen)} stretches of {length} letters"):
        wing.Decipherer.learn(network, chosen, generator).save(folder)
    out.print(f"[green]written[/]: {folder}", highlight=False)


@text.command()
def decipher(
    model: Model,
    cipher: Annotated[str | None, typer.Argument(help="A ciphered text; - reads one.", show_default=False)] = None,
    data: Annotated[str | None, typer.Option("--data", help="Plain texts to be measured on.")] = None,
    split: Split = None,
    beside: Annotated[str | None, typer.Option("--beside", help="Folder of an ordinary model, for comparison.")] = None,
    rows: Annotated[int, typer.Option("--rows", help="Stretches of text, at most.", min=1)] = 128,
    draws: Annotated[int, typer.Option("--draws", help="Of rows, to average keys over.", min=1)] = 4,
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
) -> None:
    """Decipher a text in which every letter, and the space, is another character; or measure how well that works.

    Example: [cyan]mmtok text decipher lexinvariant-small "qebonrfzhyoltkclu..."[/]

    Example: [cyan]mmtok text decipher lexinvariant-small --data test.txt --beside runs/ordinary/model[/]
    """
    import torch

    if (cipher is None) == (data is None):
        raise ValueError("decipher takes either a ciphered text or --data, got " + ("none" if data is None else "both"))
    decipherer = _wing().Decipherer.load(model)
    if cipher is not None:
        ciphered = sys.stdin.read().rstrip("\n") if cipher == "-" else cipher
        found = decipherer.decipher(ciphered, torch.Generator().manual_seed(seed), draws)
        out.print(escape(" ".join(f"{a}={b}".replace(" ", "_") for a, b in sorted(found.key.items()))), highlight=False)
        typer.echo(found.text)
        return
    assert data is not None
    documents = _documents(data, split)
    others = {beside: _wing().load_symbol_model(beside)} if beside else {}
    with err.status("measuring"):
        report = _measure(decipherer, {model: decipherer.model, **others}, documents, rows, draws, seed)
    _show(report)
    if output is not None:
        settings = {"rows": rows, "draws": draws, "seed": seed}
        facts = {"settings": settings, "data": facts_of(documents)}
        save_report(output, {"kind": "decipher", "model": model, **report, **facts})


def _measure(
    decipherer: Any, models: Mapping[str, Any], documents: list[bytes], rows: int, draws: int, seed: int
) -> dict[str, Any]:
    """Keys by length of text, and for each model the loss by position, tasks, and the error of a permutation."""
    import torch

    from tokenizers_mm.lm import symbol_study as study

    def some(length: int) -> torch.Tensor:
        return _wing().windows(documents, length, decipherer.alphabet)[:rows]

    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    keys = {length: decipherer.accuracies(some(length), fresh(), draws) for length in (64, 128, 256, 512)}
    long, short = some(study.EDGES[-1]), some(32)[:16]
    return {
        "keys": keys,
        "edges": list(study.EDGES),
        "nats_by_position": {name: study.positions(each, long, fresh()) for name, each in models.items()},
        "tasks": {name: study.tasks(each, rows, fresh()) for name, each in models.items()},
        "invariance_error": {
            name: {n: study.invariance_error(each, short, each.symbols, n, seed) for n in (1, 4, 16, 64)}
            for name, each in models.items()
        },
    }


def _show(report: Mapping[str, Any]) -> None:
    keys = Table("letters of text", *next(iter(report["keys"].values())), box=None)
    for length, row in report["keys"].items():
        keys.add_row(str(length), *(f"{100 * value:.1f} %" for value in row.values()))
    edges = report["edges"]
    positions = Table("nats by position", *(f"{a}-{b}" for a, b in pairwise(edges)), box=None)
    for name, nats in report["nats_by_position"].items():
        positions.add_row(name, *map(number, nats))
    tasks = Table("right answers", *next(iter(report["tasks"].values())), box=None)
    for name, row in report["tasks"].items():
        tasks.add_row(name, *(f"{100 * value:.1f} %" for value in row.values()))
    errors = Table("error by draws", *map(str, next(iter(report["invariance_error"].values()))), box=None)
    for name, row in report["invariance_error"].items():
        errors.add_row(name, *map(number, row.values()))
    for table in (keys, positions, tasks, errors):
        out.print(table)


def _wing() -> Any:
    from tokenizers_mm import registry

    return registry.wing("text", "deciphering")


def _documents(path: str, split: str | None) -> list[bytes]:
    from tokenizers_mm import registry

    return registry.wing("text", "corpus").TextSource(path, split).documents()
