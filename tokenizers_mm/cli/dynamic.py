"""``mmtok text merge | bench-merge | bench-exact``: vocabularies of batches, and how fast exact algorithms are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from tokenizers_mm.cli.common import err, number, out, save_report
from tokenizers_mm.cli.text import text

Base = Annotated[str, typer.Option("--base", "-b", help="Subword codec: a card's name, a folder, or a tokenizer file.")]
Rounds = Annotated[int, typer.Option("--rounds", help="Turns that each contender gets.", min=1)]
Report = Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")]


@text.command("merge")
def merge(
    inputs: Annotated[list[Path], typer.Argument(help="Text files; each line is a sequence.", show_default=False)],
    base: Base = "bpe-8k",
    merges: Annotated[int, typer.Option("--merges", "-m", help="Pairs to merge in each batch.", min=0)] = 100,
    boundary: Annotated[
        str, typer.Option("--boundary", help="What tokens stay within: pretokens, word, word_hyphen or sentence.")
    ] = "pretokens",
    batch: Annotated[int, typer.Option("--batch", help="Lines of a batch.", min=1)] = 32,
    show: Annotated[int, typer.Option("--show", help="New tokens to show.", min=0)] = 20,
    table: Annotated[bool, typer.Option("--table", help="How many merges save how much.")] = False,
) -> None:
    """Merge frequent neighbours among the tokens of each batch of lines, and see what becomes shorter by how much.

    Example: [cyan]mmtok text merge README.md --merges 200 --table[/]
    """
    from tokenizers_mm import registry

    codec = registry.wing("text", "dynamic").DynamicCodec(base, merges, boundary)  # type: ignore[arg-type]
    files = registry.wing("text", "files")
    lines = [line for path in inputs for line in files.read(path, codec.spec).splitlines() if line]
    if not lines:
        raise ValueError("inputs must hold at least one line, got none")
    before, after, added = 0, 0, {}
    with err.status(f"merging {len(lines)} lines"):
        for at in range(0, len(lines), batch):
            found = codec.merged(lines[at : at + batch], merges)
            before, after = before + found.lengths[0], after + found.lengths[-1]
            added.update(dict.fromkeys(found.added))
    saved = 100 * (1 - after / before)
    out.print(f"{len(lines)} lines: {before} tokens -> {after} (-{saved:.1f} %), {len(added)} new", highlight=False)
    if show:
        names = [token.decode("utf-8", "backslashreplace") for token in list(added)[:show]]
        out.print(escape(" ".join(map(repr, names))), highlight=False)
    if table:
        rows = Table("% of the saving", "merges", "tokens a line", box=None)
        for budget in codec.calibrate(lines, batch):
            rows.add_row(f"{budget.percent:g}", str(budget.merges), f"{budget.tokens:.2f}")
        out.print(rows)


@text.command("bench-merge")
def bench_merge(
    base: Base = "bpe-8k",
    sequences: Annotated[int, typer.Option("--sequences", help="Of the batch.", min=1)] = 512,
    length: Annotated[int, typer.Option("--length", help="Tokens of each.", min=2)] = 512,
    merges: Annotated[int, typer.Option("--merges", "-m", help="Pairs to merge.", min=1)] = 200,
    rounds: Rounds = 3,
    output: Report = None,
) -> None:
    """Time merging a batch of made-up text beside counting its pairs anew for each merge.

    Example: [cyan]mmtok text bench-merge --sequences 512 --length 512[/]
    """
    from tokenizers_mm import registry

    codec = registry.wing("text", "segmenters.subword").subword_codec(base)
    texts = registry.wing("text", "peers").signals(8, [max(100_000, 40 * length)])
    with err.status("merging"):
        race = registry.wing("text", "speed").race_merging(
            codec, texts, sequences=sequences, length=length, merges=merges, rounds=rounds
        )
    _report(race, "bench-merge", output)


@text.command("bench-exact")
def bench_exact(
    base: Base = "bpe-8k",
    size: Annotated[int, typer.Option("--bytes", "-n", help="Bytes of the prompt.", min=1)] = 200,
    dim: Annotated[int, typer.Option("--dim", help="Width of the model, whose weights are random.", min=8)] = 256,
    layers: Annotated[int, typer.Option("--layers", help="Of the model.", min=1)] = 4,
    rounds: Rounds = 3,
    output: Report = None,
) -> None:
    """Time exact next-byte distributions from byte to byte beside searching all covers of the prompt anew.

    Example: [cyan]mmtok text bench-exact --bytes 200[/]
    """
    import tempfile

    import torch

    from tokenizers_mm import registry

    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec = registry.wing("text", "segmenters.subword").subword_codec(base)
    with tempfile.TemporaryDirectory() as folder, err.status("searching covers"):
        codec.save_pretrained(folder)
        model = registry.wing("text", "flat").SubwordLM(folder, dim=dim, layers=layers, heads=max(1, dim // 64)).eval()
        text_ = registry.wing("text", "peers").signals(1, [size + 1000])[0]
        race = registry.wing("text", "speed").race_exact(codec, model, text_, size=size, rounds=rounds)
    _report(race, "bench-exact", output)


def _report(race: Any, kind: str, output: Path | None) -> None:
    from dataclasses import asdict

    table = Table("", "ms, median", "times slower", box=None)
    ratios = {name: race.ratio(name) for name in race.seconds}
    for name, seconds in race.seconds.items():
        table.add_row(name, number(1000 * sorted(seconds)[len(seconds) // 2]), f"{ratios[name]:.1f}")
    out.print(table)
    out.print(f"* largest difference between results: {race.agreement:.2g}", highlight=False)
    if output is not None:
        save_report(output, {"kind": kind, **asdict(race), "ratios": ratios})
