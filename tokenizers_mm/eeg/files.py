"""EEG files <-> tensors in microvolts: EDF, BDF, BrainVision, FIF, EEGLAB SET through MNE-Python, and NumPy archives.

Recordings of hours stream: reading, filters and resampling work piece by piece and give what the whole at once would. EDF and BDF
are written by EDFlib, whose last record is filled up; that stretch is marked as MNE marks it, and left out again on reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tokenizers_mm.eeg.preprocessing import Preprocessing
from tokenizers_mm.eeg.recordings import READERS, Event, Recording, open_recording
from tokenizers_mm.labels import Labels
from tokenizers_mm.resampling import cut
from tokenizers_mm.tokens import TokenSpec

__all__ = [
    "EXTENSIONS",
    "EEGInfo",
    "Event",
    "Preprocessing",
    "Recording",
    "blocks",
    "info",
    "labels",
    "open_recording",
    "read",
    "reading",
    "write",
]

EXTENSIONS: tuple[str, ...] = tuple(READERS)
NONE = Preprocessing()


@dataclass(frozen=True)
class EEGInfo:
    """What an EEG file's header says.

    Args:
        sample_rate: In Hz.
        names: Its EEG channels as the file spells them.
        frames: Samples of each channel.
        seconds: Its duration.
        format: Such as ``"edf"``.
        events: What happened, in order.
    """

    sample_rate: float
    names: tuple[str, ...]
    frames: int
    seconds: float
    format: str
    events: tuple[Event, ...]


def info(path: str | Path) -> EEGInfo:
    """The header and events of an EEG file.

    Raises:
        FileNotFoundError, IsADirectoryError, ValueError: As :func:`tokenizers_mm.eeg.recordings.open_recording`.
    """
    r = open_recording(path)
    return EEGInfo(r.sample_rate, r.names, r.samples, r.seconds, r.format, r.events)


def read(
    path: str | Path,
    spec: TokenSpec,
    *,
    offset: float = 0.0,
    seconds: float | None = None,
    preprocessing: Preprocessing | Mapping[str, object] = NONE,
) -> Tensor:
    """Samples of an EEG file, at the rate and with the channels that a codec takes.

    Where a codec takes 16 or 19 channels and the file has another number, they are the montages ``tcp16`` and ``10-20``.

    Args:
        path: The file; its extension decides the format.
        spec: Gives ``sample_rate`` (None keeps the file's) and ``channels`` (0 takes any number).
        offset: Where to start, in seconds. Filters and resampling see nothing before it.
        seconds: How much to read; by default everything from ``offset`` on.
        preprocessing: Reference, montage and filters, or a mapping of these options.

    Returns:
        float32 ``[C, N]`` in microvolts.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If it is damaged, holds no sample there or NaN, or lacks an electrode.
    """
    if offset < 0 or (seconds is not None and seconds <= 0):
        raise ValueError(f"offset must be at least 0 and seconds positive, got {offset} and {seconds}")
    recording, steps = open_recording(path), _parsed(preprocessing)
    start = round(offset * recording.sample_rate)
    count = recording.samples - start
    if seconds is not None:
        count = min(count, max(1, round(seconds * recording.sample_rate)))
    if count < 1:
        raise ValueError(f"{path} holds no samples from {offset:g} s on: it lasts {recording.seconds:g} s")
    _check(spec)
    pieces = steps.pieces(recording, spec.sample_rate, channels=spec.channels, start=start, stop=start + count)
    return torch.cat(list(pieces), dim=1)


def blocks(
    path: str | Path,
    spec: TokenSpec,
    seconds: float,
    *,
    preprocessing: Preprocessing | Mapping[str, object] = NONE,
) -> Iterator[Tensor]:
    """The samples of :func:`read` in consecutive pieces, without ever holding more than a few of them.

    Args:
        path: The file.
        spec: Gives ``sample_rate`` and ``channels``.
        seconds: Length of each piece; only the last may be shorter.
        preprocessing: As for :func:`read`.

    Returns:
        Iterator of float32 ``[C, n]`` in microvolts.

    Raises:
        FileNotFoundError, IsADirectoryError, ValueError: As :func:`read`. Damage further inside the file shows when the
            iterator reaches it.
    """
    _check(spec)
    recording = open_recording(path)
    size = round(seconds * (spec.sample_rate or recording.sample_rate))
    if size < 1:
        raise ValueError(f"seconds must give at least one sample, got {seconds}")
    return cut(_parsed(preprocessing).pieces(recording, spec.sample_rate, channels=spec.channels), size)


def labels(path: str | Path, spec: TokenSpec, *, preprocessing: Preprocessing | Mapping[str, object] = NONE) -> Labels:
    """Names of the channels that :func:`read` gives, in its order; arguments and errors as there."""
    return Labels(_parsed(preprocessing).channels(open_recording(path), spec.channels))


def write(
    path: str | Path,
    signal: Tensor | Iterable[Tensor],
    spec: TokenSpec,
    *,
    names: tuple[str, ...] | None = None,
    events: tuple[Event, ...] = (),
    labels: Labels | None = None,
) -> None:
    """Write microvolts to an EEG file whose extension gives the format.

    EDF keeps 16 bits and BDF 24 of each channel's own range, ``.npz`` float32. Missing folders are made; the file appears only
    when it is complete.

    Args:
        path: Where to; ``.edf``, ``.bdf`` or ``.npz``.
        signal: Float ``[C, N]``, or consecutive pieces ``[C, n]`` of it.
        spec: Gives ``sample_rate``, and ``channels`` (0 takes any number).
        names: Of the channels; by default those of ``labels``, of the named montage of that many, or ``EEG 1``, ``EEG 2``, ...
        events: To be stored with it.
        labels: What tokens carry of the original.

    Raises:
        TypeError: If the signal is not float.
        ValueError: If it is empty, not finite or of other shape, or the format is unknown or cannot hold it.
        IsADirectoryError: If ``path`` is a folder.
    """
    from tokenizers_mm.eeg import writing

    _check(spec)
    names = names or (None if labels is None else labels.names)
    writing.write(Path(path), [signal] if isinstance(signal, Tensor) else signal, spec, names, events)


def reading(options: Mapping[str, object]) -> dict[str, Preprocessing]:
    """Arguments of :func:`read` and :func:`blocks` from names and values: what ``mmtok ... --read NAME=VALUE`` takes.

    Raises:
        ValueError: For an unknown option or a value out of range.
    """
    return {"preprocessing": Preprocessing.parse(options)}


def _parsed(preprocessing: Preprocessing | Mapping[str, object]) -> Preprocessing:
    return preprocessing if isinstance(preprocessing, Preprocessing) else Preprocessing.parse(preprocessing)


def _check(spec: TokenSpec) -> None:
    if spec.modality != "eeg":
        raise ValueError(f"expected an EEG spec, got {spec.modality}")
