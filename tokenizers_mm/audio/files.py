"""Audio files <-> tensors: any rate, any channel count, the formats of libsndfile; whole or in blocks.

Resampling is torchaudio's windowed sinc. Channels: several -> one is their mean, one -> several is a copy.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from tokenizers_mm.resampling import cut, resample, resampled
from tokenizers_mm.tokens import TokenSpec

_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
}
EXTENSIONS: tuple[str, ...] = tuple(_FORMATS)

_RATES = (1_000, 768_000)  # Hz; a header outside of this is damaged, and resampling from it would explode
_PIECE = 2**18  # values decoded at once
_STREAMED = 0x7FFFF000  # sizes from here on stand for "unknown" in the headers of piped files
_UNKNOWN = 2**62  # libsndfile's frame count for a stream whose header gives none


@dataclass(frozen=True)
class AudioInfo:
    """What an audio file's header says.

    Args:
        sample_rate: In Hz.
        channels: How many.
        frames: Samples of each channel.
        seconds: Its duration.
        format: Container and coding, e.g. ``"WAV/PCM_16"``.
    """

    sample_rate: int
    channels: int
    frames: int
    seconds: float
    format: str


class _Reader(soundfile.SoundFile):
    """Decodes strictly forward: soundfile seeks after each read of a seekable file, which MP3 answers inexactly."""

    def seekable(self) -> bool:
        return False


def info(path: str | Path) -> AudioInfo:
    """The header of an audio file; its samples are not decoded.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If it is empty, truncated, or not audio.
    """
    with _open(path) as file:
        frames = file.frames
        if frames >= _UNKNOWN:
            frames = sum(piece.shape[1] for piece in _pieces(file, path))
        rate = file.samplerate
        return AudioInfo(rate, file.channels, frames, frames / rate, f"{file.format}/{file.subtype}")


def read(path: str | Path, spec: TokenSpec, *, offset: float = 0.0, seconds: float | None = None) -> Tensor:
    """Samples of an audio file, resampled and mixed to what a codec takes.

    Args:
        path: The file; its content decides the format, not its name.
        spec: Gives ``sample_rate`` and ``channels`` (0 keeps the file's channels).
        offset: Where to start, in seconds.
        seconds: How much to read; by default everything from ``offset`` on.

    Returns:
        float32 ``[C, N]`` in [-1, 1] (lossy formats may overshoot a little).

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If it is empty, truncated or not audio, holds no sample there or NaN, or its channels do not fit.
    """
    rate = _rate(spec)
    if offset < 0 or (seconds is not None and seconds <= 0):
        raise ValueError(f"offset must be at least 0 and seconds positive, got {offset} and {seconds}")
    with _open(path) as file:
        start = round(offset * file.samplerate)
        count = None if seconds is None else max(1, round(seconds * file.samplerate))
        pieces = [_mix(piece, spec.channels, path) for piece in _pieces(file, path, start, count)]
        return resample(torch.cat(pieces, dim=1), file.samplerate, rate)


def blocks(path: str | Path, spec: TokenSpec, seconds: float) -> Iterator[Tensor]:
    """The samples of :func:`read` in consecutive pieces, without ever holding more than a few of them.

    Resampling runs on across the borders, so that the pieces joined are the whole file resampled at once.

    Args:
        path: The file.
        spec: Gives ``sample_rate`` and ``channels`` (0 keeps the file's channels).
        seconds: Length of each piece; only the last may be shorter.

    Returns:
        Iterator of float32 ``[C, n]``.

    Raises:
        FileNotFoundError, IsADirectoryError, ValueError: As :func:`read`. Damage further inside the file shows when the
            iterator reaches it.
    """
    rate = _rate(spec)
    size = round(seconds * rate)
    if size < 1:
        raise ValueError(f"seconds must give at least one sample at {rate} Hz, got {seconds}")
    file = _open(path)

    def mixed() -> Iterator[Tensor]:
        with file:
            for piece in _pieces(file, path):
                yield _mix(piece, spec.channels, path)

    return cut(resampled(mixed(), file.samplerate, rate), size)


def write(path: str | Path, signal: Tensor | Iterable[Tensor], spec: TokenSpec) -> None:
    """Write a signal to an audio file whose extension gives the format (16 bits where the format is lossless).

    Samples outside [-1, 1] are clipped. Missing folders are made; the file appears only when it is complete.

    Args:
        path: Where to; one of :data:`EXTENSIONS`.
        signal: Float ``[C, N]``, or consecutive pieces ``[C, n]`` of it, written one by one.
        spec: Gives ``sample_rate``, and ``channels`` (0 takes any).

    Raises:
        TypeError: If the signal is not float.
        ValueError: If it is empty, not finite or of other shape, or the format is unknown or cannot hold this rate.
        IsADirectoryError: If ``path`` is a folder.
    """
    path, rate = Path(path), _rate(spec)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"cannot write {path}: the extension must be one of {', '.join(EXTENSIONS)}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    container, subtype = _FORMATS[path.suffix.lower()]
    pieces = _checked([signal] if isinstance(signal, Tensor) else signal, spec)
    first = next(pieces, None)
    if first is None:
        raise ValueError(f"cannot write {path}: the signal holds no samples")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with soundfile.SoundFile(partial, "w", rate, len(first), subtype, format=container) as file:
            _encode(file, first)
            for piece in pieces:
                if len(piece) != len(first):
                    raise ValueError(f"pieces must all have {len(first)} channels, got one with {len(piece)}")
                _encode(file, piece)
        os.replace(partial, path)
    except soundfile.LibsndfileError as error:
        reason = error.error_string
        raise ValueError(f"cannot write {path} as {container} at {rate} Hz, {len(first)} channels: {reason}") from None
    finally:
        partial.unlink(missing_ok=True)


# -- decoding ----------------------------------------------------------------------------------------------------------


def _open(path: str | Path) -> _Reader:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected an audio file, {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(f"no audio file at {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file")
    try:
        file = _Reader(path)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: headerless .raw
        raise ValueError(f"{path} is not an audio file that libsndfile can read, or its header is damaged") from None
    declared = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", file.extra_info)
    problem = None
    if file.frames == 0:
        problem = "holds no samples"
    elif not _RATES[0] <= file.samplerate <= _RATES[1]:
        problem = f"claims a sample rate of {file.samplerate} Hz, expected {_RATES[0]} to {_RATES[1]}"
    elif declared and int(declared[2]) + 8 < int(declared[1]) < _STREAMED:
        problem = f"is truncated: its header promises {declared[1]} bytes of samples, {declared[2]} are there"
    if problem:
        file.close()
        raise ValueError(f"{path} {problem}")
    return file


def _pieces(file: _Reader, path: str | Path, start: int = 0, count: int | None = None) -> Iterator[Tensor]:
    """Consecutive ``[C, n]`` pieces at the file's own rate; the header's length is believed only once decoded."""
    promised = min(file.frames, _UNKNOWN) - start
    wanted = promised if count is None else min(count, promised)
    size, got = max(1, _PIECE // file.channels), 0
    try:
        if 0 < start < file.frames:
            file.seek(start)
        while got < wanted:
            values = file.read(min(size, wanted - got), dtype="float32", always_2d=True)
            if len(values) == 0:
                break
            if not np.isfinite(values).all():
                raise ValueError(f"{path} holds NaN or infinite samples")
            got += len(values)
            yield torch.from_numpy(values.T.copy())
    except soundfile.LibsndfileError:
        raise ValueError(f"{path} is damaged or truncated: decoding fails after {start + got} samples") from None
    if got == 0:
        raise ValueError(f"{path} holds no samples" + (f" from sample {start} on" if start else ""))
    slack = 2304 if file.format == "MP3" else 0  # MP3 headers count whole frames, encoder delay included
    if got + slack < wanted < _UNKNOWN // 2:
        raise ValueError(f"{path} is truncated: its header promises {start + wanted} samples, {start + got} are there")


def _mix(x: Tensor, channels: int, path: str | Path) -> Tensor:
    if channels in (0, len(x)):
        return x
    if channels == 1:
        return x.mean(dim=0, keepdim=True)
    if len(x) == 1:
        return x.repeat(channels, 1)
    raise ValueError(f"{path} has {len(x)} channels, which cannot be mixed to {channels} (only to 1, or from 1)")


def _rate(spec: TokenSpec) -> int:
    rate = spec.sample_rate
    if spec.modality != "audio" or rate is None or rate != int(rate):
        raise ValueError(f"expected an audio spec with a whole sample rate in Hz, got {spec.modality} at {rate} Hz")
    return int(rate)


# -- encoding ----------------------------------------------------------------------------------------------------------


def _checked(pieces: Iterable[Tensor], spec: TokenSpec) -> Iterator[Tensor]:
    wanted = f"a float signal [{spec.channels or 'C'}, N]"
    for piece in pieces:
        if not isinstance(piece, Tensor) or not piece.is_floating_point():
            raise TypeError(f"expected {wanted}, got {getattr(piece, 'dtype', type(piece).__name__)}")
        if piece.ndim != 2 or len(piece) == 0 or spec.channels not in (0, len(piece)):
            raise ValueError(f"expected {wanted}, got {list(piece.shape)}")
        if not torch.isfinite(piece).all():
            raise ValueError("signal must be finite, got NaN or infinity")
        if piece.shape[1]:
            yield piece.detach().cpu().float()


def _encode(file: soundfile.SoundFile, piece: Tensor) -> None:
    values = piece.clamp(-1, 1)
    if file.subtype == "PCM_16":  # our own scaling: libsndfile's (x 32767) does not invert its reading (/ 32768)
        values = (values * 32768).round().clamp(-32768, 32767).short()
    for part in values.split(2**14, dim=1):  # libsndfile overflows its stack on long writes of Ogg Vorbis
        file.write(part.T.contiguous().numpy())
