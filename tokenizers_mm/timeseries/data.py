"""Windows of series for training, from any number of files at once (TOTEM's generalist), resumable to the example.

Splits are by time. The ETT protocol (Zhou et al., "Informer", 2021): 12, 4 and 4 months, standardised by the mean and population
deviation of the training rows; validation and test begin one look-back earlier, so that their first target is their first row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenizers_mm.checks import at_least
from tokenizers_mm.manifest import manifest_paths
from tokenizers_mm.timeseries import files
from tokenizers_mm.timeseries.series import Series
from tokenizers_mm.training.loader import ResumableLoader, loader

Split = Literal["train", "valid", "test"]
Protocol = Literal["etth", "ettm"]
ETT_MONTH = 30 * 24  # rows of hourly data


class Batch(TypedDict):
    """``signal`` float32 ``[B, 1, T]``, NaN where missing."""

    signal: Tensor


@dataclass(frozen=True)
class SeriesSource:
    """One or more series and how they are split.

    Args:
        path: A file that :func:`tokenizers_mm.timeseries.files.load` reads, or a manifest CSV (column ``path``).
        protocol: ``"etth"`` or ``"ettm"`` for the ETT split of hourly or quarter-hourly rows; by default ``shares``.
        shares: Of the rows for training and validation; the rest is for testing.
        group: Column that tells series apart in one long table (NAB: ``"series"``).
        columns: Columns of values; by default all.
        split: Rows of a manifest that count; None for all.
    """

    path: str
    protocol: Protocol | None = None
    shares: tuple[float, float] = (0.7, 0.1)
    group: str | None = None
    columns: list[str] | None = None
    split: str | None = None

    def series(self) -> list[Series]:
        """Every series on a regular clock.

        Raises:
            FileNotFoundError, ValueError: If a file is not there or not what it should be.
        """
        path = Path(self.path)
        if self.group is not None:
            groups = files.load_groups(path, self.group, columns=self.columns, duplicates="mean")
            return [series.regular() for series in groups.values()]
        paths = manifest_paths(path, self.split) if _is_manifest(path) else [path]
        return [files.load(p, columns=self.columns).regular() for p in paths]

    def bounds(self, rows: int, split: Split, context: int = 0) -> tuple[int, int]:
        """First row of a split, ``context`` rows earlier where there are any, and the one after its last.

        Raises:
            ValueError: If the series is too short for the protocol.
        """
        if self.protocol is not None:
            month = ETT_MONTH * (4 if self.protocol == "ettm" else 1)
            ends = [0, 12 * month, 16 * month, 20 * month]
            if rows < ends[-1]:
                raise ValueError(f"{self.path}: protocol {self.protocol!r} needs {ends[-1]} rows, got {rows}")
        else:
            ends = [0, round(rows * self.shares[0]), round(rows * sum(self.shares)), rows]
        place = ("train", "valid", "test").index(split)
        return max(0, ends[place] - (context if place else 0)), ends[place + 1]


def scaled_splits(source: SeriesSource, split: Split, context: int = 0) -> list[Tensor]:
    """Each series of a source, one split of it, standardised by its training rows: float32 ``[C, n]``."""
    found = []
    for series in source.series():
        scaled = files.scaled_by(series, series.rows(*source.bounds(len(series), "train")))
        found.append(scaled.rows(*source.bounds(len(series), split, context)).signal())
    return found


class Windows(Dataset):
    """All windows of every channel, stride ``stride``; training draws them in an order of its own for each pass.

    Args:
        signals: ``[C, n]`` each; those shorter than a window are left out.
        window: Samples T of a window.
        stride: From one window's start to the next.
        seed: Of the order; None keeps the natural one.

    Raises:
        ValueError: If no signal is as long as a window.
    """

    def __init__(self, signals: Sequence[Tensor], window: int, *, stride: int = 1, seed: int | None = None) -> None:
        self.rows = [row for signal in signals for row in signal if len(row) >= window]
        counts = [(len(row) - window) // stride + 1 for row in self.rows]
        if not counts:
            lengths = sorted({signal.shape[1] for signal in signals})
            raise ValueError(f"no series is as long as a window of {window} samples: their lengths are {lengths}")
        self.starts = np.cumsum([0, *counts])
        self.window, self.stride, self.seed = window, stride, seed
        self._order = (-1, np.arange(0))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Tensor:
        turn, place = divmod(index, len(self))
        if self.seed is not None:
            if self._order[0] != turn:
                self._order = (turn, np.random.default_rng((self.seed, turn)).permutation(len(self)))
            place = int(self._order[1][place])
        row = int(np.searchsorted(self.starts, place, side="right")) - 1
        start = (place - int(self.starts[row])) * self.stride
        return self.rows[row][start : start + self.window]


def collate(windows: Sequence[Tensor]) -> Batch:
    """Windows ``[T]`` as a batch."""
    return {"signal": torch.stack(list(windows))[:, None]}


class SeriesDataModule(L.LightningDataModule):
    """Windows of single channels of all sources mixed, as :class:`Batch`.

    Args:
        sources: One or several; each series is standardised by its own training rows.
        window: Samples of a window.
        batch_size: Windows per batch and device.
        stride: From one window to the next, in training.
        valid_stride: The same in validation and test.
        num_workers: Processes that prepare batches.
        examples_per_epoch: Windows per epoch over all devices; by default all of them.
        seed: Of the order.

    Raises:
        ValueError: For numbers out of range.
    """

    def __init__(
        self,
        sources: SeriesSource | list[SeriesSource],
        *,
        window: int = 96,
        batch_size: int = 4096,
        stride: int = 1,
        valid_stride: int = 96,
        num_workers: int = 0,
        examples_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(
            1,
            window=window,
            batch_size=batch_size,
            stride=stride,
            valid_stride=valid_stride,
            examples_per_epoch=examples_per_epoch,
        )
        at_least(0, num_workers=num_workers)
        self.sources = [sources] if isinstance(sources, SeriesSource) else list(sources)
        self.window, self.batch_size, self.stride, self.valid_stride = window, batch_size, stride, valid_stride
        self.num_workers, self.examples_per_epoch, self.seed = num_workers, examples_per_epoch, seed
        self.signals: dict[str, list[Tensor]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the splits that this stage needs."""
        stages: dict[str, tuple[Split, ...]] = {"fit": ("train", "valid"), "validate": ("valid",), "test": ("test",)}
        for split in stages.get(stage or "", ("train", "valid", "test")):
            if split not in self.signals:
                self.signals[split] = [x for source in self.sources for x in scaled_splits(source, split, self.window)]

    def train_dataloader(self) -> ResumableLoader:
        """Windows in random order, each once per pass, going on from epoch to epoch."""
        data = Windows(self.signals["train"], self.window, stride=self.stride, seed=self.seed)
        count = self.examples_per_epoch or len(data)
        return ResumableLoader(data, self.batch_size, count, self.num_workers, collate=collate)

    def val_dataloader(self) -> DataLoader:
        """Validation windows in their natural order."""
        return self._fixed("valid")

    def test_dataloader(self) -> DataLoader:
        """Test windows in their natural order."""
        return self._fixed("test")

    def _fixed(self, split: str) -> DataLoader:
        data = Windows(self.signals[split], self.window, stride=self.valid_stride)
        return loader(data, self.num_workers, collate, batch_size=min(self.batch_size, 1024))


def _is_manifest(path: Path) -> bool:
    if path.suffix != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig") as file:
        return "path" in file.readline().strip().split(",")
