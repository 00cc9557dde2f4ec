"""``mmtok list | info | convert | export``: the registry and weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tokenizers_mm.cli.common import app, number, out

if TYPE_CHECKING:
    from tokenizers_mm.cards import Card
    from tokenizers_mm.tokens import Tokens

_NAMES = 20  # channels' names shown


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern for names.")] = "*",
    modality: Annotated[str | None, typer.Option("--modality", "-m", help="Only this modality.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON list.")] = False,
) -> None:
    """List codecs: rates, weights, licence.

    Example: [cyan]mmtok list '*speech*' --modality audio[/]
    """
    from tokenizers_mm import registry

    cards = registry.list_codecs(pattern, modality)
    if as_json:
        sys.stdout.write(json.dumps([card.row() for card in cards], indent=2) + "\n")
        return
    if not cards:
        raise ValueError(f"no codec matches {pattern!r}" + (f" in modality {modality!r}" if modality else ""))
    for group in sorted({card.modality for card in cards}):
        table = Table("name", "Hz", "tokens/s", "kbit/s", "codebooks", "licence", "weights", box=None)
        for card in (card for card in cards if card.modality == group):
            row = card.row()
            rates = (number(value) for value in (card.spec.sample_rate, row["token_rate"], row["kbps"]))
            weights, licence = card.weights_source.partition(":")[0], card.licence.removeprefix("LicenseRef-")
            table.add_row(f"[cyan]{card.name}[/]", *rates, row["codebooks"], licence, weights)
        out.print(f"[bold]{group}[/]: {table.row_count}", highlight=False)
        out.print(table)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A card's name, or a token file (.mmt, .ecdc).", show_default=False)],
) -> None:
    """Show all there is to know about one codec, or what is inside a token file.

    Example: [cyan]mmtok info wavtokenizer-40[/]

    Example: [cyan]mmtok info speech.mmt[/]
    """
    import yaml

    from tokenizers_mm import registry, transcode

    if Path(name).suffix.lower() in transcode.token_suffixes():
        _print_token_file(Path(name))
        return
    card = registry.get_card(name)
    out.print(f"[bold]{card.name}[/]: {escape(card.summary)}\n", highlight=False)
    row, total = card.row(), _parameter_count(card)
    facts = {
        "modality": card.modality,
        "input": row["input"],
        "tokens": f"{row['codebooks']} codebook entries, hop {card.spec.hop}, spec {card.spec.fingerprint}",
        "rate": f"{number(row['token_rate'])} tokens/s, {number(row['kbps'])} kbit/s",
        "parameters": f"{total:,}",
        "class": card.class_path,
        "weights": card.weights_source,
        "licence": card.licence,
        "training data": card.training_data,
        "paper": f"{card.paper.authors} ({card.paper.year}), {card.paper.title}, {card.paper.url}",
        "card": card.origin,
    }
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(f"[cyan]{key}[/]", escape(str(value)))
    out.print(table)
    for title, section in (("config", card.config), ("taxonomy", card.taxonomy.model_dump(mode="json"))):
        out.print(f"\n[bold]{title}[/]")
        out.print(yaml.safe_dump(section, sort_keys=False, default_flow_style=None).rstrip(), markup=False)
    for published in card.published:
        where = f"{published.repo} {published.file or ''}".strip()
        out.print(
            f"\n[bold]published weights[/] {where} ({published.training_data}; {published.licence})", highlight=False
        )
    for results in card.results:
        out.print(f"\n[bold]measured[/] on {escape(results.data)}: [cyan]{escape(results.command)}[/]", highlight=False)
        out.print(", ".join(f"{key} {value:g}" for key, value in results.metrics.items()), markup=False)


@app.command()
def convert(
    family: Annotated[str, typer.Argument(help="Whose checkpoint it is, such as wavtokenizer.", show_default=False)],
    source: Annotated[
        Path, typer.Argument(help="The published file, or .safetensors with the same keys.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option("--config", help="The checkpoint's configuration, to check the sizes against.")
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle", help="Unpickle objects other than tensors. Runs code in the file: trust it first."
        ),
    ] = False,
) -> None:
    """Turn a published checkpoint into a folder that [bold]load[/] reads.

    Example: [cyan]mmtok convert wavtokenizer WavTokenizer_small_600_24k_4096.ckpt ./wavtokenizer-small-40[/]
    """
    from tokenizers_mm import registry
    from tokenizers_mm.language_models import is_lm

    folder = registry.converter(family)(source, output, config=config, allow_pickle=allow_pickle)
    if family == "encodec-lm":
        how = "give it with --lm"
    elif is_lm(folder):
        how = f"tm.load_lm({str(folder)!r})"
    else:
        how = f"tm.load({str(folder)!r}), or mmtok encode ... -c {folder}"
    out.print(f"[green]converted[/]: {how}", highlight=False)


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="Card, folder or hf:owner/name.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    half: Annotated[bool, typer.Option("--half", help="Round weights to float16: half the size.")] = False,
) -> None:
    """Write a codec's folder (config.json, model.safetensors), ready to share or to push to a hub.

    Example: [cyan]mmtok export runs/mine/codec ./my-codec --half[/]
    """
    import torch

    from tokenizers_mm import registry

    registry.load(source).save_pretrained(output, dtype=torch.float16 if half else None)
    size = sum(file.stat().st_size for file in output.iterdir()) / 1e6
    out.print(f"[green]written[/]: {output}, {size:.1f} MB", highlight=False)


def _parameter_count(card: Card) -> int:
    import torch

    from tokenizers_mm import registry

    with torch.device("meta"):
        return sum(p.numel() for p in registry.build(card).parameters())


def _print_token_file(path: Path) -> None:
    from tokenizers_mm import registry, transcode

    tokens, writer = transcode.read_tokens(path)
    names = ", ".join(card.name for card in registry.matching(tokens.spec)) or "none of the installed cards"
    out.print(f"{len(tokens)} item(s), spec {tokens.spec.fingerprint}, fits {names}", highlight=False)
    out.print(f"written by {escape(writer) if writer else 'a codec that it does not name'}", highlight=False)
    out.print({key: value for key, value in tokens.spec.to_dict().items() if value is not None})
    if tokens.names is not None:
        shown = ", ".join(name if name.isprintable() else ascii(name) for name in tokens.names[:_NAMES])
        more = len(tokens.names) - _NAMES
        out.print(f"channels: {escape(shown)}" + (f" and {more} more" if more > 0 else ""), highlight=False)
    for index, item in enumerate(tokens):
        rate = "" if tokens.spec.frame_rate is None else f", {float(item.bitrate[0]) / 1000:g} kbit/s nominal"
        out.print(
            f"item {index}: grid {item.shape}, {float(item.bits[0]):,.0f} bits{rate}{_clock(item)}", highlight=False
        )


def _clock(item: Tokens) -> str:
    """The clock of one item, in words."""
    import numpy as np

    from tokenizers_mm.labels import Labels

    clock = Labels.of(item).clock
    if clock is None:
        return ""
    start, step = np.datetime64(clock[0], "ns"), clock[1] / 1e9
    return f", from {np.datetime_as_string(start, unit='auto')} in steps of {step:g} s"
