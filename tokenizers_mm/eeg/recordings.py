"""Recordings on disk: names, rate, events, and samples in microvolts from any place; what MNE reads, and NumPy archives.

EDF and BDF are checked against their own header first: MNE takes a file that was cut short for a shorter one.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.eeg.electrodes import is_eeg

READERS = {".edf": "edf", ".bdf": "bdf", ".vhdr": "brainvision", ".fif": "fif", ".set": "eeglab", ".npz": "npz"}
"""Extension to format; BrainVision files are named by their header."""
PADDING = "BAD_ACQ_SKIP"
"""MNE's description of the stretch at the end of an EDF file that only fills its last record."""

_RATES = (1.0, 100_000.0)  # Hz; a header outside of this is damaged, and resampling from it would explode
_MOST = 2**33  # bytes that an archive may unpack to


@dataclass(frozen=True)
class Event:
    """Something that happened during a recording.

    Args:
        onset: Seconds from its start.
        duration: Seconds, 0 for an instant.
        code: What it was.
    """

    onset: float
    duration: float
    code: str


@dataclass(frozen=True)
class Recording:
    """An opened EEG file.

    Args:
        path: The file.
        format: What it is, e.g. ``"edf"``.
        names: Its EEG channels as the file spells them.
        sample_rate: Hz.
        samples: N of each channel.
        events: In the order of their onsets.
        read: Samples from one place to another, microvolts float32 ``[C, stop - start]``.
    """

    path: Path
    format: str
    names: tuple[str, ...]
    sample_rate: float
    samples: int
    events: tuple[Event, ...]
    read: Callable[[int, int], Tensor]

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    def blocks(self, start: int = 0, stop: int | None = None, values: int = 2**20) -> Iterator[Tensor]:
        """Consecutive pieces ``[C, n]`` of about ``values`` samples over all channels, checked to be finite."""
        stop, size = self.samples if stop is None else stop, max(1, values // len(self.names))
        for first in range(start, stop, size):
            piece = self.read(first, min(stop, first + size))
            if not torch.isfinite(piece).all():
                channel, place = (int(i) for i in (~torch.isfinite(piece)).nonzero()[0])
                when = (first + place) / self.sample_rate
                raise ValueError(f"{self.path} holds NaN or infinity in channel {self.names[channel]} at {when:g} s")
            yield piece


def open_recording(path: str | Path) -> Recording:
    """The header and events of an EEG file; samples are read when they are asked for.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If it is empty, cut short, of a format that is not read, or holds no EEG.
        ImportError: If MNE-Python is needed and not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected an EEG file, {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(f"no EEG file at {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file")
    kind = READERS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} is no EEG file that is read here: expected one of {', '.join(READERS)}")
    recording = _archive(path) if kind == "npz" else _through_mne(path, kind)
    problem = None
    if not recording.names:
        problem = "holds no EEG channel"
    elif recording.samples < 1:
        problem = "holds no samples"
    elif not _RATES[0] <= recording.sample_rate <= _RATES[1]:
        rate = recording.sample_rate
        problem = f"claims a sample rate of {rate:g} Hz, expected {_RATES[0]:g} to {_RATES[1]:g}"
    if problem:
        raise ValueError(f"{path} {problem}")
    return recording


def edf_events(path: Path) -> tuple[Event, ...]:
    """The events of an EDF+ file that holds nothing else, such as a hypnogram.

    Raises:
        ValueError: If it cannot be read.
    """
    import mne

    try:
        marks = mne.read_annotations(path)
    except Exception as error:
        raise ValueError(f"{path} holds no annotations that MNE can read: {error}") from None
    return tuple(Event(float(a["onset"]), float(a["duration"]), str(a["description"])) for a in marks)


# -- what MNE reads ----------------------------------------------------------------------------------------------------


def _through_mne(path: Path, kind: str) -> Recording:
    exclude: list[str] = []  # other signals may have other rates, and MNE would bring all to the highest
    if kind in ("edf", "bdf"):
        labels = _check_records(path, 2 if kind == "edf" else 3)
        exclude = [name for name in labels if not is_eeg(name) and "Annotations" not in name]
    raw = _raw(path, kind, exclude)
    kinds = raw.get_channel_types()
    eeg = [name for name, what in zip(raw.ch_names, kinds, strict=True) if what == "eeg" and is_eeg(name)]
    events = [
        Event(max(0.0, float(a["onset"]) - raw.first_time), float(a["duration"]), str(a["description"]))
        for a in raw.annotations
    ]
    samples, padding = raw.n_times, events[-1] if events else None
    if padding and padding.code == PADDING and padding.onset + padding.duration >= raw.times[-1]:
        samples, events = round(padding.onset * raw.info["sfreq"]), events[:-1]
    picks = [raw.ch_names.index(name) for name in eeg]
    scale = torch.tensor([_scale(raw, name, kind) for name in eeg], dtype=torch.float64)[:, None]

    def read(start: int, stop: int) -> Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = raw.get_data(picks, start, stop, verbose="error")
        except Exception as error:
            raise ValueError(f"{path} is damaged: samples {start} to {stop} cannot be read: {error}") from None
        return (torch.from_numpy(values) * scale).float()

    return Recording(path, kind, tuple(eeg), float(raw.info["sfreq"]), samples, tuple(events), read)


def _raw(path: Path, kind: str, exclude: list[str]) -> Any:
    try:
        import mne
    except ImportError:
        raise ImportError(f"{path} needs MNE-Python: pip install 'tokenizers_mm[eeg]'") from None
    options: dict[str, Any] = {"exclude": exclude} if kind in ("edf", "bdf") else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names off MNE's conventions, missing dates, mixed filters
            return getattr(mne.io, f"read_raw_{kind}")(path, **options, verbose="error")
    except Exception as error:  # MNE lets through whatever its parsers meet
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not {_article(kind)} file that MNE can read, or is damaged: {reason}") from None


def _article(kind: str) -> str:
    return f"{'an' if kind in ('edf', 'eeglab') else 'a'} {kind.upper() if len(kind) == 3 else kind}"


def _scale(raw: Any, name: str, kind: str) -> float:
    """What turns MNE's values into microvolts: it gives volts, and leaves units that it does not know as they are."""
    if kind not in ("edf", "bdf"):
        return 1e6
    unit = (raw._orig_units or {}).get(name, "").lower()
    return 1e6 if unit in ("µv", "uv", "μv", "mv", "v") else 1e-3 if unit == "nv" else 1.0


def _check_records(path: Path, width: int) -> list[str]:
    """The labels of an EDF (or BDF) file's signals, its size compared with what its header promises."""
    size = path.stat().st_size
    with path.open("rb") as file:
        fixed = file.read(256)
        try:
            header, records = int(fixed[184:192]), int(fixed[236:244])
            duration, signals = float(fixed[244:252]), int(fixed[252:256])
            if not (0 < signals <= 4096 and header == 256 * (signals + 1) and math.isfinite(duration)):
                raise ValueError
            per_signal = file.read(header - 256)
            start = 216 * signals
            counts = [int(per_signal[start + 8 * i : start + 8 * i + 8]) for i in range(signals)]
            if min(counts) < 1:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path} is not an {'EDF' if width == 2 else 'BDF'} file, or its header is damaged"
            ) from None
    there = (size - header) // (width * sum(counts))
    if records > 0 and there < records:  # -1: the recorder was not stopped, the size decides
        raise ValueError(f"{path} is truncated: its header promises {records} records, {there} are there")
    if there < 1:
        raise ValueError(f"{path} holds no samples")
    return [per_signal[16 * i : 16 * i + 16].decode("latin-1").strip() for i in range(signals)]


# -- NumPy archives ----------------------------------------------------------------------------------------------------


def _archive(path: Path) -> Recording:
    """``signal_uv`` ``[C, N]`` in microvolts, ``channels``, ``sfreq``; of events ``onset``, ``duration``, ``code``."""
    try:
        with zipfile.ZipFile(path) as file:
            if sum(member.file_size for member in file.infolist()) > _MOST:
                raise ValueError(f"it unpacks to more than {_MOST >> 30} GiB")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is not a whole NumPy archive: {error}") from None
    if missing := {"signal_uv", "channels", "sfreq"} - arrays.keys():
        raise ValueError(f"{path} lacks the arrays {sorted(missing)}: expected signal_uv [C, N], channels and sfreq")
    signal, names = arrays["signal_uv"], [str(name) for name in arrays["channels"].reshape(-1)]
    if signal.ndim != 2 or signal.dtype.kind not in "iuf" or len(signal) != len(names):
        shape = f"{signal.dtype} {list(signal.shape)} for {len(names)} channel names"
        raise ValueError(f"{path}: signal_uv must be numbers [C, N], one row per channel, got {shape}")
    keep = [index for index, name in enumerate(names) if is_eeg(name)]

    def read(start: int, stop: int) -> Tensor:
        return torch.from_numpy(signal[keep, start:stop].astype(np.float32))

    rate = _number(arrays["sfreq"], path)
    return Recording(path, "npz", tuple(names[i] for i in keep), rate, signal.shape[1], _events(arrays, path), read)


def _number(value: np.ndarray, path: Path) -> float:
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ValueError(f"{path}: sfreq must be one number of Hz, got {value.dtype} {list(value.shape)}")
    return float(value.reshape(-1)[0])


def _events(arrays: dict[str, np.ndarray], path: Path) -> tuple[Event, ...]:
    if "onset" not in arrays:
        return ()
    columns = [arrays[name].reshape(-1) for name in ("onset", "duration", "code") if name in arrays]
    if len(columns) < 3 or len({len(column) for column in columns}) > 1:
        raise ValueError(f"{path}: onset, duration and code must be of one length")
    onsets, durations, codes = columns
    events = (Event(float(o), float(d), str(c)) for o, d, c in zip(onsets, durations, codes, strict=True))
    return tuple(sorted(events, key=lambda event: event.onset))
