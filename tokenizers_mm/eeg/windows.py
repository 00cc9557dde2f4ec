"""Windows of recordings, preprocessed: kept in memory, or read from disk with all that the filters see around them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tokenizers_mm.eeg.preprocessing import Preprocessing, resampled_length, whole_ratio
from tokenizers_mm.eeg.recordings import Recording, open_recording
from tokenizers_mm.eeg.sources import Clip, EEGSource


@dataclass(frozen=True)
class Window:
    """Where an example lies.

    Args:
        recording: Number of the recording.
        place: Its start, in samples at the wanted rate, in a tiling of the clip.
        first: Earliest start of a random window in its stead; windows with a label do not move.
        last: Latest start.
        label: Its class, None where there is none.
        channel: The only channel to take, None for all.
    """

    recording: int
    place: int
    first: int
    last: int
    label: int | None = None
    channel: int | None = None


class Windows:
    """All windows of one length that some sources give, of the recordings that can be read.

    Args:
        sources: Where they come from; either all give labels or none.
        seconds: Length of a window.
        sample_rate: Wanted rate in Hz.
        preprocessing: Reference, montage and filters.
        split_channels: Whether each channel is an example of its own.
        cache: Keep all recordings in memory, preprocessed.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: If no file can be read, none is as long as a window, or recordings have different numbers of channels.
    """

    def __init__(
        self,
        sources: Sequence[EEGSource],
        seconds: float,
        sample_rate: float,
        preprocessing: Preprocessing,
        *,
        split_channels: bool = False,
        cache: bool = False,
    ) -> None:
        self.samples, self.rate, self.preprocessing = round(seconds * sample_rate), sample_rate, preprocessing
        clips = [clip for source in sources for clip in source.clips(seconds)]
        if len({clip.label is None for clip in clips}) > 1:
            raise ValueError("sources must all give labels or none: some name classes, others do not")
        self.labelled = clips[0].label is not None
        self._open(list(dict.fromkeys(clip.path for clip in clips)), cache)
        place = {recording.path: index for index, recording in enumerate(self.recordings)}
        windows = [w for clip in clips if clip.path in place for w in self._tiled(clip, place[clip.path])]
        if not windows:
            raise ValueError(f"no clip of {len(clips)} is as long as a window of {seconds:g} s")
        self.windows = [part for window in windows for part in self._split(window)] if split_channels else windows
        counts = {len(names) for names in self.names}
        if len(counts) > 1 and not split_channels:
            raise ValueError(
                f"recordings have {sorted(counts)} channels: name a montage, or take each channel for itself"
            )
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.windows)

    def excerpt(self, index: int, place: float | None = None) -> tuple[Tensor, int | None]:
        """The samples of a window, and its label. One of a recording that turns out to be damaged is replaced by the next
        window of another, with a warning the first time.

        Args:
            index: Which window.
            place: Where between its earliest (0) and latest (1, exclusive) start; None for its own place.

        Returns:
            float32 ``[C, N]`` in microvolts (``[1, N]`` where channels are split), and the label.
        """
        for step in range(len(self)):
            window = self.windows[(index + step) % len(self)]
            if window.recording in self._broken:
                continue
            span = window.last - window.first + 1
            start = window.place if place is None else window.first + int(place * span)
            try:
                signal = self._samples(window.recording, start)
                return signal if window.channel is None else signal[window.channel, None], window.label
            except (ValueError, OSError) as error:
                self._broken.add(window.recording)
                warnings.warn(f"an EEG file is skipped: {error}", stacklevel=2)
        raise ValueError(f"none of {len(self.recordings)} EEG files can be read")

    def _open(self, paths: Sequence[Path], cache: bool) -> None:
        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(self._try, paths, [cache] * len(paths)))
        broken = [found for found in opened if isinstance(found, Exception)]
        good = [found for found in opened if not isinstance(found, Exception)]
        if not good:
            raise ValueError(f"none of {len(paths)} EEG files can be read: {_some(broken)}")
        if broken:
            rank_zero_warn(
                f"{len(broken)} of {len(paths)} EEG files are skipped: {_some(broken)}", category=UserWarning
            )
        self.recordings = [recording for recording, _ in good]
        self.cached = [signal for _, signal in good]
        self.names = [self.preprocessing.channels(recording) for recording in self.recordings]

    def _try(self, path: Path, cache: bool) -> tuple[Recording, Tensor | None] | Exception:
        """A recording, whole if it is to be kept; else its first second is read, which finds what does not fit at little cost."""
        try:
            recording = open_recording(path)
            stop = None if cache else min(recording.samples, math.ceil(recording.sample_rate))
            pieces = list(self.preprocessing.pieces(recording, self.rate, stop=stop))
            return recording, torch.cat(pieces, dim=1) if cache else None
        except (ValueError, OSError) as error:
            return error

    def _tiled(self, clip: Clip, recording: int) -> list[Window]:
        """Windows that fill a clip one after the other."""
        found = self.recordings[recording]
        length = resampled_length(found.samples, found.sample_rate, self.rate)
        start = int(clip.start * self.rate + 1e-6)
        stop = length if clip.stop is None else min(length, start + round((clip.stop - clip.start) * self.rate))
        places = range(start, stop - self.samples + 1, self.samples)
        if clip.label is not None:
            return [Window(recording, place, place, place, clip.label) for place in places]
        return [Window(recording, place, start, stop - self.samples) for place in places]

    def _split(self, window: Window) -> list[Window]:
        return [replace(window, channel=channel) for channel in range(len(self.names[window.recording]))]

    def _samples(self, recording: int, start: int) -> Tensor:
        cached = self.cached[recording]
        if cached is not None:
            return cached[:, start : start + self.samples].clone()
        source = self.recordings[recording]
        old, new = whole_ratio(source.sample_rate, self.rate)
        margin = -(-self.preprocessing.context(source, self.rate) // old) * old
        # whole periods of the resampling, so that its filters have the phase that they have in the whole recording
        first = max(0, start // new * old - margin)
        stop = min(source.samples, -(-(start + self.samples) * old // new) + margin)
        pieces = self.preprocessing.pieces(source, self.rate, start=first, stop=stop)
        skip = start - first // old * new
        return torch.cat(list(pieces), dim=1)[:, skip : skip + self.samples].clone()


def _some(errors: Sequence[Exception], most: int = 5) -> str:
    more = f"; and {len(errors) - most} more" if len(errors) > most else ""
    return "; ".join(str(error) for error in errors[:most]) + more
