"""``mmtok text evaluate-classifier``: encoders finetuned on merged tokens, at every budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tokenizers_mm.cli.common import Device, err, out, save_report
from tokenizers_mm.cli.text import text


@text.command("evaluate-classifier")
def evaluate_classifier(
    model: Annotated[Path, typer.Argument(help="Folder of a trained DynamicClassifier.", show_default=False)],
    data: Annotated[
        str, typer.Option("--data", help="A table of labels and texts, or a folder of a file for each label.")
    ],
    split: Annotated[
        str | None, typer.Option("--split", help="Of line-aligned files: documents of this split.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", help="Texts, drawn once; by default all.", min=1)] = None,
    batch: Annotated[int, typer.Option("--batch", help="Texts that are merged together.", min=1)] = 32,
    device: Device = "cpu",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
) -> None:
    """Accuracy and length at budgets from 0 to 100 % of the reduction to words, in steps of 10.

    Example: [cyan]mmtok text evaluate-classifier runs/mine/model --data ntrex/ --split valid[/]
    """
    import os

    from tokenizers_mm import registry

    labelled = registry.wing("text", "labelled")
    network = registry.wing("text", "dynamic_classifier").DynamicClassifier.from_pretrained(model).to(device)
    examples = labelled.LabelledSource(os.path.expandvars(data), split, network.labels).examples()
    examples = labelled.shuffled(examples)[:count]
    table, rows = Table("% of the reduction", "merges", "tokens a text", "accuracy", box=None), []
    with err.status(f"{len(examples)} texts at each budget"):
        for percent in range(0, 101, 10):
            accuracy, tokens = network.accuracy(examples, percent, batch)
            merges = network.budgets.merges(percent)
            rows.append({"percent": percent, "merges": merges, "tokens": tokens, "accuracy": accuracy})
            table.add_row(str(percent), str(merges), f"{tokens:.2f}", f"{100 * accuracy:.2f} %")
    out.print(table)
    if output is not None:
        settings = {"texts": len(examples), "batch": batch, "data": data, "split": split}
        report = {"kind": "evaluate-classifier", "settings": settings, "budgets": rows}
        save_report(output, report, ("transformers",))
