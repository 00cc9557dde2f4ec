"""``mmtok encode | decode``: files to tokens and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from tokenizers_mm.cli.common import (
    EXPECTED,
    CodecOption,
    Device,
    Force,
    LanguageModel,
    Reading,
    Weights,
    Window,
    app,
    complain,
    err,
    pairs,
)
from tokenizers_mm.cli.piping import piped

if TYPE_CHECKING:
    from torch import Tensor

    from tokenizers_mm.transcode import Progress, Transcoded


@app.command()
def encode(
    inputs: Annotated[list[Path], typer.Argument(help="Files, folders to search, or - for stdin.", show_default=False)],
    codec: CodecOption,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the .mmt files, one file (.mmt, .ecdc), or - for stdout; default: beside each.",
        ),
    ] = None,
    weights: Weights = None,
    lm: LanguageModel = None,
    reading: Reading = None,
    window: Window = 10.0,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Encode files to .mmt token files: sound of any rate and length in constant memory, images of any size, series, text.

    Example: [cyan]mmtok encode talk.mp3 -c wavtokenizer-speech-16k[/]

    Example: [cyan]mmtok encode song.wav -c encodec-24khz -o song.ecdc[/]

    Example: [cyan]mmtok encode talk.mp3 -c wavtokenizer-speech-16k --lm ./my_lm[/]

    Example: [cyan]mmtok encode recordings/ -c ./my_codec -o tokens/[/]

    Example: [cyan]mmtok encode photo.jpg -c vqgan-128[/]

    Example: [cyan]mmtok encode load.csv -c totem-etth1 --read columns=load,temperature[/]

    Example: [cyan]mmtok encode night.edf -c ./my_eeg_codec --read montage=10-20 --read highpass=0.5[/]

    Example: [cyan]echo Hello | mmtok encode - -c bpe-8k | mmtok decode -[/]
    """
    from tokenizers_mm import registry, transcode
    from tokenizers_mm.reading import reading as check_reading

    model = registry.load(codec, weights=weights, device=device)
    extensions = registry.wing(model.spec.modality, "files").EXTENSIONS
    suffix = (
        output.suffix.lower() if output and output.suffix.lower() in transcode.token_suffixes() else transcode.SUFFIX
    )
    options = pairs("--read", reading, "NAME=VALUE")
    check_reading(model.spec.modality, options)
    name = transcode.writer_name(codec)
    work = partial(transcode.encode_file, model, name=name, lm=lm, window=window, force=force, reading=options)
    with piped(inputs, output, extensions[0]) as files:
        jobs = transcode.plan(files.inputs, extensions, suffix, files.output)
        _transcode(jobs, partial(work, progress=_follow(jobs)), files.console)


@app.command()
def decode(
    inputs: Annotated[
        list[Path], typer.Argument(help=".mmt or .ecdc files, folders to search, or - for stdin.", show_default=False)
    ],
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            "-c",
            help="Card, folder or hf:owner/name; default: the card that the file names, or the one that fits.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the files, one file, or - for stdout; default: beside each."),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="Extension to write, such as flac; default: that of --output, or lossless."),
    ] = None,
    weights: Weights = None,
    lm: LanguageModel = None,
    window: Window = 10.0,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Decode token files to signals; the codec is the one that the file names, found from the tokens, or given.

    Example: [cyan]mmtok decode talk.mmt -o decoded.wav[/]

    Example: [cyan]mmtok decode tokens/ -c ./my_codec --format flac -o out/[/]
    """
    from tokenizers_mm import registry, transcode

    to_file = output is not None and output.suffix and not output.is_dir()
    suffix = f".{file_format.lstrip('.').lower()}" if file_format else output.suffix if output and to_file else ""
    load = lru_cache(maxsize=1)(partial(registry.load, weights=weights, device=device))
    given = None if codec is None else transcode.writer_name(codec)

    def work(source: Path, target: Path) -> Transcoded:
        tokens, writer = transcode.read_tokens(source, lm=lm)
        model = load(codec or transcode.codec_name_for(tokens.spec, writer))
        if (
            given
            and writer
            and writer != given
            and writer.startswith(transcode.FOLDER) == given.startswith(transcode.FOLDER)
        ):
            err.print(f"[yellow]note:[/] {escape(f'{source} was written by {writer}, not by {given}')}", soft_wrap=True)
        if not suffix:
            target = target.with_suffix(registry.wing(tokens.spec.modality, "files").EXTENSIONS[0])
        return transcode.decode_file(model, tokens, source, target, window=window, force=force, progress=_follow(jobs))

    with piped(inputs, output, transcode.SUFFIX) as files:
        jobs = transcode.plan(files.inputs, transcode.token_suffixes(), suffix or transcode.SUFFIX, files.output)
        _transcode(jobs, work, files.console)


def _follow(jobs: Sequence[object]) -> Progress:
    """A progress bar for the one long file of a call; several files share a bar that counts files."""

    def follow(pieces: Iterable[Tensor], total: int) -> Iterable[Tensor]:
        quiet = len(jobs) > 1 or not err.is_terminal
        return track(pieces, total=total, console=err, transient=True, disable=quiet)

    return follow


def _transcode(jobs: list[tuple[Path, Path]], work: Callable[[Path, Path], Transcoded], console: Console) -> None:
    """Run the jobs and print what each cost; one broken file among several is reported, not fatal."""
    done: list[Transcoded] = []
    for source, target in track(jobs, console=err, transient=True, disable=len(jobs) < 2):
        try:
            done.append(work(source, target))
        except EXPECTED as error:
            if len(jobs) == 1:
                raise
            complain(error, source)
    if done:
        console.print(_rates(done) if any(job.seconds for job in done) else _sizes(done))
    if len(done) < len(jobs):
        complain(ValueError(f"{len(jobs) - len(done)} of {len(jobs)} files failed"))
        raise typer.Exit(1)


def _rates(done: Sequence[Transcoded]) -> Table:
    """What signals with time cost per second."""
    table = Table(
        "written", "seconds", "tokens", ".mmt bytes", "kbit/s nominal", "kbit/s real", "x real time", box=None
    )
    for job in done:
        rates = ["-"] * 4
        if job.seconds:
            nominal, real = job.nominal_bits / job.seconds / 1000, 8 * job.token_bytes / job.seconds / 1000
            rates = [f"{job.seconds:.2f}", f"{nominal:.3f}", f"{real:.3f}", f"{job.seconds / job.elapsed:.1f}"]
        table.add_row(escape(str(job.target)), rates[0], str(job.steps), str(job.token_bytes), *rates[1:])
    return table


def _sizes(done: Sequence[Transcoded]) -> Table:
    """What signals without time cost per sample."""
    table = Table("written", "size", "tokens", ".mmt bytes", "bits/sample nominal", "bits/sample real", box=None)
    for job in done:
        bits = (job.nominal_bits, 8 * job.token_bytes)
        rates = [f"{amount / job.samples:.4f}" if job.samples else "-" for amount in bits]
        table.add_row(escape(str(job.target)), job.sizes or "-", str(job.steps), str(job.token_bytes), *rates)
    return table
