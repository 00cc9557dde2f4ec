"""Where training clips come from: folders, manifests and torchaudio datasets, checked and read in excerpts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tokenizers_mm.audio import files
from tokenizers_mm.manifest import manifest_paths
from tokenizers_mm.tokens import TokenSpec

Kind = Literal["folder", "manifest", "LibriTTS", "LibriSpeech", "SpeechCommands"]

_LEVEL_WINDOW = 20.0  # seconds around a segment of a long file in which its peak is looked for


@dataclass(frozen=True)
class AudioSource:
    """Where clips come from.

    Args:
        path: A folder (searched with its subfolders), a manifest CSV (column ``path``, relative to the CSV), or the
            root folder of a torchaudio dataset.
        split: Manifest: keep the rows whose column ``split`` says this. torchaudio dataset: its part
            (``train-clean-100``; ``training`` for SpeechCommands). By default everything.
        kind: What ``path`` is; by default a manifest where it ends in ``.csv``, else a folder.
        download: Fetch the torchaudio dataset if it is not there yet.
    """

    path: str
    split: str | None = None
    kind: Kind | None = None
    download: bool = False

    def paths(self) -> list[Path]:
        """The source's files, in a fixed order; whether they can be read is not checked.

        Raises:
            FileNotFoundError: If the folder or the manifest does not exist.
            ValueError: If the manifest lacks a column, or nothing matches.
        """
        kind = self.kind or ("manifest" if self.path.lower().endswith(".csv") else "folder")
        if kind == "folder":
            if self.split is not None:
                raise ValueError(f"split is for manifests and torchaudio datasets, {self.path} is a folder")
            found = _walk(Path(self.path))
        else:
            found = self._manifest() if kind == "manifest" else self._torchaudio(kind)
        if not found:
            raise ValueError(f"no audio file in {kind} {self.path}" + (f", split {self.split!r}" if self.split else ""))
        return found

    def _manifest(self) -> list[Path]:
        return manifest_paths(Path(self.path), self.split)

    def _torchaudio(self, kind: str) -> list[Path]:
        from torchaudio import datasets

        root, part = Path(self.path), {} if self.split is None else {"url": self.split}
        if self.download:
            root.mkdir(parents=True, exist_ok=True)
        try:
            if kind == "SpeechCommands":
                commands = datasets.SPEECHCOMMANDS(root, subset=self.split, download=self.download)
                return [root / "SpeechCommands" / commands.get_metadata(i)[0] for i in range(len(commands))]
            {"LibriTTS": datasets.LIBRITTS, "LibriSpeech": datasets.LIBRISPEECH}[kind](
                root, **part, download=self.download
            )
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(f"no {kind} under {root} (download: true fetches it): {error}") from None
        return _walk(root / kind / (self.split or "train-clean-100"))


def _walk(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in files.EXTENSIONS and not p.name.startswith("."))


@dataclass(frozen=True)
class _Clip:
    """Samples at the wanted rate; when cached, the peak and int16 ``[C, N]`` that stand for -peak to peak."""

    length: int
    peak: float = 0.0
    values: Tensor | None = None


class Clips:
    """The readable clips of some sources.

    Args:
        sources: Where they come from.
        spec: Rate and channels to read them at.
        cache: Keep every clip in memory, decoded and resampled, as 16-bit integers.

    Raises:
        FileNotFoundError, ValueError: If a source does not exist or no file can be read.
    """

    def __init__(self, sources: Sequence[AudioSource], spec: TokenSpec, *, cache: bool = False) -> None:
        self.spec, self.rate = spec, int(spec.sample_rate or 0)
        paths = [path for source in sources for path in source.paths()]
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(self._open, paths, [cache] * len(paths)))
        broken = [found for found in opened if isinstance(found, Exception)]
        good = [(path, found) for path, found in zip(paths, opened, strict=True) if isinstance(found, _Clip)]
        if not good:
            raise ValueError(f"none of {len(paths)} audio files can be read: {_some(broken)}")
        if broken:
            rank_zero_warn(
                f"{len(broken)} of {len(paths)} audio files are skipped: {_some(broken)}", category=UserWarning
            )
        self.paths = [path for path, _ in good]
        self.lengths = [clip.length for _, clip in good]
        self.peaks = [clip.peak for _, clip in good]
        self.starts = np.cumsum([0, *self.lengths])
        # one tensor, not a list: workers of any start method share it through a single handle
        self.cached = torch.cat([clip.values for _, clip in good if clip.values is not None], dim=1) if cache else None
        self._broken: set[Path] = set()

    def __len__(self) -> int:
        return len(self.paths)

    def excerpt(self, index: int, place: float = 0.0, count: int | None = None) -> tuple[Tensor, float]:
        """Some consecutive samples of a clip and the clip's peak.

        A clip that turns out to be damaged is replaced by the next, with a warning the first time.

        Args:
            index: Which clip.
            place: Where between its earliest (0) and latest (1, exclusive) possible start.
            count: Samples wanted, fewer come from a shorter clip; by default all.

        Returns:
            float32 ``[C, n]``, and the largest magnitude in the clip (for a long file: in the 20 s around).
        """
        for step in range(len(self)):
            item = (index + step) % len(self)
            if self.paths[item] in self._broken:
                continue
            length = self.lengths[item]
            size = min(length, count or length)
            start = int(place * (length - size + 1))
            try:
                return self._cached(item, start, size) if self.cached is not None else self._read(item, start, size)
            except (ValueError, OSError) as error:
                self._broken.add(self.paths[item])
                warnings.warn(f"an audio file is skipped: {error}", stacklevel=2)
        raise ValueError(f"none of {len(self)} audio files can be read")

    def _cached(self, item: int, start: int, size: int) -> tuple[Tensor, float]:
        assert self.cached is not None
        begin, peak = int(self.starts[item]) + start, self.peaks[item]
        return self.cached[:, begin : begin + size].float() * (peak / 32767), peak

    def _read(self, item: int, start: int, size: int) -> tuple[Tensor, float]:
        length, margin = self.lengths[item], max(0, round(_LEVEL_WINDOW * self.rate) - size)
        low = min(max(0, start - margin // 2), max(0, length - size - margin))
        # a millisecond more on each side: rounding to the file's own samples must not leave the end one short
        offset, seconds = max(0.0, low / self.rate - 0.001), (size + margin) / self.rate + 0.002
        x = files.read(self.paths[item], self.spec, offset=offset, seconds=seconds)
        return x[:, start - low : start - low + size], float(x.abs().max())

    def _open(self, path: Path, whole: bool) -> _Clip | Exception:
        """A file decoded whole, or only its header and its very end, which finds truncated files at little cost."""
        try:
            if whole:
                x = files.read(path, self.spec)
                peak = max(float(x.abs().max()), 1e-9)
                return _Clip(x.shape[1], peak, (x * (32767 / peak)).round().short())
            info = files.info(path)
            files.read(path, self.spec, offset=max(0.0, info.seconds - 0.25))
            return _Clip(math.ceil(info.frames * self.rate / info.sample_rate))
        except (ValueError, OSError) as error:
            return error


def _some(errors: Sequence[Exception], most: int = 5) -> str:
    more = f"; and {len(errors) - most} more" if len(errors) > most else ""
    return "; ".join(str(error) for error in errors[:most]) + more
