"""``mmtok quickstart``: what the library does, on the samples that ship, in about three minutes on two CPU cores."""

from __future__ import annotations

import csv
from pathlib import Path

from rich.console import Console

from tokenizers_mm import registry, transcode
from tokenizers_mm.codec import Codec
from tokenizers_mm.tokens import Tokens

CODEC = "wavtokenizer-speech-16k"
OTHERS = ("vqgan-128", "var-128", "totem-etth1")
RECIPE = "wavtokenizer-small"
CLIPS, EVALUATED = 3, 6
BASELINES = ("opus-6", "opus-12")


def run(output: Path, *, train_seconds: int = 60, console: Console | None = None) -> None:
    """Load, encode, decode, evaluate and train; write tokens, sound, a picture and a trained codec to a folder.

    Args:
        output: The folder; files of an earlier run are overwritten.
        train_seconds: How long to train; 0 skips training.
        console: Where to tell what happens.

    Raises:
        FileNotFoundError: If this installation lacks the samples or the codec's weights.
    """
    console = console or Console()
    output.mkdir(parents=True, exist_ok=True)
    card = registry.get_card(CODEC)
    codec = registry.load(CODEC)
    size = sum(p.numel() for p in codec.parameters()) / 1e6
    _say(console, 1, f"tm.load({CODEC!r}): {card.summary} {size:.1f} M parameters")
    clips = sample_clips()[:CLIPS]
    _say(console, 2, "encode, save, decode: every number below is measured on the file written")
    pairs = [_round_trip(codec, clip, output, console) for clip in clips]
    picture = output / "spectrograms.png"
    _picture(codec, pairs, picture)
    _say(console, 3, f"originals and reconstructions: {picture}")
    _say(console, 4, "evaluate")
    _evaluate(output, console)
    _say(console, 5, "the same for other signals")
    for name in OTHERS:
        _other_signal(name, output, console)
    if train_seconds:
        _say(console, 6, f"train the recipe {RECIPE!r} for {train_seconds} s on the same samples")
        _train(output, train_seconds, console)
    _next_steps(output, console)


def sample_clips() -> list[Path]:
    """Shipped speech that the shipped recipe does not train on.

    Raises:
        FileNotFoundError: If this installation has no samples.
    """
    with samples().open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "speech" and row["split"] == "test"]
    return [samples().parent / row["path"] for row in rows]


def samples() -> Path:
    """The manifest of the shipped samples."""
    return registry.data_path("eval") / "samples" / "manifest.csv"


def loss_curve(run_folder: Path) -> list[float]:
    """Training losses that a run logged, in order."""
    with (run_folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def _say(console: Console, number: int, text: str) -> None:
    console.print(f"\n[bold cyan]{number}.[/] {text}", highlight=False)


def _round_trip(codec: Codec, clip: Path, output: Path, console: Console) -> tuple[Path, Path]:
    extension = registry.wing(codec.spec.modality, "files").EXTENSIONS[0]
    file, decoded = output / f"{clip.stem}.mmt", output / f"{clip.stem}{extension}"
    facts = transcode.encode_file(codec, clip, file, force=True)
    transcode.decode_file(codec, Tokens.load(file), file, decoded, force=True)
    seconds = facts.seconds or 1.0
    nominal, real = facts.nominal_bits / seconds, 8 * facts.token_bytes / seconds
    console.print(
        f"   {clip.name}: {seconds:.1f} s, {facts.steps} tokens, {nominal:.0f} bit/s nominal, "
        f"[bold]{real:.0f} bit/s[/] as {file.name} ({facts.token_bytes} bytes)",
        highlight=False,
    )
    return clip, decoded


def _other_signal(name: str, output: Path, console: Console) -> None:
    """There and back for the first sample of another modality."""
    from tokenizers_mm.evaluation.suite import load_suite

    codec = registry.load(name)
    folder = registry.data_path("eval") / load_suite(codec.spec.modality).data
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        sample = folder / next(row["path"] for row in csv.DictReader(file) if row["split"] == "test")
    tokens = output / f"{sample.stem}-{name}.mmt"
    decoded = tokens.with_suffix(registry.wing(codec.spec.modality, "files").EXTENSIONS[0])
    facts = transcode.encode_file(codec, sample, tokens, force=True)
    transcode.decode_file(codec, Tokens.load(tokens), tokens, decoded, force=True)
    console.print(
        f"   {name}: {sample.name} ({facts.sizes}), {facts.steps} tokens as {tokens.name} ([bold]{facts.token_bytes} bytes[/]), "
        f"back as {decoded.name}",
        highlight=False,
    )


def _picture(codec: Codec, pairs: list[tuple[Path, Path]], path: Path) -> None:
    files = registry.wing(codec.spec.modality, "files")
    monitor = registry.wing(codec.spec.modality, "monitor")
    signals = [(files.read(a, codec.spec), files.read(b, codec.spec)) for a, b in pairs]
    monitor.spectrograms(signals, int(codec.spec.sample_rate or 0)).savefig(path, dpi=100)


def _evaluate(output: Path, console: Console) -> None:
    from tokenizers_mm.evaluation.html import write_html
    from tokenizers_mm.evaluation.run import evaluate

    clips = output / "clips"
    report = evaluate(
        [CODEC],
        data=samples(),
        output=output / "report.json",
        limit=EVALUATED,
        baselines=BASELINES,
        keep=clips,
        resume=False,
        progress=False,
    )
    console.print(report.table())
    page = write_html(report, output / "report.html", items_folder=clips)
    console.print(f"   to listen and compare: {page}", highlight=False)


def _train(output: Path, seconds: int, console: Console) -> None:
    from tokenizers_mm.training.run import train

    folder = train(RECIPE, _short_run(seconds), output=output / "run")
    losses = loss_curve(folder)
    first, last = losses[:5], losses[-5:]
    console.print(
        f"   {len(losses)} steps: loss {sum(first) / len(first):.2f} at first, [bold]{sum(last) / len(last):.2f}[/] at last; "
        f"the codec is in {folder / 'codec'}",
        highlight=False,
    )


def _short_run(seconds: int) -> list[str]:
    """Overrides that make the recipe learn something visible in ``seconds``: small batches, hardly any warm-up."""
    return [
        f"trainer.max_time=00:00:{seconds // 60:02d}:{seconds % 60:02d}",
        "trainer.log_every_n_steps=1",
        "trainer.limit_val_batches=1",
        "trainer.enable_model_summary=false",
        "trainer.precision=32-true",
        "data.init_args.batch_size=4",
        "model.init_args.warmup_steps=10",
        "model.init_args.ema_decay=0.98",
    ]


def _next_steps(output: Path, console: Console) -> None:
    console.print(
        f"""
[bold green]Done.[/] Open {output}/report.html in a browser, listen to {output}/*.wav, look at {output}/*.png, then try:
   mmtok encode your.mp3 -c {CODEC}
   mmtok train {RECIPE} --set data.init_args.train.path=FOLDER_OF_AUDIO
   mmtok eval {CODEC} {output}/run/codec
   tensorboard --logdir {output}/run""",
        highlight=False,
    )
