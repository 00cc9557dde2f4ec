"""``mmtok text merge-eval``: what a language model makes of merged tokens, by who embeds them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tokenizers_mm.cli.common import err, out
from tokenizers_mm.cli.modelling import Split, documents_of, write_report
from tokenizers_mm.cli.text import text


@text.command("merge-eval")
def merge_eval(
    hypernetwork: Annotated[str, typer.Argument(help="A shipped hypernetwork's name, or its folder.")],
    data: Annotated[str, typer.Option("--data", help="A folder of texts.", show_default=False)],
    base: Annotated[str, typer.Option("--base", "-b", help="The SubwordLM that it is for.")] = "bpe-small",
    names: Annotated[str, typer.Option("--names", help="Files of the folder, a language each.")] = "eng,deu,fra,spa",
    split: Split = None,
    merges: Annotated[
        str, typer.Option("--merges", "-m", help="Pairs merged in each batch, comma-separated; all for all.")
    ] = "10,50,200,all",
    share: Annotated[float, typer.Option("--share", help="Of a row's tokens that are its prefix.")] = 0.5,
    batch: Annotated[int, typer.Option("--batch", help="Rows that are merged together.", min=1)] = 16,
    length: Annotated[int, typer.Option("--length", help="Most bytes of a row.", min=8)] = 512,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Image of the curves.")] = None,
) -> None:
    """Merge the first half of texts, and score the other half in base tokens: what the merged vocabulary cannot know.

    Tokens are embedded by the hypernetwork, by the mean of their parts, and at random.

    Example: [cyan]mmtok text merge-eval hypernetwork-bpe-small --data ntrex/ --split valid[/]
    """
    from tokenizers_mm import registry

    surface, embedders = registry.wing("text", "surface"), registry.wing("text", "embedders")
    wing = registry.wing("text", "merge_eval")
    model = registry.wing("text", "base_models").SubwordBase(base)
    network, parts = surface.load_hypernetwork(hypernetwork), embedders.parts_of(model.pieces)
    forms = surface.SurfaceForms(parts, network.surface_length)
    ways = {
        "hypernetwork": surface.HypernetworkEmbedder(
            network, forms, model.inputs, None if network.tied else model.outputs
        ),
        "mean of parts": embedders.MeanOfParts(parts, model.inputs),
        "random": wing.RandomEmbeddings(model.inputs),
    }
    budgets = [None if part.strip() == "all" else int(part) for part in merges.split(",")]
    found, documents = {}, []
    for name in names.split(","):
        texts = documents_of(data, split, name)
        documents += texts
        with err.status(name):
            found[name] = wing.merge_eval(model, ways, texts, budgets, share=share, batch_size=batch, length=length)
    mean = [wing.mean_of(rows) for rows in zip(*found.values(), strict=True)]
    out.print(_table({**found, "mean": mean}, list(ways)))
    out.print("* bits per byte of what follows the prefixes, tokens right in the report", highlight=False)
    out.print("* nats off: within the prefixes, of what comes next after a token from what does after its parts")
    out.print(f"* {forms.truncated} tokens had more than {network.surface_length} parts", highlight=False)
    report = {
        "base": base, "hypernetwork": hypernetwork, "mean": [asdict(row) for row in mean],
        "languages": {name: [asdict(row) for row in rows] for name, rows in found.items()},
    }  # fmt: skip
    settings = {"share": share, "batch_size": batch, "length": length, "split": split}
    write_report(output, "merge-eval", report, documents, **settings)
    if plot is not None:
        registry.wing("text", "show").merge_curves(mean, plot)
        out.print(f"[green]written[/]: {plot}", highlight=False)


def _table(found: dict[str, Any], ways: list[str]) -> Table:
    table = Table("", "merges", "prefix tokens", "unmerged", *ways, *(f"nats off: {way}" for way in ways), box=None)
    for name, (first, *rows) in found.items():
        for row in rows:
            merges = "all" if row.merges is None else str(row.merges)
            saved = 100 * (1 - row.prefix_tokens / first.prefix_tokens)
            bits = [first.bits_per_byte["unmerged"], *(row.bits_per_byte[way] for way in ways)]
            shown = [f"{x:.4f}" for x in [*bits, *(row.divergence[way] for way in ways)]]
            table.add_row(name, merges, f"{row.prefix_tokens} (-{saved:.1f} %)", *shown)
    return table
