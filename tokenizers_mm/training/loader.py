"""Batches of numbered examples whose position survives a resume, shared by the wings' data modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


class ResumableLoader:
    """Batches of consecutive example numbers, split over ranks; its whole state is how many examples were handed out.

    Lightning saves and restores that state with every checkpoint, also in the middle of an epoch.

    Args:
        dataset: Takes any example number.
        batch_size: Examples per batch and rank.
        examples_per_epoch: Examples, over all ranks, after which an iteration ends; the next goes on from there.
        num_workers: Processes that prepare batches.
        collate: Makes a batch of a list of examples.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        examples_per_epoch: int,
        num_workers: int = 0,
        *,
        collate: Callable[[list], Any],
    ) -> None:
        self.dataset, self.batch_size, self.num_workers, self.collate = dataset, batch_size, num_workers, collate
        self.examples_per_epoch, self.examples_seen = examples_per_epoch, 0

    def __len__(self) -> int:
        return max(1, self.examples_per_epoch // (self.batch_size * world()[1]))

    def __iter__(self) -> Iterator[Any]:
        rank, ranks = world()
        step = self.batch_size * ranks
        first = self.examples_seen + rank * self.batch_size
        batches = [range(n, n + self.batch_size) for n in range(first, first + len(self) * step, step)]
        for batch in loader(self.dataset, self.num_workers, self.collate, batch_sampler=batches):
            self.examples_seen += step
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many examples were handed out, over all ranks."""
        return {"examples_seen": self.examples_seen}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after that many examples."""
        self.examples_seen = state_dict["examples_seen"]


def loader(dataset: Dataset, num_workers: int, collate: Callable[[list], Any], **batching: Any) -> DataLoader:
    """A ``DataLoader`` that leaves the global random generator alone: a resumed run would differ from then on."""
    generator, pin = torch.Generator(), torch.cuda.is_available()
    return DataLoader(
        dataset, num_workers=num_workers, collate_fn=collate, generator=generator, pin_memory=pin, **batching
    )


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
