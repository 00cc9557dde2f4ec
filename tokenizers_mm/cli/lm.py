"""``mmtok lm train | list | sample | score``: language models over tokens of any codecs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tokenizers_mm.cli.common import Device, Force, app, err, number, out
from tokenizers_mm.cli.training import train

if TYPE_CHECKING:
    from tokenizers_mm.lm.stream import Stream

lm = typer.Typer(help="Language models over tokens: train, sample, score.", no_args_is_help=True)
app.add_typer(lm, name="lm")
lm.command("train")(train)

Model = Annotated[str, typer.Argument(help="A shipped model's name, a folder, or hf:owner/name.", show_default=False)]
StreamName = Annotated[str | None, typer.Option("--stream", "-s", help="Which tokens; default: the model's first.")]


@lm.command("list")
def list_() -> None:
    """The language models that ship."""
    import tokenizers_mm as tm
    from tokenizers_mm.lm import TokenNGram

    table = Table("name", "class", "streams", "classes", "parameters", box=None)
    for name, kind in tm.list_lms().items():
        model: Any = tm.load_lm(name)
        vocabulary = getattr(model, "vocabulary", None)
        streams = [stream.name for stream in getattr(vocabulary, "streams", ())]
        size = model.num_parameters if isinstance(model, TokenNGram) else sum(p.numel() for p in model.parameters())
        classes = str(getattr(vocabulary, "classes", 0) or "-")
        table.add_row(name, kind, ", ".join(streams) or "text", classes, f"{size / 1e6:.1f}M")
    out.print(table)


@lm.command()
def sample(
    model: Model,
    stream: StreamName = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what is written.")] = Path("samples"),
    count: Annotated[int, typer.Option("--count", "-n", help="Items.", min=1)] = 4,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="Class, by name or number; repeated: one after the other.")
    ] = None,
    prompt: Annotated[Path | None, typer.Option("--prompt", help="A file whose beginning goes on.")] = None,
    prompt_steps: Annotated[int | None, typer.Option("--prompt-steps", help="Steps of it to take.", min=1)] = None,
    shape: Annotated[str | None, typer.Option("--shape", help="Of each item's grid: 500, or 19x100.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Of each item, its prompt among them, where there is time.")
    ] = None,
    max_steps: Annotated[int, typer.Option("--max-steps", help="Steps to draw at most.", min=1)] = 1024,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 takes the likeliest.", min=0)] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Draw from so many of the likeliest.", min=1)] = None,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw from the likeliest of this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", help="Draw from those this near to the likeliest.")] = 0.0,
    guidance: Annotated[float, typer.Option("--guidance", "-g", help="Away from what has no label.")] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="For the same items again.")] = None,
    codec: Annotated[str | None, typer.Option("--codec", "-c", help="What decodes; default: the stream's.")] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile steps first: 10 to 60 s, for long or many items; needs a C++ compiler."
        ),
    ] = False,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Write items: their tokens in one file, and what the codec makes of each.

    Example: [cyan]mmtok lm sample lm-image-caltech --label sunflower --guidance 2 -n 16 -o flowers[/]

    Example: [cyan]mmtok lm sample lm-speech-16k --prompt talk.wav --prompt-steps 100 --seconds 4 -o talk[/]
    """
    import tokenizers_mm as tm
    from tokenizers_mm import transcode
    from tokenizers_mm.lm import Sampling

    network: Any = _load(model, device)
    if compiled:
        network.transformer.compile_steps()
    source = network.vocabulary.stream(stream or network.vocabulary.streams[0].name)
    if codec is None and source.codec is None:
        raise ValueError(f"codec must be given: stream {source.name!r} names none")
    if shape is not None and seconds is not None:
        raise ValueError(f"one of shape and seconds must be given, got {shape} and {seconds:g}")
    decoder = tm.load(codec or source.codec, device=device)
    beginning = None if prompt is None else _beginning(decoder, prompt, prompt_steps)
    grid = _shape_of(source, seconds) if seconds is not None else None if shape is None else _shape(shape)
    transcode.check_free(target := output / "samples.mmt", force)
    labels = [_label(label[i % len(label)]) for i in range(count)] if label else None
    with err.status(f"writing {count} items"):
        tokens = network.generate(
            source.name,
            None if beginning is None else tm.Tokens.cat([beginning] * count),
            labels=labels,
            count=count,
            shape=grid,
            max_steps=max_steps,
            sampling=Sampling(temperature, top_k, top_p, min_p, guidance=guidance),
            seed=seed,
        )
    output.mkdir(parents=True, exist_ok=True)
    tokens.to("cpu").save(target, codec=codec or source.codec)
    suffix = tm.registry.wing(decoder.spec.modality, "files").EXTENSIONS[0]
    transcode.decode_file(decoder, tokens, target, output / f"sample{suffix}", force=force)
    out.print(f"[green]written[/]: {count} items in {output}", highlight=False)


@lm.command()
def score(
    model: Model,
    inputs: Annotated[
        list[Path], typer.Argument(help="Signals or token files, or folders of them.", show_default=False)
    ],
    stream: StreamName = None,
    label: Annotated[str | None, typer.Option("--label", "-l", help="Class of all of them.")] = None,
    device: Device = "cpu",
) -> None:
    """What files cost in bits as the model tells them, beside what their codec's ids cost alone.

    Example: [cyan]mmtok lm score lm-speech-16k talk.wav[/]
    """
    import tokenizers_mm as tm
    from tokenizers_mm import transcode

    network: Any = _load(model, device)
    source = network.vocabulary.stream(stream or network.vocabulary.streams[0].name)
    suffixes = set(transcode.token_suffixes())
    readable = {*suffixes, *tm.registry.wing(source.spec.modality, "files").EXTENSIONS}
    table = Table("file", "tokens", "bits", "bits/token", "of the ids alone", box=None)
    for path, name in transcode.find(inputs, readable):
        if path.suffix.lower() in suffixes:
            tokens, _ = transcode.read_tokens(path)
        else:
            if source.codec is None:
                raise ValueError(f"inputs must be token files: stream {source.name!r} names no codec, got {path}")
            tokens = _beginning(tm.load(source.codec, device=device), path, None)
        labels = None if label is None else [_label(label)] * len(tokens)
        nats = network.score(tokens.to(device), source.name, labels)
        codes, bits = int(tokens.lengths.sum()) * tokens.spec.num_codebooks, float(nats.sum()) / math.log(2)
        share = f"{100 * bits / float(tokens.bits.sum()):.1f} %"
        table.add_row(str(name), str(codes), number(bits), number(bits / codes), share)
    out.print(table)


def _load(name: str, device: str) -> Any:
    import tokenizers_mm as tm

    network: Any = tm.load_lm(name, device=device)
    if not hasattr(network, "vocabulary") or not hasattr(network, "generate"):
        raise ValueError(f"{name} is no language model over tokens of codecs; for one of text: mmtok text complete")
    return network


def _beginning(codec: Any, path: Path, steps: int | None) -> Any:
    """Tokens of a file, of the codec's modality, or their first steps."""
    from dataclasses import replace

    from tokenizers_mm import registry
    from tokenizers_mm.signals import batched

    files = registry.wing(codec.spec.modality, "files")
    tokens = codec.encode(*batched([files.read(path, codec.spec)]))
    if steps is None or steps >= int(tokens.shapes[0, -1]):
        return tokens
    return replace(tokens.narrow(0, steps), side=tokens.side)


def _label(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _shape_of(source: Stream, seconds: float) -> Sequence[int]:
    """Grid of an item that lasts so long."""
    rate, block = source.spec.frame_rate, source.spec.block
    if rate is None or source.closed or source.marks_rows or seconds <= 0:
        raise ValueError(
            f"seconds must be positive, of a stream that goes on in time, got {seconds:g} for {source.name!r}"
        )
    return source.open_shape(math.ceil(round(seconds * rate, 6) / block) * block)


def _shape(text: str) -> Sequence[int]:
    parts = text.lower().split("x")
    if not all(part.isdigit() for part in parts):
        raise ValueError(f"shape must be whole numbers with x between, such as 500 or 19x100, got {text!r}")
    return [int(part) for part in parts]
