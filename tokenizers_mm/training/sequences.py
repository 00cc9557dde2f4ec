"""Batches of sequences of ids, from sources of any kind: texts, tasks, a codec's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tokenizers_mm.checks import at_least
from tokenizers_mm.lm.lexinvariant import PADDING
from tokenizers_mm.lm.sources import SequenceSource
from tokenizers_mm.training.loader import ResumableLoader, loader

VALIDATION = 2**32  # numbers of validation rows begin here: far from those of training


class Batch(TypedDict):
    """Rows of ids, int64 ``[B, L]``, with :data:`PADDING` where there is none and between documents."""

    signal: Tensor


class NumberedRows(Dataset):
    """Rows by number; the same number gives the same row.

    Args:
        source: Of rows.
        length: Ids L of a row.
        seed: Of all draws.
        first: Number of the first row.
        count: Rows; the default is as good as any number.
        tasks: Further sources.
        task_share: Probability that a row is of one of the tasks.
    """

    def __init__(
        self,
        source: SequenceSource,
        length: int,
        *,
        seed: int,
        first: int = 0,
        count: int = 2**31,
        tasks: Sequence[SequenceSource] = (),
        task_share: float = 0.0,
    ) -> None:
        self.source, self.length, self.seed, self.first, self.count = source, length, seed, first, count
        self.tasks, self.task_share = tasks, task_share

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, self.first + index)))
        source = self.source
        if self.tasks and float(torch.rand((), generator=generator)) < self.task_share:
            source = self.tasks[int(torch.randint(len(self.tasks), (), generator=generator))]
        found = source.row(self.length, generator)[: self.length]
        return F.pad(found, (0, self.length - len(found)), value=PADDING)


def collate(rows: list[Tensor]) -> Batch:
    """Rows ``[L]`` as a batch."""
    return {"signal": torch.stack(rows)}


class SequenceDataModule(L.LightningDataModule):
    """Rows of ids, as :class:`Batch`.

    Args:
        train: What to train on.
        valid: What to validate on.
        tasks: Further sources to train on.
        task_share: Share of rows that are of one of the tasks.
        length: Ids of a row.
        batch_size: Rows per batch and device.
        examples_per_epoch: Rows per epoch over all devices.
        valid_rows: Rows to validate on, always the same.
        num_workers: Processes that prepare batches.
        seed: Of what is drawn.

    Raises:
        ValueError: For numbers out of range.
    """

    def __init__(
        self,
        train: SequenceSource,
        valid: SequenceSource,
        *,
        tasks: list[SequenceSource] | None = None,
        task_share: float = 0.0,
        length: int = 512,
        batch_size: int = 16,
        examples_per_epoch: int = 16384,
        valid_rows: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(2, length=length)
        at_least(1, batch_size=batch_size, examples_per_epoch=examples_per_epoch, valid_rows=valid_rows)
        at_least(0, num_workers=num_workers)
        if not 0 <= task_share <= (1 if tasks else 0):
            raise ValueError(f"task_share must be from 0 to 1, and 0 without tasks, got {task_share}")
        self.train_rows = NumberedRows(train, length, seed=seed, tasks=tasks or (), task_share=task_share)
        self.valid_rows = NumberedRows(valid, length, seed=seed, first=VALIDATION, count=valid_rows)
        self.batch_size, self.examples_per_epoch, self.num_workers = batch_size, examples_per_epoch, num_workers

    def train_dataloader(self) -> ResumableLoader:
        """Rows in order of their numbers, going on from epoch to epoch."""
        return ResumableLoader(
            self.train_rows, self.batch_size, self.examples_per_epoch, self.num_workers, collate=collate
        )

    def val_dataloader(self) -> DataLoader:
        """The rows to validate on."""
        return loader(self.valid_rows, self.num_workers, collate, batch_size=self.batch_size)
