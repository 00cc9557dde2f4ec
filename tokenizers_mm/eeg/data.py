"""EEG for training: windows of recordings in batches, resumable to the example, with labels where events or corpora give them.

What example number i holds is a function of (seed, i) alone, whatever the epoch, rank or worker, so that an interrupted run goes
on with exactly the examples it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenizers_mm.checks import at_least
from tokenizers_mm.eeg.preprocessing import Preprocessing
from tokenizers_mm.eeg.sources import EEGSource
from tokenizers_mm.eeg.windows import Windows
from tokenizers_mm.threads import one_thread
from tokenizers_mm.training.loader import ResumableLoader, loader

__all__ = ["Batch", "EEGDataModule", "EEGSource", "FixedWindows", "RandomWindows", "collate"]

Example = tuple[Tensor, int | None]


class Batch(TypedDict):
    """``signal`` float32 ``[B, C, N]`` in microvolts; ``lengths`` ``[B]``, all N; ``label`` int64 ``[B]`` if there is any."""

    signal: Tensor
    lengths: Tensor
    label: NotRequired[Tensor]


class RandomWindows(Dataset):
    """Endless training examples: number ``i`` is a function of ``(seed, i)`` alone.

    Each pass goes through a permutation of the windows; those without a label then move to a random place in their recording.

    Args:
        windows: What to take from.
        seed: Of everything random here.
    """

    def __init__(self, windows: Windows, seed: int = 0) -> None:
        self.windows, self.seed = windows, seed
        self._order = (-1, np.arange(len(windows)))

    def __len__(self) -> int:
        """Examples of one pass."""
        return len(self.windows)

    def __getitem__(self, index: int) -> Example:
        turn, place = divmod(index, len(self.windows))
        if self._order[0] != turn:
            self._order = (turn, np.random.default_rng((self.seed, 0, turn)).permutation(len(self.windows)))
        random = np.random.default_rng((self.seed, 1, index))
        with one_thread():  # as in a worker process, so that their number changes nothing
            return self.windows.excerpt(int(self._order[1][place]), random.random())


class FixedWindows(Dataset):
    """Validation and test examples: the windows that tile the recordings, in order.

    Args:
        windows: What to take from.
    """

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Example:
        with one_thread():
            return self.windows.excerpt(index)


def collate(examples: Sequence[Example]) -> Batch:
    """Windows of equal length as one batch."""
    signal = torch.stack([signal for signal, _ in examples])
    batch: Batch = {"signal": signal, "lengths": torch.full((len(examples),), signal.shape[-1])}
    labels = [label for _, label in examples if label is not None]
    if labels:
        batch["label"] = torch.tensor(labels)
    return batch


class EEGDataModule(L.LightningDataModule):
    """Windows of EEG recordings of any format, rate and montage, as :class:`Batch`.

    Args:
        train: Source or sources of training windows, which come in random order and, without labels, from random places.
        valid: Of validation windows, one after the other; none means no validation.
        test: Of test windows.
        sample_rate: Rate of the batches in Hz.
        window_seconds: Length of a window.
        items: What an example is: all channels of a window, or each channel for itself (``[B, 1, N]``), which takes recordings of
            any montage.
        montage: Channels: ``"10-20"``, ``"tcp16"``, or names with commas or as a list; None takes all as recorded.
        reference: ``"average"``, or electrodes whose mean is subtracted.
        highpass: Lowest frequency to keep in Hz.
        lowpass: Highest frequency to keep in Hz.
        notch: Mains frequency in Hz to remove with its multiples.
        batch_size: Items per batch and device.
        num_workers: Processes that prepare batches.
        cache: Keep all recordings in memory, preprocessed, for sets of a few hours; otherwise windows are read when needed.
        examples_per_epoch: Examples per epoch over all devices; by default as many as windows fit into the recordings.
        seed: Of the order and places of training windows.

    Raises:
        ValueError: For numbers out of range, or an unknown electrode.
    """

    def __init__(
        self,
        train: EEGSource | list[EEGSource],
        valid: EEGSource | list[EEGSource] | None = None,
        test: EEGSource | list[EEGSource] | None = None,
        *,
        sample_rate: float = 200.0,
        window_seconds: float = 10.0,
        items: Literal["recording", "channel"] = "recording",
        montage: str | list[str] | None = None,
        reference: str | list[str] | None = None,
        highpass: float | None = None,
        lowpass: float | None = None,
        notch: float | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        cache: bool = True,
        examples_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(
            1,
            batch_size=batch_size,
            examples_per_epoch=examples_per_epoch,
            **{"window_seconds * sample_rate": round(window_seconds * sample_rate)},
        )
        at_least(0, num_workers=num_workers, seed=seed)
        self.sources = {"train": _listed(train), "valid": _listed(valid), "test": _listed(test)}
        self.preprocessing = Preprocessing(reference, montage, highpass, lowpass, notch)
        self.sample_rate, self.window_seconds, self.items = sample_rate, window_seconds, items
        self.batch_size, self.num_workers, self.cache, self.seed = batch_size, num_workers, cache, seed
        self.examples_per_epoch = examples_per_epoch
        self.windows: dict[str, Windows] = {}

    def prepare_data(self) -> None:
        """Download what is to be downloaded, once per machine."""
        for source in [source for sources in self.sources.values() for source in sources if source.download]:
            source.clips(self.window_seconds)

    def setup(self, stage: str | None = None) -> None:
        """Find and check the recordings of the splits that this stage needs."""
        needed = {"fit": ("train", "valid"), "validate": ("valid",), "test": ("test",)}.get(stage or "", self.sources)
        for split in needed:
            if split not in self.windows and self.sources[split]:
                self.windows[split] = Windows(
                    self.sources[split],
                    self.window_seconds,
                    self.sample_rate,
                    self.preprocessing,
                    split_channels=self.items == "channel",
                    cache=self.cache,
                )

    def train_dataloader(self) -> ResumableLoader:
        """Random windows, going on from epoch to epoch without repeating an example number."""
        data = RandomWindows(self.windows["train"], self.seed)
        count = self.examples_per_epoch or len(data)
        return ResumableLoader(data, self.batch_size, count, self.num_workers, collate=collate)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The validation windows in a fixed order."""
        return self._fixed("valid")

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        """The test windows in a fixed order."""
        return self._fixed("test")

    def _fixed(self, split: str) -> DataLoader | list[DataLoader]:
        if split not in self.windows:
            return []
        return loader(FixedWindows(self.windows[split]), self.num_workers, collate, batch_size=self.batch_size)


def _listed(source: EEGSource | list[EEGSource] | None) -> list[EEGSource]:
    return [source] if isinstance(source, EEGSource) else list(source or [])
