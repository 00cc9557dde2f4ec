"""Labelled series for training, streamed from the shards of generated corpora; resumable to the example.

What example number i holds is a function of (seed, i) alone, whatever the epoch, rank or worker. Shards are read in a random
order, and within a shard its series, so that two shards in memory are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenizers_mm.checks import at_least
from tokenizers_mm.timeseries.synthetic.corpus import read_settings, read_shard, shard_path
from tokenizers_mm.timeseries.synthetic.sample import Sample
from tokenizers_mm.timeseries.windows import standardise
from tokenizers_mm.training.loader import ResumableLoader, loader

PADDING = -1
"""Label of steps past the end of a series: no class, so that a loss can leave them out."""


class Batch(TypedDict):
    """``signal`` float32 ``[B, C, N]``, each variate standardised, ``lengths [B]``, ``labels`` int64 ``[B, N]``: 0, 1, or
    :data:`PADDING`."""

    signal: Tensor
    lengths: Tensor
    labels: Tensor


class CorpusCrops(Dataset):
    """Crops of a corpus's series; of a longer series a random part, of a shorter one all.

    Args:
        folder: The corpus.
        shards: Numbers of the shards to use.
        crop: Most steps of an example.
        random: Draw order and crops at random; otherwise the first ``crop`` steps in the corpus's order.
        seed: Of everything random here.
    """

    def __init__(self, folder: Path, shards: Sequence[int], crop: int, *, random: bool = True, seed: int = 0) -> None:
        self.folder, self.shards, self.crop, self.random, self.seed = folder, list(shards), crop, random, seed
        settings = read_settings(folder)
        for number in self.shards:
            if not shard_path(folder, number).is_file():
                raise FileNotFoundError(f"{folder} lacks {shard_path(folder, number).name}: the corpus is not finished")
        size, total = settings.shard_size, settings.series
        self.sizes = {number: min(size, total - number * size) for number in self.shards}
        self._read = lru_cache(maxsize=2)(self._shard)

    def __len__(self) -> int:
        """Series of one pass."""
        return sum(self.sizes.values())

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        turn, place = divmod(index, len(self))
        number, row = self._place(turn, place)
        sample = self._read(number)[row]
        n = len(sample.labels)
        rng = np.random.default_rng((self.seed, 2, index))
        start = int(rng.integers(n - self.crop + 1)) if self.random and n > self.crop else 0
        part = slice(start, start + self.crop)
        series = torch.from_numpy(sample.series[:, part].copy())
        return standardise(series), torch.from_numpy(sample.labels[part].astype(np.int64))

    def _place(self, turn: int, place: int) -> tuple[int, int]:
        """Shard and row of an example of a pass."""
        for number in _order(len(self.shards), self.seed, turn, self.random):
            size = self.sizes[self.shards[number]]
            if place < size:
                rows = (
                    np.random.default_rng((self.seed, 1, turn, number)).permutation(size)
                    if self.random
                    else range(size)
                )
                return self.shards[number], int(rows[place])
            place -= size
        raise IndexError(place)

    def _shard(self, number: int) -> list[Sample]:
        return list(read_shard(shard_path(self.folder, number)))

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_read"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._read = lru_cache(maxsize=2)(self._shard)


@lru_cache(maxsize=4)
def _order(count: int, seed: int, turn: int, random: bool) -> list[int]:
    return np.random.default_rng((seed, 0, turn)).permutation(count).tolist() if random else list(range(count))


def collate(examples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Examples as a batch, padded at the end.

    Raises:
        ValueError: If they have different numbers of variates.
    """
    lengths = torch.tensor([len(labels) for _, labels in examples])
    variates = {len(series) for series, _ in examples}
    if len(variates) > 1:
        raise ValueError(
            f"series of a batch must have one number of variates, got {sorted(variates)}: one corpus for each"
        )
    signal = torch.zeros(len(examples), variates.pop(), int(lengths.max()))
    targets = torch.full((len(examples), int(lengths.max())), PADDING)
    for i, (series, labels) in enumerate(examples):
        signal[i, :, : len(labels)], targets[i, : len(labels)] = series, labels
    return {"signal": signal, "lengths": lengths, "labels": targets}


class CorpusDataModule(L.LightningDataModule):
    """Training and validation batches of one generated corpus, as :class:`Batch`.

    Args:
        folder: What ``mmtok corpus`` wrote, with one number of variates.
        crop: Most steps of an example.
        batch_size: Items per batch and device.
        num_workers: Processes that prepare batches.
        valid_shards: The last shards, which are never trained on.
        valid_crop: Most steps of a validation example; by default ``crop``.
        examples_per_epoch: Examples per epoch over all devices; by default the number of series.
        seed: Of the order and the crops.

    Raises:
        ValueError: For numbers out of range.
    """

    def __init__(
        self,
        folder: str,
        crop: int = 10_000,
        batch_size: int = 16,
        num_workers: int = 0,
        valid_shards: int = 1,
        valid_crop: int | None = None,
        examples_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, crop=crop, batch_size=batch_size, valid_crop=valid_crop, examples_per_epoch=examples_per_epoch)
        at_least(0, num_workers=num_workers, valid_shards=valid_shards, seed=seed)
        self.folder, self.crop, self.batch_size, self.num_workers = Path(folder), crop, batch_size, num_workers
        self.valid_shards, self.valid_crop, self.seed = valid_shards, valid_crop or crop, seed
        self.examples_per_epoch = examples_per_epoch

    def setup(self, stage: str | None = None) -> None:
        """Look the corpus up.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If validation would leave no shard to train on.
        """
        self.shards = read_settings(self.folder).shards
        if self.valid_shards >= self.shards:
            raise ValueError(
                f"valid_shards must be below the {self.shards} shards of {self.folder}, got {self.valid_shards}"
            )

    def train_dataloader(self) -> ResumableLoader:
        """Random crops, going on from epoch to epoch without repeating an example number."""
        data = CorpusCrops(self.folder, range(self.shards - self.valid_shards), self.crop, seed=self.seed)
        count = self.examples_per_epoch or len(data)
        return ResumableLoader(data, self.batch_size, count, self.num_workers, collate=collate)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The start of every series of the last shards, in a fixed order."""
        if not self.valid_shards:
            return []
        held_out = range(self.shards - self.valid_shards, self.shards)
        data = CorpusCrops(self.folder, held_out, self.valid_crop, random=False)
        return loader(data, self.num_workers, collate, batch_size=self.batch_size)
