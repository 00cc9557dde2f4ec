"""``mmtok lm eval | count``: what language models say of held-out tokens; n-grams to compare with and to code files with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenizers_mm.cli.common import Force, err, out
from tokenizers_mm.cli.lm import lm


@lm.command("eval")
def evaluate(
    models: Annotated[
        list[str] | None, typer.Argument(help="Shipped models, or folders; none for n-grams alone.", show_default=False)
    ] = None,
    suite: Annotated[str, typer.Option("--suite", help="A shipped suite's name, or a YAML file.")] = "token-lm",
    train: Annotated[
        Path | None, typer.Option("--train", help="With --test, in place of the suite's sources: shards or .mmt files.")
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", help="Held-out shards or .mmt files.")] = None,
    codec: Annotated[
        str | None,
        typer.Option("--codec", "-c", help="Decodes draws of --test; default: the one that made the tokens."),
    ] = None,
    label: Annotated[
        bool, typer.Option("--label", help="Also tell models with classes that of each item, as test shards hold it.")
    ] = False,
    samples: Annotated[int | None, typer.Option("--samples", help="Items that each model draws.", min=0)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="HTML file for the report, draws to hear and see.")
    ] = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Folder for what draws decode to.")] = None,
) -> None:
    """Measure language models on held-out tokens beside n-grams: bits, sizes of files, what they draw.

    Example: [cyan]mmtok lm eval ./my_lm --train tokens/train --test tokens/test --html report.html[/]

    Example: [cyan]mmtok lm eval --train tokens/train --test tokens/test[/]
    """
    import tempfile

    from tokenizers_mm.evaluation.lm.page import write_page
    from tokenizers_mm.evaluation.lm.plan import Source, load_plan
    from tokenizers_mm.evaluation.lm.run import evaluate_lms

    if (train is None) != (test is None) or (codec is not None and test is None):
        raise ValueError("--train and --test go together, and --codec with them")
    for option, path in (("--output", output), ("--html", html)):
        if path is not None and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"{option} must be in a folder that exists, got {str(path)!r}")
    plan = load_plan(suite)
    if train is not None and test is not None:
        plan = plan.model_copy(update={"sources": {"tokens": Source(train=str(train), test=str(test))}})
    if label:
        plan = plan.model_copy(update={"labels": True})
    if samples is not None:
        plan = plan.model_copy(update={"samples": samples})
    with tempfile.TemporaryDirectory() as scratch, err.status("") as status:
        folder = keep or (Path(scratch) if html else None)
        codecs = {} if codec is None else dict.fromkeys(plan.sources, codec)
        report = evaluate_lms(models or [], plan, keep=folder, codecs=codecs, progress=status.update)
        if html is not None:
            write_page(report, html, kept=folder)
    for table in report.tables():
        out.print(table)
        out.print()
    for note in report.notes:
        out.print(f"* {note}", markup=False, highlight=False)
    if output is not None:
        report.save(output)


@lm.command("count")
def count(
    tokens: Annotated[Path, typer.Argument(help="Shards or .mmt files, or a folder of them.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    order: Annotated[int, typer.Option("--order", "-n", help="Ids that count together.", min=1)] = 3,
    grid: Annotated[
        bool, typer.Option("--grid", help="Context from the grid's neighbours, not the ids before.")
    ] = False,
    min_count: Annotated[int, typer.Option("--min-count", help="Leave rarer contexts out.", min=1)] = 1,
    force: Force = False,
) -> None:
    """Count tokens: an n-gram, which codes files ([bold]mmtok encode --lm[/]) and is what other models are measured against.

    Example: [cyan]mmtok lm count tokens/train -o ./my_ngram --order 3 --grid[/]
    """
    from tokenizers_mm.evaluation.lm.sources import batches, read
    from tokenizers_mm.lm.ngram import TokenNGram
    from tokenizers_mm.transcode import check_free

    check_free(output, force)
    with err.status("counting"):
        items, _ = read(tokens)
        model = TokenNGram.learn(
            batches(items), order=order, context="grid" if grid else "sequence", min_count=min_count
        )
        model.save_pretrained(output)
    out.print(f"[green]written[/]: {output}, {model.num_parameters} counts", highlight=False)
