"""Texts with labels: a folder whose files are languages, or a table; and their batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader, Dataset

from tokenizers_mm.checks import at_least
from tokenizers_mm.text import files
from tokenizers_mm.training.loader import ResumableLoader, loader

Example = tuple[str, str | None, str]
"""A text, a second one or None, and a label."""
_TABLES = (".tsv", ".tsv.xz", ".tsv.gz")


@dataclass(frozen=True)
class LabelledSource:
    """Where labelled texts come from.

    Args:
        path: A table of ``label<TAB>text`` or ``label<TAB>text<TAB>second text`` in each line; or a folder of text files whose
            lines are texts and whose names up to the first dot are labels.
        split: Of line-aligned files: their lines of this split, as ``docs.tsv`` beside them says.
        labels: Only files so called.
    """

    path: str
    split: str | None = None
    labels: list[str] | None = None

    def examples(self) -> list[Example]:
        """All texts that aren't empty, in their order.

        Raises:
            FileNotFoundError: If there are none.
            ValueError: If a table's line has other columns.
        """
        path = Path(self.path)
        found = _table(path) if path.name.lower().endswith(_TABLES) else self._folder(path)
        if not found:
            raise FileNotFoundError(f"path must hold labelled texts, {self.path} has none")
        return found

    def _folder(self, path: Path) -> list[Example]:
        found: list[Example] = []
        for file in sorted(path.iterdir()):
            label = file.name.partition(".")[0]
            known = file.suffix.lower() in files.EXTENSIONS and (self.labels is None or label in self.labels)
            if known and file.name != files.DOCUMENTS:
                lines = "".join(files.texts([file], self.split)).split("\n")
                found += [(line, None, label) for line in lines if line.strip()]
        return found


def _table(path: Path) -> list[Example]:
    found: list[Example] = []
    for number, line in enumerate("".join(files.texts([path])).split("\n"), 1):
        parts = line.split("\t")
        if line and len(parts) not in (2, 3):
            raise ValueError(
                f"{path}:{number} must have label, text and perhaps a second text, got {len(parts)} columns"
            )
        if line:
            found.append((parts[1], parts[2] if len(parts) == 3 else None, parts[0]))
    return found


class _Shuffled(Dataset):
    """Examples in an order of their own for each turn; any number is one's."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self.examples, self.seed = examples, seed
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        turn, place = divmod(index, len(self))
        if self._order[0] != turn:
            self._order = turn, shuffled(range(len(self)), self.seed + turn)
        return self.examples[self._order[1][place]]


def shuffled(items: Sequence, seed: int = 0) -> list:
    """Items in an order that a seed gives: what is merged together should be of all kinds."""
    return random.Random(seed).sample(items, len(items))


def _collate(examples: list[Example]) -> dict[str, list[Example]]:
    return {"signal": examples}


class LabelledDataModule(L.LightningDataModule):
    """Batches ``{"signal": [(text, second text or None, label), ...]}``.

    Args:
        train: Texts to train on.
        valid: Texts to validate on.
        batch_size: Texts per batch and device, which are merged together.
        num_workers: Processes that prepare batches.
        examples_per_epoch: Texts per epoch over all devices; by default all.
        valid_examples: Texts to validate on, drawn once; by default all.
        seed: Of the order.

    Raises:
        ValueError: For numbers out of range.
    """

    def __init__(
        self,
        train: LabelledSource,
        valid: LabelledSource,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        examples_per_epoch: int | None = None,
        valid_examples: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, examples_per_epoch=examples_per_epoch, valid_examples=valid_examples)
        at_least(0, num_workers=num_workers)
        self.sources = {"train": train, "valid": valid}
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.examples_per_epoch, self.valid_examples = examples_per_epoch, valid_examples
        self.examples: dict[str, list[Example]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read what this stage needs."""
        for name in ("train", "valid") if stage in (None, "fit") else ("valid",):
            if name not in self.examples:
                self.examples[name] = self.sources[name].examples()

    def train_dataloader(self) -> ResumableLoader:
        """Texts in random order, going on from epoch to epoch."""
        data = _Shuffled(self.examples["train"], self.seed)
        count = self.examples_per_epoch or len(data)
        return ResumableLoader(data, self.batch_size, count, self.num_workers, collate=_collate)

    def val_dataloader(self) -> DataLoader:
        """Validation texts, in one random order."""
        examples = shuffled(self.examples["valid"], self.seed)[: self.valid_examples]
        return loader(examples, self.num_workers, _collate, batch_size=self.batch_size)  # type: ignore[arg-type]  # a list will do
