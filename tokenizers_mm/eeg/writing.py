"""EEG to files: EDF+ and BDF+ by EDFlib (pyEDFlib), or NumPy archives; signals of any length by way of a temporary file."""

from __future__ import annotations

import math
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.eeg.electrodes import MONTAGES
from tokenizers_mm.eeg.recordings import PADDING, Event
from tokenizers_mm.tokens import TokenSpec

FORMATS = (".edf", ".bdf", ".npz")
_EPOCH = datetime(2000, 1, 1)  # a fixed one, so that equal signals make equal files
_RANGE = 9_999_999.0  # microvolts that eight characters of an EDF header can say


def write(
    path: Path, pieces: Iterable[Tensor], spec: TokenSpec, names: tuple[str, ...] | None, events: tuple[Event, ...]
) -> None:
    """See :func:`tokenizers_mm.eeg.files.write`."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"cannot write {path}: the extension must be one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if spec.sample_rate is None:
        raise ValueError(f"cannot write {path}: the spec gives no sample rate")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{suffix}")
    try:
        with tempfile.TemporaryFile() as staging:
            signal = _staged(_checked(pieces, spec), staging)
            if signal is None:
                raise ValueError(f"cannot write {path}: the signal holds no samples")
            labels = _labels(names, len(signal[0]))
            if suffix == ".npz":
                _archive(partial, signal, spec.sample_rate, labels, events)
            else:
                _edf(partial, path, signal, spec.sample_rate, labels, events)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _checked(pieces: Iterable[Tensor], spec: TokenSpec) -> Iterator[np.ndarray]:
    wanted, channels = f"a float signal [{spec.channels or 'C'}, N]", spec.channels
    for piece in pieces:
        if not isinstance(piece, Tensor) or not piece.is_floating_point():
            raise TypeError(f"expected {wanted}, got {getattr(piece, 'dtype', type(piece).__name__)}")
        if piece.ndim != 2 or len(piece) == 0 or channels not in (0, len(piece)):
            raise ValueError(f"expected {wanted}, got {list(piece.shape)}" + (f" after {channels}" if channels else ""))
        if not torch.isfinite(piece).all():
            raise ValueError("signal must be finite, got NaN or infinity")
        channels = len(piece)
        if piece.shape[1]:
            yield piece.detach().cpu().float().numpy()


def _staged(pieces: Iterator[np.ndarray], file: BinaryIO) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Lowest and highest value of each channel, and all samples ``[N, C]`` on disk."""
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    for piece in pieces:
        low = piece.min(axis=1) if low is None else np.minimum(low, piece.min(axis=1))
        high = piece.max(axis=1) if high is None else np.maximum(high, piece.max(axis=1))
        file.write(np.ascontiguousarray(piece.T).tobytes())
    if low is None or high is None:
        return None
    file.flush()
    samples = os.fstat(file.fileno()).st_size // (4 * len(low))
    return low, high, np.memmap(file, dtype=np.float32, mode="r", shape=(samples, len(low)))


def _labels(names: tuple[str, ...] | None, channels: int) -> tuple[str, ...]:
    if names is None:
        named = next((known for known in MONTAGES.values() if len(known) == channels), None)
        return named or tuple(f"EEG {i + 1}" for i in range(channels))
    if len(names) != channels:
        raise ValueError(f"names must be {channels}, one per channel, got {len(names)}")
    return names


def _archive(
    path: Path,
    signal: tuple[np.ndarray, np.ndarray, np.ndarray],
    rate: float,
    names: tuple[str, ...],
    events: tuple[Event, ...],
) -> None:
    np.savez_compressed(
        path,
        signal_uv=signal[2].T,
        channels=np.array(names),
        sfreq=np.float64(rate),
        onset=np.array([event.onset for event in events], dtype=np.float64),
        duration=np.array([event.duration for event in events], dtype=np.float64),
        code=np.array([event.code for event in events], dtype=np.str_),
    )


def _edf(
    partial: Path,
    path: Path,
    signal: tuple[np.ndarray, np.ndarray, np.ndarray],
    rate: float,
    names: tuple[str, ...],
    events: tuple[Event, ...],
) -> None:
    try:
        import pyedflib
    except ImportError:
        raise ImportError(f"writing {path} needs pyEDFlib: pip install 'tokenizers_mm[eeg]'") from None
    low, high, samples = signal
    if np.abs([low, high]).max() > _RANGE:
        raise ValueError(
            f"cannot write {path}: EDF holds up to {_RANGE:g} microvolts, got {np.abs([low, high]).max():g}"
        )
    bits = 15 if path.suffix.lower() == ".edf" else 23
    kind = pyedflib.FILETYPE_EDFPLUS if bits == 15 else pyedflib.FILETYPE_BDFPLUS
    file = pyedflib.EdfWriter(str(partial), len(names), file_type=kind)
    try:
        file.setSignalHeaders([_header(*channel, bits, rate) for channel in zip(names, low, high, strict=True)])
        file.setStartdatetime(_EPOCH)
        record = round(file.record_duration * rate)
        if abs(record / file.record_duration - rate) > 1e-6 * rate:
            raise ValueError(f"EDF cannot hold a rate of {rate!r} Hz")
        file.set_number_of_annotation_signals(min(64, 1 + len(events) * record // len(samples)))
        for start in range(0, len(samples), record):
            block = np.asarray(samples[start : start + record], dtype=np.float64)
            fill = np.repeat(block[-1:], record - len(block), axis=0)
            file.blockWritePhysicalSamples(np.concatenate([block, fill]).T.reshape(-1).copy())
        for event in events:
            file.writeAnnotation(event.onset, event.duration, event.code)
        if missing := -len(samples) % record:
            file.writeAnnotation(len(samples) / rate, missing / rate, PADDING)
    except (OSError, ValueError, AssertionError) as error:
        raise ValueError(f"cannot write {path}: {error}") from None
    finally:
        file.close()


def _header(name: str, low: float, high: float, bits: int, rate: float) -> dict[str, str | int | float | None]:
    """A channel's own range, rounded outwards to what eight characters hold."""
    limit = max(abs(float(low)), abs(float(high)), 1.0)
    digits = 6 - len(str(int(limit)))
    limit = round(math.ceil(limit * 10**digits) / 10**digits, max(0, digits))
    return {
        "label": name[:16],
        "dimension": "uV",
        "sample_frequency": rate,
        "physical_min": -limit,
        "physical_max": limit,
        "digital_min": 1 - 2**bits,  # so that zero stays zero
        "digital_max": 2**bits - 1,
        "transducer": "",
        "prefilter": "",
    }
