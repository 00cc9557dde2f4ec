"""Batches of documents for language models: every model reads the same bytes, however it cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenizers_mm.checks import at_least
from tokenizers_mm.text import files
from tokenizers_mm.text.rows import END, PAD, pieces
from tokenizers_mm.training.loader import ResumableLoader, loader


class Batch(TypedDict):
    """Rows of documents, int64 ``[B, L]``, with -1 after each (see :mod:`tokenizers_mm.text.rows`)."""

    signal: Tensor


@dataclass(frozen=True)
class TextSource:
    """Where documents come from.

    Args:
        path: A text file, a folder of them (searched), or several.
        split: Of line-aligned files: take their documents of this split, as ``docs.tsv`` beside them says. By default a file is a
            document.
        names: Of a folder's files, only those whose names begin with one of these and a dot.
    """

    path: str | list[str]
    split: str | None = None
    names: list[str] | None = None

    def documents(self) -> list[bytes]:
        """All documents that aren't empty, in the order of the files' names.

        Raises:
            FileNotFoundError: If there are none.
        """
        found = [
            file for path in ([self.path] if isinstance(self.path, str) else self.path) for file in _files(Path(path))
        ]
        if self.names is not None:
            wanted = set(self.names)
            found = [file for file in found if file.name.partition(".")[0] in wanted]
            if missing := wanted - {file.name.partition(".")[0] for file in found}:
                raise FileNotFoundError(f"names: no file of {self.path} is called {sorted(missing)}")
        texts = [text.removesuffix("\n").encode("utf-8") for text in files.texts(found, self.split)]
        if not (kept := [text for text in texts if text]):
            raise FileNotFoundError(f"path must hold text files with documents, {self.path} has none")
        return kept


class Windows(Dataset):
    """Stretches of ``length`` bytes of documents one after the other, each from the start of a line.

    Args:
        documents: UTF-8.
        length: Bytes L of a row, ends of documents among them.
        seed: Of the order, in which a window comes once per turn.
    """

    def __init__(self, documents: Sequence[bytes], length: int, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(documents))
        parts = [[*documents[i], END, PAD] for i in order]
        self.stream = np.fromiter((value for part in parts for value in part), dtype=np.int16)
        after = np.concatenate([[True], (self.stream[:-1] == ord("\n")) | (self.stream[:-1] == PAD)])
        self.starts = np.flatnonzero(after & (self.stream >= 0))
        self.length, self.seed = length, seed
        self._order = (-1, np.arange(0))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        turn, place = divmod(index, len(self))
        if self._order[0] != turn:
            self._order = (turn, np.random.default_rng((self.seed, turn)).permutation(len(self)))
        start = int(self.starts[self._order[1][place]])
        return row(self.stream[start : start + self.length + 1], self.length)


class Pieces(Dataset):
    """Every byte of documents once: as many whole lines of one document in a row as fit, longer lines cut."""

    def __init__(self, documents: Sequence[bytes], length: int) -> None:
        self.length = length
        self.pieces = [piece for document in documents for piece in pieces(document + bytes([END]), length)]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Tensor:
        return row(np.array([*self.pieces[index], PAD], dtype=np.int16), self.length)


def row(values: np.ndarray, length: int) -> Tensor:
    """At most ``length`` values, cut before a character that is not whole, and padded; one value more tells whether it is."""
    kept = min(len(values), length)
    while kept and kept < len(values) and values[kept] >= 0 and values[kept] & 0xC0 == 0x80:
        kept -= 1
    out = torch.full((length,), PAD, dtype=torch.int64)
    out[:kept] = torch.from_numpy(values[:kept].astype(np.int64))
    return out


def collate(rows: Sequence[Tensor]) -> Batch:
    """Rows ``[L]`` as a batch."""
    return {"signal": torch.stack(list(rows))}


class TextDataModule(L.LightningDataModule):
    """Rows of bytes, as :class:`Batch`.

    Args:
        train: Documents to train on.
        valid: Documents to validate on, each byte once.
        length: Bytes of a row.
        batch_size: Rows per batch and device.
        num_workers: Processes that prepare batches.
        examples_per_epoch: Rows per epoch over all devices; by default one from each line.
        seed: Of the order.

    Raises:
        ValueError: For numbers out of range.
    """

    def __init__(
        self,
        train: TextSource,
        valid: TextSource,
        *,
        length: int = 512,
        batch_size: int = 16,
        num_workers: int = 0,
        examples_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(8, length=length)
        at_least(1, batch_size=batch_size, examples_per_epoch=examples_per_epoch)
        at_least(0, num_workers=num_workers)
        self.sources = {"train": train, "valid": valid}
        self.length, self.batch_size, self.num_workers = length, batch_size, num_workers
        self.examples_per_epoch, self.seed = examples_per_epoch, seed
        self.documents: dict[str, list[bytes]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read what this stage needs."""
        for name in ("train", "valid") if stage in (None, "fit") else ("valid",):
            if name not in self.documents:
                self.documents[name] = self.sources[name].documents()

    def train_dataloader(self) -> ResumableLoader:
        """Windows in random order, going on from epoch to epoch."""
        data = Windows(self.documents["train"], self.length, self.seed)
        count = self.examples_per_epoch or len(data)
        return ResumableLoader(data, self.batch_size, count, self.num_workers, collate=collate)

    def val_dataloader(self) -> DataLoader:
        """The validation documents in their order."""
        data = Pieces(self.documents["valid"], self.length)
        return loader(data, self.num_workers, collate, batch_size=self.batch_size)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file() and file.name != files.DOCUMENTS)
    return sorted(file for file in found if file.suffix.lower() in files.EXTENSIONS)
