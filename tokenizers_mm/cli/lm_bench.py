"""``mmtok lm bench``: the speed of the decoder that all language models share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tokenizers_mm.cli.common import err, number, out
from tokenizers_mm.cli.lm import lm


@lm.command()
def bench(
    dim: Annotated[int, typer.Option("--dim", help="Width.", min=8)] = 512,
    layers: Annotated[int, typer.Option("--layers", help="Blocks.", min=1)] = 8,
    heads: Annotated[int, typer.Option("--heads", help="Of attention.", min=1)] = 8,
    hidden: Annotated[int, typer.Option("--hidden", help="Width of the gated layers.", min=8)] = 1408,
    vocabulary: Annotated[int, typer.Option("--vocabulary", help="Ids.", min=2)] = 4096,
    batches: Annotated[str, typer.Option("--batches", help="Rows that are generated together, one or more.")] = "1,8",
    steps: Annotated[int, typer.Option("--steps", "-n", help="New ids of each row.", min=1)] = 256,
    prompt: Annotated[int, typer.Option("--prompt", help="Ids of each prompt.", min=1)] = 16,
    length: Annotated[
        int, typer.Option("--length", help="Ids of a row in training, four rows at a time.", min=2)
    ] = 256,
    rounds: Annotated[int, typer.Option("--rounds", help="In turns with transformers.", min=1)] = 5,
    threads: Annotated[int, typer.Option("--threads", help="Of each.", min=1)] = 2,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
) -> None:
    """Time generating and training in turns with transformers' Llama of the same weights.

    Example: [cyan]mmtok lm bench --threads 1 -o eval/benchmarks/results/decoder.json[/]
    """
    import torch

    from tokenizers_mm.evaluation.bench_lm import generation, training, twins
    from tokenizers_mm.evaluation.environment import provenance

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, theirs = twins(dim, layers, heads, hidden, vocabulary)
    found = {}
    for batch in map(int, batches.split(",")):
        with err.status(f"generating, {batch} rows"):
            found[f"generation, batch {batch}"] = generation(
                ours, theirs, batch=batch, prompt=prompt, steps=steps, rounds=rounds
            )
    with err.status("training"):
        found["training"] = training(ours, theirs, batch=4, length=length, rounds=rounds)
    table = Table("", "tokens/s", "transformers", "ratio", "of processor time", "of the memory's bound", box=None)
    for name, row in found.items():
        rates = row["tokens_per_second"]
        shares = row["ratio"]["median"], row["processor_ratio"]["median"], row.get("share_of_memory_bound")
        table.add_row(name, number(rates["ours"]), number(rates["transformers"]), *map(number, shares))
    out.print(table)
    if output is not None:
        model = {"dim": dim, "layers": layers, "heads": heads, "hidden": hidden, "vocabulary_size": vocabulary}
        parameters = sum(p.numel() for p in ours.parameters())
        report = {
            "kind": "decoder", "model": {**model, "parameters": parameters}, "results": found,
            **provenance(("transformers",)),
        }  # fmt: skip
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        out.print(f"[green]written[/]: {output}", highlight=False)
