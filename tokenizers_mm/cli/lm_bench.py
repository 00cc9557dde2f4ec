"""``mmtok lm bench``: the speed of the decoder that all language models share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tokenizers_mm.cli.common import err, number, out, save_report
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
    length: Annotated[int, typer.Option("--length", help="Ids of a row in training.", min=2)] = 256,
    rows: Annotated[int, typer.Option("--rows", help="Rows of a batch in training.", min=1)] = 4,
    rounds: Annotated[int, typer.Option("--rounds", help="In turns with transformers.", min=1)] = 5,
    threads: Annotated[int, typer.Option("--threads", help="Of each.", min=1)] = 2,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Time both compiled as well; needs a C++ compiler, takes minutes.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
) -> None:
    """Time generating and training in turns with transformers' Llama of the same weights.

    Example: [cyan]mmtok lm bench --compile -o eval/benchmarks/results/decoder.json[/]
    """
    import torch

    from tokenizers_mm.evaluation.bench_lm import generation, make_twins, training

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    twins = make_twins(dim, layers, heads, hidden, vocabulary, compiled=compiled)
    found = {}
    for batch in map(int, batches.split(",")):
        with err.status(f"generating, {batch} rows"):
            found[f"generation, batch {batch}"] = generation(
                twins, batch=batch, prompt=prompt, steps=steps, rounds=rounds
            )
    with err.status("training"):
        found["training"] = training(twins, batch=rows, length=length, rounds=rounds)
    table = Table("", "", "tokens/s", "transformers", "ratio", "of processor time", "of the memory's bound", box=None)
    for name, row in found.items():
        for pair, (own, peer) in twins.pairs().items():
            rates, shares = row["tokens_per_second"], row.get("share_of_memory_bound", {})
            ratios = row["ratio"][pair]["median"], row["processor_ratio"][pair]["median"]
            table.add_row(name, pair, *map(number, (rates[own], rates[peer], *ratios, shares.get(own))))
    out.print(table)
    if output is not None:
        model = {"dim": dim, "layers": layers, "heads": heads, "hidden": hidden, "vocabulary_size": vocabulary}
        parameters = sum(p.numel() for p in twins.ours.parameters())
        report = {"kind": "decoder", "model": {**model, "parameters": parameters}, "results": found}
        save_report(output, report, ("transformers",))
