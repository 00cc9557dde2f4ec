"""Long recordings: memory and speed of coding a generated signal of hours, file to tokens to file, each in its own process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.meter import run_alone
from tokenizers_mm.tokens import Tokens
from tokenizers_mm.transcode import Transcoded, decode_file, encode_file

PIECE_SECONDS = 30.0  # of the signal that is generated at a time
_LOUDNESS = 0.1  # deviation of the noise, as a share of what samples may be
_MICROVOLTS = 30.0  # where they may be anything


@dataclass(frozen=True)
class LongRun:
    """What one codec took for one long signal.

    Args:
        codec: Its name.
        seconds: Length of the signal.
        encode_seconds: Time to tokens, reading the file included.
        decode_seconds: Time back, writing included.
        encode_bytes: Most memory of the process that encodes, Python, PyTorch and weights included; None where the system
            doesn't say.
        decode_bytes: The same of decoding.
        steps: Token steps.
        expected_steps: Those of the whole signal at once.
        samples: Of the decoded file.
        expected_samples: Of the original.
    """

    codec: str
    seconds: float
    encode_seconds: float
    decode_seconds: float
    encode_bytes: float | None
    decode_bytes: float | None
    steps: int
    expected_steps: int
    samples: int
    expected_samples: int

    @property
    def exact(self) -> bool:
        """Whether neither a token nor a sample is missing or too many."""
        return (self.steps, self.samples) == (self.expected_steps, self.expected_samples)


def measure_long(
    source: str,
    *,
    hours: float = 3.0,
    channels: int = 1,
    window: float = 10.0,
    threads: int = 1,
    folder: str | Path | None = None,
) -> LongRun:
    """Code a generated signal there and back; of a card, with random weights.

    Args:
        source: A card's name or a codec's folder.
        hours: Length of the signal.
        channels: Of the signal, where the codec takes any number.
        window: Seconds processed at a time.
        threads: Of PyTorch.
        folder: Where the temporary files go, about twice the size of the signal as 16-bit PCM; by default the system's.

    Raises:
        ValueError: If the codec's signals have no rate, or ``hours`` is not positive.
        RuntimeError: If a process failed; the message is its error.
    """
    if not 0 < hours < math.inf:
        raise ValueError(f"hours must be a positive number, got {hours}")
    codec = _load(source)
    spec = codec.spec
    if spec.sample_rate is None or spec.frame_rate is None:
        raise ValueError(f"a long signal needs a sample rate, which {source!r} does not have")
    n, channels = round(hours * 3600 * spec.sample_rate), spec.channels or channels
    loudness = _MICROVOLTS if codec.signal_range is None else _LOUDNESS * codec.signal_range[1]
    files = registry.wing(spec.modality, "files")
    with tempfile.TemporaryDirectory(prefix="mmtok-long-", dir=folder) as place:
        suffix = files.EXTENSIONS[0]
        original, tokens, back = (Path(place) / name for name in (f"original{suffix}", "tokens.mmt", f"back{suffix}"))
        files.write(original, (loudness * piece for piece in _noise(channels, n, spec.sample_rate)), spec)
        encode_bytes, encoded = run_alone(partial(_encode, source, original, tokens, window, threads))
        decode_bytes, decoded = run_alone(partial(_decode, source, tokens, back, window, threads))
        samples = round(files.info(back).seconds * spec.sample_rate)
    return LongRun(
        codec=source,
        seconds=n / spec.sample_rate,
        encode_seconds=encoded.elapsed,
        decode_seconds=decoded.elapsed,
        encode_bytes=encode_bytes,
        decode_bytes=decode_bytes,
        steps=encoded.steps,
        expected_steps=spec.steps((channels, n) if "channel" in spec.axes else n),
        samples=samples,
        expected_samples=n,
    )


def table(runs: list[LongRun]) -> Table:
    """One row per codec."""
    found = Table(title="generated signal, file to tokens to file: most memory of each process", title_justify="left")
    found.add_column("", no_wrap=True)
    for name in ("hours", "encode MB", "decode MB", "encode x real time", "decode x", "tokens and samples"):
        found.add_column(name, justify="right")
    for run in runs:
        memory = ["-" if size is None else f"{size / 1e6:.0f}" for size in (run.encode_bytes, run.decode_bytes)]
        speed = [f"{run.seconds / spent:.1f}" for spent in (run.encode_seconds, run.decode_seconds)]
        exact = (
            "exact"
            if run.exact
            else f"{run.steps} of {run.expected_steps} steps, {run.samples} of {run.expected_samples} samples"
        )
        found.add_row(run.codec, f"{run.seconds / 3600:g}", *memory, *speed, exact)
    return found


def _load(source: str) -> Codec:
    torch.manual_seed(0)
    named = {card.name for card in registry.list_codecs()}
    return registry.load(source, pretrained=source not in named)


def _encode(source: str, original: Path, tokens: Path, window: float, threads: int) -> Transcoded:
    torch.set_num_threads(threads)
    return encode_file(_load(source), original, tokens, window=window)


def _decode(source: str, tokens: Path, back: Path, window: float, threads: int) -> Transcoded:
    torch.set_num_threads(threads)
    return decode_file(_load(source), Tokens.load(tokens), tokens, back, window=window)


def _noise(channels: int, n: int, rate: float) -> Iterator[Tensor]:
    """Noise that swells and fades, ``[C, n]`` in pieces."""
    generator, piece = torch.Generator().manual_seed(0), round(PIECE_SECONDS * rate)
    for start in range(0, n, piece):
        length = min(piece, n - start)
        swell = torch.linspace(0, math.pi, length).sin()
        yield swell * torch.randn(channels, length, generator=generator).clamp(-3, 3)
