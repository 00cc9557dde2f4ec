"""``mmtok``: the library from the command line. Heavy imports wait inside the commands: ``--help`` is instant."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

if TYPE_CHECKING:
    from torch import Tensor

    from tokenizers_mm.cards import Card
    from tokenizers_mm.transcode import Progress, Transcoded

EXPECTED = (ValueError, TypeError, OSError)
"""What bad input raises: one red line instead of a traceback."""

app = typer.Typer(
    name="mmtok",
    help="Discrete tokenizers and codecs for every modality: list, encode, decode, train, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
convert_app = typer.Typer(
    no_args_is_help=True, help="Turn published checkpoints into folders that [bold]load[/] reads."
)
app.add_typer(convert_app, name="convert")
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)

CodecOption = Annotated[
    str,
    typer.Option("--codec", "-c", help="A card's name (mmtok list), a folder, or hf:owner/name.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite files that exist.")]
Device = Annotated[str, typer.Option("--device", help="Where to run: cpu, cuda, cuda:1, mps.")]
Window = Annotated[float, typer.Option("--window", help="Seconds processed at a time.", min=0.1)]


def main(args: list[str] | None = None) -> None:
    """Run ``mmtok``; expected failures print one line and exit with 1 (a traceback with ``--debug``)."""
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args
    try:
        app(args=[a for a in args if a != "--debug"], prog_name="mmtok")
    except EXPECTED as error:
        if debug:
            raise
        _complain(error)
        raise SystemExit(1) from None


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works anywhere on the line.")] = False,
) -> None:
    if version:
        import tokenizers_mm

        out.print(f"tokenizers_mm {tokenizers_mm.__version__}", highlight=False)
        raise typer.Exit


# -- the registry ------------------------------------------------------------------------------------------------------


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
    table = Table("name", "modality", "input", "tokens/s", "kbit/s", "codebooks", "weights", "licence", box=None)
    for card in cards:
        row = card.row()
        rates = (_number(row["token_rate"]), _number(row["kbps"]))
        table.add_row(
            row["name"], row["modality"], row["input"], *rates, row["codebooks"], row["weights"], row["licence"]
        )
    out.print(table)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A card's name, or a .mmt file.", show_default=False)],
) -> None:
    """Show all there is to know about one codec, or what is inside a token file.

    Example: [cyan]mmtok info wavtokenizer-40[/]

    Example: [cyan]mmtok info speech.mmt[/]
    """
    import yaml

    from tokenizers_mm import registry

    if name.endswith(".mmt"):
        _print_token_file(Path(name))
        return
    card = registry.get_card(name)
    out.print(f"[bold]{card.name}[/]: {escape(card.summary)}\n", highlight=False)
    row, total = card.row(), _parameter_count(card)
    facts = {
        "modality": card.modality,
        "input": row["input"],
        "tokens": f"{row['codebooks']} codebook entries, hop {card.spec.hop}, spec {card.spec.fingerprint}",
        "rate": f"{_number(row['token_rate'])} tokens/s, {_number(row['kbps'])} kbit/s",
        "parameters": f"{total:,}",
        "class": card.class_path,
        "weights": row["weights"],
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


# -- files <-> tokens --------------------------------------------------------------------------------------------------


@app.command()
def encode(
    inputs: Annotated[list[Path], typer.Argument(help="Files, or folders to search.", show_default=False)],
    codec: CodecOption,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the .mmt files, or one .mmt file; default: beside each."),
    ] = None,
    window: Window = 10.0,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Encode files of any rate and channel count to .mmt token files, in constant memory.

    Example: [cyan]mmtok encode talk.mp3 -c wavtokenizer-speech-16k[/]

    Example: [cyan]mmtok encode recordings/ -c ./my_codec -o tokens/[/]
    """
    from tokenizers_mm import registry, transcode

    model = registry.load(codec, device=device)
    extensions = registry.wing(model.spec.modality, "files").EXTENSIONS
    jobs = transcode.plan(inputs, extensions, transcode.SUFFIX, output)
    _transcode(jobs, partial(transcode.encode_file, model, window=window, force=force, progress=_follow(jobs)))


@app.command()
def decode(
    inputs: Annotated[list[Path], typer.Argument(help=".mmt files, or folders to search.", show_default=False)],
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec", "-c", help="Card, folder or hf:owner/name; default: the one card whose tokens these are."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files, or one file; default: beside each.")
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="Extension to write, such as flac; default: that of --output, or lossless."),
    ] = None,
    window: Window = 10.0,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Decode .mmt token files to signals; the codec is found from the tokens, or given.

    Example: [cyan]mmtok decode talk.mmt -o decoded.wav[/]

    Example: [cyan]mmtok decode tokens/ -c ./my_codec --format flac -o out/[/]
    """
    from tokenizers_mm import bitstream, registry, transcode

    to_file = output is not None and output.suffix and not output.is_dir()
    suffix = f".{file_format.lstrip('.').lower()}" if file_format else output.suffix if output and to_file else ""
    load = lru_cache(maxsize=1)(partial(registry.load, device=device))

    jobs = transcode.plan(inputs, [transcode.SUFFIX], suffix or transcode.SUFFIX, output)

    def work(source: Path, target: Path) -> Transcoded:
        tokens = bitstream.load(source)
        model = load(codec or transcode.codec_name_for(tokens.spec))
        if not suffix:
            target = target.with_suffix(registry.wing(tokens.spec.modality, "files").EXTENSIONS[0])
        return transcode.decode_file(model, tokens, source, target, window=window, force=force, progress=_follow(jobs))

    _transcode(jobs, work)


# -- training and evaluation -------------------------------------------------------------------------------------------


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A YAML file, or a shipped one by its name; not needed to resume.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="key=value in place of the recipe's; repeatable.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", "-r", help="A checkpoint, or a run's folder, to go on from.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
) -> None:
    """Train a codec from a recipe; the run's folder gets checkpoints, logs, and a codec that [bold]load[/] reads.

    Example: [cyan]mmtok train wavtokenizer-small --set data.init_args.train.path=~/speech[/]

    Example: [cyan]mmtok train --resume runs/my-run[/]
    """
    from tokenizers_mm.training.run import train as run

    folder = run(recipe, overrides or [], resume=resume, output=output)
    out.print(f"[green]done[/]: tm.load({str(folder / 'codec')!r}), or mmtok eval {folder / 'codec'}", highlight=False)


@app.command("eval")
def evaluate(
    codecs: Annotated[list[str], typer.Argument(help="Cards, folders or hf:owner/name.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Folder, manifest CSV or file; default: the shipped samples.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Rows of a manifest that count; 'all' for every row; default: the suite's."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="A shipped suite's name, or a YAML file; default: the modality's.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Comma-separated; default: the suite's.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Only the first files.", min=1)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="The report as one page to listen to and look at; send it to anyone.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", help="Folder for originals, reconstructions and tokens.", show_default=False),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Run the suite's classical coders too.")
    ] = True,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="ROLE=FILE (TorchScript, ONNX) or ROLE=module:name, for metrics that need one; repeatable."
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", help="Processes for metrics; 0: none extra.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Files coded together.", min=1)] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on from what a run to the same --output left when it was killed."
        ),
    ] = True,
    device: Device = "cpu",
    details: Annotated[bool, typer.Option("--details", help="Also print every metric.")] = False,
) -> None:
    """Measure reconstruction quality, bitrate, codebook use and speed; one row per codec.

    Example: [cyan]mmtok eval wavtokenizer-speech-16k ./my_codec --data ~/speech/test -o report.json --html report.html[/]
    """
    from tokenizers_mm.evaluation.html import write_html
    from tokenizers_mm.evaluation.run import evaluate as run

    if html is not None and not html.absolute().parent.is_dir():
        raise FileNotFoundError(f"--html must be in a folder that exists, got {str(html)!r}")
    passing = Path(f"{html}.partial") if html is not None and keep is None else None
    if passing is not None:
        passing.mkdir(exist_ok=True)
    report = run(
        codecs,
        data=data,
        split=split,
        suite=suite,
        output=output,
        limit=limit,
        metrics=metrics.split(",") if metrics else None,
        baselines=None if baselines else (),
        models=dict(_pair(model) for model in models or ()),
        workers=workers,
        batch_size=batch_size,
        device=device,
        resume=resume,
        keep=keep or passing,
    )
    if html is not None:
        write_html(report, html, items_folder=keep or passing)
    if passing is not None:
        shutil.rmtree(passing, ignore_errors=True)
        report = report.without_files()
        if output is not None:
            report.save(output)
    out.print(report.table())
    if details:
        out.print(report.details())
    for note in report.notes():
        out.print(f"* {note}", markup=False, highlight=False)
    if any(result.errors for result in report.codecs):
        raise typer.Exit(1)


@app.command()
def leaderboard(
    results: Annotated[
        Path | None, typer.Argument(help="Folder of result files; default: eval/results.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; default: LEADERBOARD.md beside that folder.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if the page is out of date.")] = False,
) -> None:
    """Make the leaderboard from result files that `mmtok eval --suite NAME -o FILE` wrote; what does not verify stays out.

    Example: [cyan]mmtok leaderboard eval/results[/]
    """
    from tokenizers_mm.evaluation.leaderboard import write

    board = write(results, output, check=check)
    out.print(f"{len(board.accepted)} results in the leaderboard", highlight=False)
    for file, faults in board.rejected.items():
        _complain(ValueError("; ".join(faults)), file)
    if board.rejected:
        raise typer.Exit(1)


@app.command()
def bench(
    benchmark: Annotated[str, typer.Argument(help="A shipped benchmark, or a YAML file.")] = "audio",
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", help="Threads of PyTorch; default: its own choice.", min=1)
    ] = None,
    clock: Annotated[
        Literal["wall", "cpu"],
        typer.Option("--clock", help="cpu: processor time, for a busy machine and one thread."),
    ] = "wall",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the report.")] = None,
) -> None:
    """Time codecs beside public ones, in turns: encoding, decoding, training, memory, storage.

    Example: [cyan]mmtok bench --threads 2 -o bench.json[/]
    """
    from tokenizers_mm.evaluation import bench_tables
    from tokenizers_mm.evaluation.bench import bench as run

    with err.status("building the contenders") as status:
        report = run(benchmark, threads=threads, clock=clock, output=output, progress=status.update)
    for table in bench_tables.tables(report):
        out.print(table)
    for note in bench_tables.notes(report):
        out.print(f"* {note}", markup=False, highlight=False)


@convert_app.command("wavtokenizer")
def convert_wavtokenizer(
    source: Annotated[
        Path, typer.Argument(help="Published .ckpt, or .safetensors with the same keys.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option("--config", help="The checkpoint's YAML, to check the sizes against.")
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle", help="Unpickle objects other than tensors. Runs code in the file: trust it first."
        ),
    ] = False,
) -> None:
    """Convert a published WavTokenizer checkpoint.

    Example: [cyan]mmtok convert wavtokenizer WavTokenizer_small_600_24k_4096.ckpt ./wavtokenizer-small-40[/]
    """
    from tokenizers_mm import registry

    convert = registry.wing("audio", "convert").convert_wavtokenizer
    folder = convert(source, output, config=config, allow_pickle=allow_pickle)
    out.print(f"[green]converted[/]: tm.load({str(folder)!r}), or mmtok encode ... -c {folder}", highlight=False)


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


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what it writes.")] = Path("quickstart"),
    train_seconds: Annotated[int, typer.Option("--train-seconds", help="How long to train.", min=0)] = 60,
) -> None:
    """Encode, decode, evaluate and train on the shipped samples: three minutes on two cores."""
    from tokenizers_mm import quickstart as tour

    tour.run(output, train_seconds=train_seconds, console=out)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _complain(error: BaseException, about: object = None) -> None:
    text = " ".join(str(error).split()) or type(error).__name__
    err.print(
        f"[bold red]error:[/] {escape(text if about is None else f'{about}: {text}')}", highlight=False, soft_wrap=True
    )


def _follow(jobs: Sequence[object]) -> Progress:
    """A progress bar for the one long file of a call; several files share a bar that counts files."""

    def follow(pieces: Iterable[Tensor], total: int) -> Iterable[Tensor]:
        quiet = len(jobs) > 1 or not err.is_terminal
        return track(pieces, total=total, console=err, transient=True, disable=quiet)

    return follow


def _transcode(jobs: list[tuple[Path, Path]], work: Callable[[Path, Path], Transcoded]) -> None:
    """Run the jobs and print what each cost; one broken file among several is reported, not fatal."""
    done: list[Transcoded] = []
    for source, target in track(jobs, console=err, transient=True, disable=len(jobs) < 2):
        try:
            done.append(work(source, target))
        except EXPECTED as error:
            if len(jobs) == 1:
                raise
            _complain(error, source)
    table = Table(
        "written", "seconds", "tokens", ".mmt bytes", "kbit/s nominal", "kbit/s real", "x real time", box=None
    )
    for job in done:
        rates = ["-"] * 4
        if job.seconds:
            nominal, real = job.nominal_bits / job.seconds / 1000, 8 * job.token_bytes / job.seconds / 1000
            rates = [f"{job.seconds:.2f}", f"{nominal:.3f}", f"{real:.3f}", f"{job.seconds / job.elapsed:.1f}"]
        table.add_row(escape(str(job.target)), rates[0], str(job.steps), str(job.token_bytes), *rates[1:])
    if done:
        out.print(table)
    if len(done) < len(jobs):
        _complain(ValueError(f"{len(jobs) - len(done)} of {len(jobs)} files failed"))
        raise typer.Exit(1)


def _pair(text: str) -> tuple[str, str]:
    """``ROLE=SOURCE`` as two."""
    role, equals, source = text.partition("=")
    if not (role and equals and source):
        raise ValueError(f"--model must be ROLE=FILE or ROLE=module:name, got {text!r}")
    return role, source


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _parameter_count(card: Card) -> int:
    import torch

    from tokenizers_mm import registry

    with torch.device("meta"):
        return sum(p.numel() for p in registry.build(card).parameters())


def _print_token_file(path: Path) -> None:
    from tokenizers_mm import bitstream, registry

    tokens = bitstream.load(path)
    names = ", ".join(card.name for card in registry.matching(tokens.spec)) or "none of the installed cards"
    out.print(f"{len(tokens)} item(s), spec {tokens.spec.fingerprint}, fits {names}", highlight=False)
    out.print({key: value for key, value in tokens.spec.to_dict().items() if value is not None})
    for index, item in enumerate(tokens):
        rate = "" if tokens.spec.frame_rate is None else f", {float(item.bitrate[0]) / 1000:g} kbit/s nominal"
        out.print(f"item {index}: grid {item.shape}, {float(item.bits[0]):,.0f} bits{rate}", highlight=False)
