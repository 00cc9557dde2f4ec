"""``mmtok stream``: raw samples through a codec in real time, from standard input to standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from tokenizers_mm.cli.common import Device, app, err

if TYPE_CHECKING:
    from torch import Tensor

    from tokenizers_mm.codec import Codec
    from tokenizers_mm.tokens import Tokens

    Packets = Iterable[tuple[Tokens, int | None]]  # the samples of the whole signal come with its last tokens

_CHUNK = 65536  # bytes read at most at a time: what has come is taken at once


class SampleFormat(StrEnum):
    """How a sample is written: 16-bit integers, or floats in [-1, 1]; little-endian, channels interleaved."""

    S16LE = "s16le"
    F32LE = "f32le"


@app.command()
def stream(
    codec: Annotated[str, typer.Argument(help="A streaming codec: card, folder or hf:owner/name.", show_default=False)],
    sample_format: Annotated[
        SampleFormat, typer.Option("--format", help="Of the samples on both sides, at the codec's rate and channels.")
    ] = SampleFormat.S16LE,
    encode_only: Annotated[
        bool, typer.Option("--encode-only", help="Write token packets in place of samples.")
    ] = False,
    decode_only: Annotated[bool, typer.Option("--decode-only", help="Read token packets in place of samples.")] = False,
    device: Device = "cpu",
) -> None:
    """Encode and decode raw samples from stdin to stdout as they come; latency and speed are reported on stderr.

    Example: [cyan]arecord -t raw -f S16_LE -r 24000 | mmtok stream mimi | aplay -t raw -f S16_LE -r 24000[/]

    Example: [cyan]mmtok stream mimi --encode-only < talk.raw | ssh host mmtok stream mimi --decode-only > talk2.raw[/]
    """
    from tokenizers_mm import registry
    from tokenizers_mm.packets import PacketReader, PacketWriter

    if encode_only and decode_only:
        raise ValueError("--encode-only and --decode-only exclude each other: without either, samples become samples")
    for file, name in ((sys.stdin, "stdin"), (sys.stdout, "stdout")):
        if file.isatty():
            raise ValueError(f"{name} must be a file or a pipe with raw samples or token packets, got a terminal")
    model = registry.load(codec, device=device)
    meter = _Meter(float(model.spec.sample_rate or 1))
    delays = [f"{1000 * s:.0f} ms to {what}" for s, what in _latencies(model, encode_only, decode_only)]
    err.print(
        f"ready: {sample_format.value}, {model.spec.sample_rate:g} Hz, {model.spec.channels or 1} channel(s), latency "
        + " + ".join(delays),
        highlight=False,
        soft_wrap=True,
    )
    packets: Packets = (
        PacketReader(sys.stdin.buffer)
        if decode_only
        else _encode(model, _read_samples(sys.stdin.buffer, sample_format, model.spec.channels or 1), meter)
    )
    try:
        if encode_only:
            writer = PacketWriter(sys.stdout.buffer, model.spec)
            for tokens, samples in packets:
                writer.write(tokens, samples)
        else:
            for wave in _decode(model, packets, meter):
                sys.stdout.buffer.write(_to_bytes(wave, sample_format))
                sys.stdout.buffer.flush()
    except BrokenPipeError:  # whoever listened has gone, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter flushes at exit
    finally:
        err.print(meter.summary(), highlight=False, soft_wrap=True)


@dataclass
class _Meter:
    """Samples of signal, and seconds of computation."""

    sample_rate: float
    samples: int = 0
    busy: float = 0.0
    longest: float = 0.0

    @contextmanager
    def push(self, samples: int) -> Iterator[None]:
        """Time the computation inside, which takes in so many samples."""
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self.samples, self.busy, self.longest = self.samples + samples, self.busy + took, max(self.longest, took)

    def summary(self) -> str:
        seconds = self.samples / self.sample_rate
        if not seconds:
            return "nothing came"
        factor = seconds / max(self.busy, 1e-9)
        return (
            f"{seconds:.2f} s of signal in {self.busy:.2f} s of computation: {factor:.2f} x real time, "
            f"longest push {1000 * self.longest:.0f} ms"
        )


def _latencies(model: Codec, encode_only: bool, decode_only: bool) -> list[tuple[float, str]]:
    """Seconds by which samples wait in each session that the command opens; opening them refuses codecs that cannot stream."""
    sessions: list[tuple[float, str]] = []
    if not decode_only:
        sessions.append((model.stream().latency_seconds, "encode"))
    if not encode_only:
        sessions.append((model.stream(decode=True).latency_seconds, "decode"))
    return sessions


def _encode(model: Codec, chunks: Iterable[Tensor], meter: _Meter) -> Iterator[tuple[Tokens, int | None]]:
    import torch

    from tokenizers_mm.tokens import Tokens

    session = model.stream()
    total = 0
    for chunk in chunks:
        total += chunk.shape[-1]
        with meter.push(chunk.shape[-1]):
            tokens = session.push(chunk)
        if tokens.ids.shape[1]:
            yield tokens, None
    with meter.push(0):
        tokens = session.flush() if total else Tokens(torch.zeros(1, 0, model.spec.num_codebooks).long(), model.spec)
    yield tokens, total


def _decode(model: Codec, packets: Packets, meter: _Meter) -> Iterator[Tensor]:
    """Samples as they become final; those past the signal's end are cut off."""
    import torch

    session = model.stream(decode=True)
    done = 0
    for tokens, total in packets:
        if total == 0:
            return
        with meter.push(0):
            wave = session.push(tokens)
            if total is not None:
                wave = torch.cat([wave, session.flush()], dim=-1)[..., : total - done]
        done += wave.shape[-1]
        meter.samples = max(meter.samples, done)
        yield wave


def _read_samples(file: BinaryIO, sample_format: SampleFormat, channels: int) -> Iterator[Tensor]:
    """Float signals ``[1, C, n]`` of whatever has come, until the end or Ctrl-C; bytes of a split sample wait for its rest."""
    import numpy as np
    import torch

    kind = np.dtype("<i2" if sample_format is SampleFormat.S16LE else "<f4")
    frame, waiting = kind.itemsize * channels, b""
    while data := _read_some(file):
        data = waiting + data
        whole = len(data) // frame * frame
        waiting = data[whole:]
        if whole:
            samples = np.frombuffer(data[:whole], dtype=kind).astype(np.float32).reshape(-1, channels)
            yield torch.from_numpy(samples.T.copy())[None] / (32768 if kind.kind == "i" else 1)
    if waiting:
        err.print(
            f"[yellow]warning:[/] the last {len(waiting)} byte(s) are no whole sample and were ignored", soft_wrap=True
        )


def _read_some(file: BinaryIO) -> bytes:
    try:
        return file.read1(_CHUNK)  # type: ignore[attr-defined]  # of every buffered reader
    except KeyboardInterrupt:
        return b""


def _to_bytes(wave: Tensor, sample_format: SampleFormat) -> bytes:
    """Interleaved samples of a signal ``[1, C, n]``; integers are rounded and clipped."""
    frames = wave[0].T.cpu()
    if sample_format is SampleFormat.F32LE:
        return frames.numpy().astype("<f4").tobytes()
    return (frames * 32768).round().clamp(-32768, 32767).numpy().astype("<i2").tobytes()
