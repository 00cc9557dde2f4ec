"""Token data: shards of tokens as batches of documents for language models of any modality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import lightning as L
import torch
from torch import Tensor

from tokenizers_mm.checks import at_least
from tokenizers_mm.lm.vocabulary import Vocabulary
from tokenizers_mm.scale.columns import Label
from tokenizers_mm.scale.shards import ShardReader, find_shards
from tokenizers_mm.training.loader import loader, world
from tokenizers_mm.training.token_stream import (
    Batches,
    Documents,
    Long,
    Options,
    Packing,
    Share,
    Shelf,
    State,
)

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TokenSource:
    """Shards of one codec's tokens.

    Args:
        name: What the vocabulary calls these tokens.
        path: Folder that ``mmtok tokenize`` wrote.
        weight: How often its items are drawn, relative to the other sources' weights; by default the number of its items, so that
            all sources come to an end together.
    """

    name: str
    path: str
    weight: float | None = None


class TokenLoader:
    """Batches without end, split over ranks and workers; Lightning keeps its state with every checkpoint.

    Every process reads its own share of the items, each item once a pass. A resumed run goes on with exactly the batches that
    would have come; it needs as many ranks and workers as before.

    Args:
        documents: Makes the documents of a share.
        batches_per_epoch: Batches per rank after which an iteration ends; the next goes on from there.
        num_workers: Processes that prepare batches.
    """

    def __init__(self, documents: Callable[[Share], Documents], batches_per_epoch: int, num_workers: int = 0) -> None:
        self.documents, self.batches_per_epoch, self.num_workers = documents, batches_per_epoch, num_workers
        self.batches = 0
        self.states: list[State | None] = [None] * max(1, num_workers)

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        rank, ranks = world()
        workers = len(self.states)
        share = Share(rank * workers, ranks * workers)
        dataset = Batches(self.documents, share, workers, self.batches % workers, list(self.states))
        batches = iter(loader(dataset, self.num_workers, _same, batch_size=None))
        for _ in range(len(self)):
            stream, signal, state = next(batches)
            self.states[stream] = state
            self.batches += 1
            yield {"signal": signal}

    @property
    def skipped(self) -> int:
        """Documents of this rank that did not fit."""
        return sum(state["skipped"] for state in self.states if state is not None)

    def state_dict(self) -> dict[str, Any]:
        """Where every stream of every rank stands; all ranks must ask."""
        ranks: list[Any] = [self.states] * world()[1]
        if len(ranks) > 1:
            torch.distributed.all_gather_object(ranks, self.states)
        return {"batches": self.batches, "ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: If there are other numbers of ranks or workers now.
        """
        ranks, (rank, count) = state_dict["ranks"], world()
        if len(ranks) != count or len(ranks[rank]) != len(self.states):
            raise ValueError(
                f"the run was stopped with {len(ranks)} ranks of {len(ranks[0])} workers; resume with as many, "
                f"got {count} of {len(self.states)}"
            )
        self.batches, self.states = state_dict["batches"], list(ranks[rank])


class TokenDataModule(L.LightningDataModule):
    """Batches ``{"signal": int64 [B, length, lanes]}`` of documents; what follows them in a row is ``vocabulary.pad``.

    A document is one item, or several, each of another source than the one before it. Training draws them without end;
    validation has every item once, in order.

    Args:
        vocabulary: Makes ids of items; None for that of the network that is trained.
        train: Where training items come from.
        valid: Where validation items come from; by default there is no validation.
        length: Steps of a row.
        batch_size: Rows per batch and device.
        packing: Several documents a row (``"packed"``), or one.
        long: What becomes of documents longer than ``length``: a random stretch of the longest item along time (``"crop"``; items
            without time are left out), none (``"skip"``), or an error.
        segments_per_document: Items of a document.
        labels: Condition documents on their items' classes. Names are numbered in the order of the alphabet: see ``classes``.
        buffer: Row groups whose items are shuffled together and kept in memory, of each source and worker.
        batches_per_epoch: Training batches per epoch and device.
        num_workers: Processes that prepare training batches.
        seed: Of the order, what is drawn, and crops.

    Attributes:
        classes: Names of classes by number, after ``setup``; empty where they are numbers already.

    Raises:
        ValueError: For numbers out of range, sources without shards, of several codecs, or with fewer items than processes, or
            if there is no vocabulary.
    """

    def __init__(
        self,
        vocabulary: Vocabulary | None,
        train: list[TokenSource],
        valid: list[TokenSource] | None = None,
        *,
        length: int = 1024,
        batch_size: int = 8,
        packing: Packing = "packed",
        long: Long = "crop",
        segments_per_document: int = 1,
        labels: bool = False,
        buffer: int = 16,
        batches_per_epoch: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, length=length, batch_size=batch_size, segments_per_document=segments_per_document)
        at_least(1, buffer=buffer, batches_per_epoch=batches_per_epoch)
        at_least(0, num_workers=num_workers, seed=seed)
        for name, value, allowed in (("packing", packing, Packing), ("long", long, Long)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} must be one of {get_args(allowed)}, got {value!r}")
        if not train:
            raise ValueError("train must name at least one source, got none")
        self.vocabulary = vocabulary
        self.sources = {"train": train, "valid": valid or []}
        self.options = Options(length, batch_size, packing, long, segments_per_document, buffer, seed)
        self.labels, self.batches_per_epoch, self.num_workers = labels, batches_per_epoch, num_workers
        self.classes: list[str] = []
        self.shelves: dict[str, list[Shelf]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open the shards and number the classes."""
        if self.vocabulary is None:
            module = None if self.trainer is None else self.trainer.lightning_module
            self.vocabulary = getattr(getattr(module, "network", None), "vocabulary", None)
        shards = {part: [_opened(source) for source in sources] for part, sources in self.sources.items()}
        if self.labels:
            found = {label for opened in shards["train"] for shard in opened for label in shard.read_labels()}
            self.classes = sorted(label for label in found if isinstance(label, str))
            if self.classes and any(isinstance(label, int) for label in found):
                raise ValueError("classes of the training items must be all names or all numbers, got both")
        number = partial(_number, {name: i for i, name in enumerate(self.classes)}, self.labels)
        self.shelves = {
            part: [
                Shelf(source.name, opened, _weight(source, opened), number)
                for source, opened in zip(sources, shards[part], strict=True)
            ]
            for part, sources in self.sources.items()
        }
        streams = world()[1] * max(1, self.num_workers)
        for shelf in self.shelves["train"]:
            if len(shelf) < streams:
                raise ValueError(f"{shelf.name} has fewer items than the {streams} processes that read it")

    def train_dataloader(self) -> TokenLoader:
        return TokenLoader(self._documents("train", endless=True), self.batches_per_epoch, self.num_workers)

    def val_dataloader(self) -> Any:
        """Batches of every item once, or no loader without validation sources."""
        if not self.shelves["valid"]:
            return []
        dataset = Batches(self._documents("valid", endless=False), Share(*world()))
        return loader(dataset, min(1, self.num_workers), _signal, batch_size=None)

    def _documents(self, part: str, *, endless: bool) -> Callable[[Share], Documents]:
        if self.vocabulary is None:
            raise ValueError("vocabulary must be given where no network that has one is trained, got None")
        return partial(_documents, self.vocabulary, self.shelves[part], self.options, endless)


def _documents(
    vocabulary: Vocabulary, shelves: Sequence[Shelf], options: Options, endless: bool, share: Share
) -> Documents:
    return Documents(vocabulary, shelves, options, share, endless)


def _opened(source: TokenSource) -> tuple[ShardReader, ...]:
    """All shards of a source, which must be one codec's."""
    paths = find_shards(source.path)
    if not paths:
        raise ValueError(f"source {source.name!r} has no shards in {source.path}")
    first = ShardReader(paths[0])
    shards = (first, *(ShardReader(path, first.origin) for path in paths[1:]))
    return tuple(shard for shard in shards if len(shard))


def _weight(source: TokenSource, shards: Sequence[ShardReader]) -> float:
    weight = source.weight if source.weight is not None else float(sum(map(len, shards)))
    if not weight > 0:
        raise ValueError(f"weight of source {source.name!r} must be positive, got {weight}")
    return weight


def _number(classes: dict[str, int], wanted: bool, label: Label) -> int | None:
    """Number of a class; None where there is none, or classes are not wanted."""
    if not wanted or label is None:
        return None
    if isinstance(label, str) and label not in classes:
        raise ValueError(f"class {label!r} is none of the training items'")
    return classes[label] if isinstance(label, str) else label


def _same(batch: Any) -> Any:
    return batch


def _signal(batch: Any) -> Batch:
    return {"signal": batch[1]}
