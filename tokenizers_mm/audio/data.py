"""Audio data for training: random segments in batches, resumable to the example.

Segments, tiling of short clips and random peak levels follow WavTokenizer (Ji et al., 2024). Where we differ: clips are
drawn in proportion to their duration, and what example number i holds is a function of (seed, i) alone, whatever the
epoch, rank or worker, so that an interrupted run goes on with exactly the examples it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenizers_mm.audio import files
from tokenizers_mm.audio.sources import AudioSource, Clips
from tokenizers_mm.checks import at_least
from tokenizers_mm.threads import one_thread
from tokenizers_mm.tokens import TokenSpec
from tokenizers_mm.training.loader import ResumableLoader, loader

__all__ = ["AudioDataModule", "AudioSource", "Batch", "FixedClips", "RandomSegments", "ResumableLoader", "collate"]

_SILENCE = 1e-4  # a peak below -80 dBFS is not worth raising


class Batch(TypedDict):
    """``signal`` float32 ``[B, C, N]``, zero-padded; ``lengths`` int64 ``[B]``, each item's valid samples."""

    signal: Tensor
    lengths: Tensor


class RandomSegments(Dataset):
    """Endless training examples: number ``i`` is a function of ``(seed, i)`` alone.

    Each pass goes through a permutation in which every clip appears once per segment that it could fill.

    Args:
        clips: What to cut from.
        samples: N, samples of each example; shorter clips are repeated.
        gain_db: Range of the peak level in dBFS, drawn per example; None keeps the recorded level.
        speeds: Playback speeds to draw from, in hundredths (1.1 also raises the pitch); none keeps the speed.
        seed: Of everything random here.
    """

    def __init__(
        self,
        clips: Clips,
        samples: int,
        *,
        gain_db: tuple[float, float] | None = None,
        speeds: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        self.clips, self.samples, self.gain_db, self.speeds, self.seed = clips, samples, gain_db, tuple(speeds), seed
        self.units = np.repeat(np.arange(len(clips)), [math.ceil(n / samples) for n in clips.lengths])
        self._order = (-1, self.units)

    def __len__(self) -> int:
        """Examples of one pass."""
        return len(self.units)

    def __getitem__(self, index: int) -> Tensor:
        with one_thread():  # as in a worker process, so that their number changes nothing
            return self._example(index)

    def _example(self, index: int) -> Tensor:
        turn, place = divmod(index, len(self.units))
        if self._order[0] != turn:
            self._order = (turn, np.random.default_rng((self.seed, 0, turn)).permutation(self.units))
        random = np.random.default_rng((self.seed, 1, index))
        speed = round(100 * random.choice(self.speeds)) if self.speeds else 100
        count = -(-self.samples * speed // 100)
        x, peak = self.clips.excerpt(int(self._order[1][place]), random.random(), count)
        if speed != 100:
            x = files.resample(_tile(x, count), speed, 100)
        x = _tile(x, self.samples)
        return x if self.gain_db is None else _level(x, peak, random.uniform(*self.gain_db))


class FixedClips(Dataset):
    """Validation examples: the first segment of each clip, or all of it.

    Args:
        clips: What to cut from.
        samples: N, samples of each example; shorter clips are repeated. None gives whole clips.
        gain_db: Peak level in dBFS; None keeps the recorded level.
    """

    def __init__(self, clips: Clips, samples: int | None, *, gain_db: float | None = None) -> None:
        self.clips, self.samples, self.gain_db = clips, samples, gain_db

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        x, peak = self.clips.excerpt(index, 0.0, self.samples)
        x = x if self.samples is None else _tile(x, self.samples)
        return x if self.gain_db is None else _level(x, peak, self.gain_db)


def _tile(x: Tensor, samples: int) -> Tensor:
    return x.repeat(1, -(-samples // x.shape[1]))[:, :samples]


def _level(x: Tensor, peak: float, decibels: float) -> Tensor:
    return x if peak < _SILENCE else x * (10 ** (decibels / 20) / peak)


def collate(signals: Sequence[Tensor]) -> Batch:
    """Signals ``[C, N_i]`` as one batch, zero-padded to the longest."""
    lengths = torch.tensor([x.shape[-1] for x in signals])
    signal = signals[0].new_zeros(len(signals), len(signals[0]), int(lengths.max()))
    for row, x in zip(signal, signals, strict=True):
        row[:, : x.shape[-1]] = x
    return {"signal": signal, "lengths": lengths}


class AudioDataModule(L.LightningDataModule):
    """Training segments and validation clips from audio files of any rate and format, as :class:`Batch`.

    Args:
        train: Source or sources of training clips.
        valid: Of validation clips; none means no validation.
        test: Of test clips, which come whole and at their recorded level.
        sample_rate: Rate of the batches in Hz.
        channels: C of the batches.
        segment_seconds: Length of a training segment (and of a validation clip, which is a file's first segment).
        batch_size: Items per batch and device.
        num_workers: Processes that prepare batches.
        gain_db: Range of the random peak level in training, in dBFS; None keeps levels.
        valid_gain_db: Peak level in validation, in dBFS; None keeps levels.
        whole_valid: Validate on whole clips, zero-padded, instead of first segments.
        speeds: Playback speeds to draw from in training, such as ``[0.9, 1.0, 1.1]``; none keeps the speed.
        cache: Decode everything once and keep it in memory as 16-bit integers: for sets of a few hours.
        examples_per_epoch: Examples per epoch over all devices; by default as many as segments fit into the clips.
        seed: Of the choice of segments, levels and speeds.

    Raises:
        ValueError: For numbers out of range.
    """

    def __init__(
        self,
        train: AudioSource | list[AudioSource],
        valid: AudioSource | list[AudioSource] | None = None,
        test: AudioSource | list[AudioSource] | None = None,
        *,
        sample_rate: int = 24000,
        channels: int = 1,
        segment_seconds: float = 3.0,
        batch_size: int = 16,
        num_workers: int = 0,
        gain_db: tuple[float, float] | None = (-6.0, -1.0),
        valid_gain_db: float | None = -3.0,
        whole_valid: bool = False,
        speeds: list[float] | None = None,
        cache: bool = False,
        examples_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        samples = round(segment_seconds * sample_rate)
        at_least(
            1,
            batch_size=batch_size,
            examples_per_epoch=examples_per_epoch,
            **{"segment_seconds * sample_rate": samples},
        )
        at_least(0, num_workers=num_workers, seed=seed)
        if any(not 0.25 <= speed <= 4 for speed in speeds or ()):
            raise ValueError(f"speeds must be 0.25 to 4, got {speeds}")
        if gain_db is not None and gain_db[0] > gain_db[1]:
            raise ValueError(f"gain_db must be a range (lowest, highest) in dBFS, got {gain_db}")
        self.sources = {"train": _listed(train), "valid": _listed(valid), "test": _listed(test)}
        self.spec = TokenSpec("audio", (1,), sample_rate=sample_rate, channels=channels)  # only rate and channels count
        self.samples, self.batch_size, self.num_workers = samples, batch_size, num_workers
        self.gain_db, self.valid_gain_db, self.whole_valid = gain_db, valid_gain_db, whole_valid
        self.speeds, self.cache, self.seed = speeds or [], cache, seed
        self.examples_per_epoch = examples_per_epoch
        self.clips: dict[str, Clips] = {}

    def prepare_data(self) -> None:
        """Download what is to be downloaded, once per machine."""
        for source in [source for sources in self.sources.values() for source in sources if source.download]:
            source.paths()

    def setup(self, stage: str | None = None) -> None:
        """Find and check the clips of the splits that this stage needs."""
        needed = {"fit": ("train", "valid"), "validate": ("valid",), "test": ("test",)}.get(stage or "", self.sources)
        for split in needed:
            if split not in self.clips and self.sources[split]:
                self.clips[split] = Clips(self.sources[split], self.spec, cache=self.cache and split != "test")

    def train_dataloader(self) -> ResumableLoader:
        """Random segments, going on from epoch to epoch without repeating an example number."""
        clips = self.clips["train"]
        data = RandomSegments(clips, self.samples, gain_db=self.gain_db, speeds=self.speeds, seed=self.seed)
        count = self.examples_per_epoch or len(data)
        return ResumableLoader(data, self.batch_size, count, self.num_workers, collate=collate)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The first segment of every validation clip (whole clips with ``whole_valid``), in a fixed order."""
        if "valid" not in self.clips:
            return []
        data = FixedClips(self.clips["valid"], None if self.whole_valid else self.samples, gain_db=self.valid_gain_db)
        return loader(data, self.num_workers, collate, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        """Whole test clips at their recorded level, in a fixed order."""
        if "test" not in self.clips:
            return []
        return loader(FixedClips(self.clips["test"], None), self.num_workers, collate, batch_size=self.batch_size)


def _listed(source: AudioSource | list[AudioSource] | None) -> list[AudioSource]:
    return [source] if isinstance(source, AudioSource) else list(source or [])
