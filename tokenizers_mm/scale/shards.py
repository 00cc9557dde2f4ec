"""Shards: Parquet files of tokens that any program reads, written whole or not at all and read in constant memory.

A shard holds one codec's tokens. Its metadata say which codec's: name, spec, and a fingerprint of configuration and weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tokenizers_mm import checks
from tokenizers_mm.scale.columns import NAME, NUMBER, Item, Label, checked, from_row, num_bytes, schema, to_table
from tokenizers_mm.scale.origin import Origin, ShardError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["Item", "Label", "Origin", "ShardError", "ShardReader", "ShardWriter", "find_shards", "read_shard"]

SUFFIX = ".parquet"
_METADATA = b"tokenizers_mm.tokens"
_PART = ".part"
_DIGITS = "[0-9]" * 5 + "*"
_GROUP_BYTES, _GROUP_ITEMS = 2**22, 2**11


class ShardWriter:
    """Writes items to ``tokens-00000.parquet``, ``tokens-00001.parquet``, ... of a folder, after those that are there.

    A file has its name only when it is complete: a process that is killed loses the items of the open shard at most.

    Args:
        folder: Where to; made if it does not exist.
        origin: Whose tokens they are.
        shard_items: Most items of a shard.
        shard_bytes: A shard ends once its ids and side tensors take this many bytes in memory.
        name: First part of the files' names; processes that write to one folder at a time need different ones.

    Raises:
        ShardError: If the folder holds shards of another codec.
        ImportError: If pyarrow is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        origin: Origin,
        *,
        shard_items: int = 100_000,
        shard_bytes: int = 2**28,
        name: str = "tokens",
    ) -> None:
        checks.at_least(1, shard_items=shard_items, shard_bytes=shard_bytes)
        _parquet()
        self.folder, self.origin, self.name = Path(folder), origin, name
        self.shard_items, self.shard_bytes = shard_items, shard_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in find_shards(self.folder):
            ShardReader(path, origin)
        for left in self.folder.glob(f".{name}-{_DIGITS}{SUFFIX}{_PART}"):
            left.unlink()
        taken = [int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{name}-{_DIGITS}{SUFFIX}")]
        self._number = max(taken, default=-1) + 1
        self._file: pq.ParquetWriter | None = None
        self._group: list[Item] = []
        self._group_bytes = self._items = self._bytes = 0

    def write(self, item: Item) -> None:
        """Add an item; it is on disk for good when its shard is full, or at :meth:`close`.

        Raises:
            TypeError, ValueError: As :func:`tokenizers_mm.scale.columns.checked`; nothing is added then.
        """
        item = checked(item, self.origin.spec)
        size = num_bytes(item)
        self._group.append(item)
        self._group_bytes += size
        self._items += 1
        self._bytes += size
        if self._items >= self.shard_items or self._bytes >= self.shard_bytes:
            self.close()
        elif self._group_bytes >= _GROUP_BYTES or len(self._group) >= _GROUP_ITEMS:
            self._flush()

    def close(self) -> None:
        """Finish the open shard, if there is one; more can be written after."""
        self._flush()
        if self._file is None:
            return
        self._file.close()
        self._file = None
        with open(self._part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self._part, self.folder / f"{self.name}-{self._number:05d}{SUFFIX}")
        self._number += 1
        self._items = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the open shard also after an error: its items are whole."""
        self.close()

    @property
    def _part(self) -> Path:
        return self.folder / f".{self.name}-{self._number:05d}{SUFFIX}{_PART}"

    def _flush(self) -> None:
        """Write the items in memory as a row group."""
        if not self._group:
            return
        if self._file is None:
            self._file = _parquet().ParquetWriter(
                self._part,
                schema(self.origin.spec).with_metadata({_METADATA: self.origin.to_json()}),
                compression="zstd",
                write_page_checksum=True,
            )
        self._file.write_table(to_table(self._group, self.origin.spec), row_group_size=len(self._group))
        self._group, self._group_bytes = [], 0


class ShardReader:
    """One shard; iterating gives its :class:`Item` s in order, one row group in memory at a time.

    Args:
        path: The file.
        wanted: Whose tokens it should hold; by default anybody's.

    Raises:
        FileNotFoundError: If there is no such file.
        ShardError: If it is no intact shard, or another codec's.
        ImportError: If pyarrow is not installed.
    """

    def __init__(self, path: str | Path, wanted: Origin | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no shard at {path}")
        metadata = self._reading(lambda file: file.metadata)
        found = self._reading(lambda file: file.schema_arrow)
        if _METADATA not in (found.metadata or {}):
            raise ShardError(
                f"{path} is a Parquet file, but no shard of tokens: it lacks the metadata {_METADATA.decode()}"
            )
        try:
            self.origin = Origin.from_json(found.metadata[_METADATA])
        except (ValueError, TypeError) as error:
            raise ShardError(f"{path} is no shard that can be read: {error}") from None
        for field in schema(self.origin.spec):
            if field.name not in found.names or found.field(field.name).type != field.type:
                kind = found.field(field.name).type if field.name in found.names else "none"
                raise ShardError(f"{path} must have a column {field.name!r} of type {field.type}, got {kind}")
        if wanted is not None:
            self.origin.check(wanted, self.path)
        self.group_sizes = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))

    def __len__(self) -> int:
        return sum(self.group_sizes)

    def __iter__(self) -> Iterator[Item]:
        for number in range(len(self.group_sizes)):
            yield from self.group(number)

    def group(self, number: int) -> Group:
        """A row group, in memory.

        Raises:
            ShardError: If it is damaged.
        """
        names = [*schema(self.origin.spec).names]
        return Group(self, self._reading(lambda file: file.read_row_group(number, columns=names)))

    def read_keys(self) -> list[str]:
        """Names of all items; nothing else is read."""
        return self._column("key")

    def read_labels(self) -> list[Label]:
        """Classes of all items; nothing else is read."""
        pairs = zip(self._column(NUMBER), self._column(NAME), strict=True)
        return [name if number is None else number for number, name in pairs]

    def _column(self, name: str) -> list[Any]:
        return self._reading(lambda file: file.read(columns=[name])).column(name).to_pylist()

    def _reading(self, read: Any) -> Any:
        """What ``read`` makes of the open file; damage of any kind is a :class:`ShardError`."""
        import pyarrow as pa

        try:
            with _parquet().ParquetFile(self.path, page_checksum_verification=True) as file:
                return read(file)
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{self.path} is not an intact Parquet file: {_line(error)}") from None


class Group:
    """Items of a row group, made from its columns one by one."""

    def __init__(self, shard: ShardReader, table: pa.Table) -> None:
        self.path, self.spec, self.table = shard.path, shard.origin.spec, table
        for name in ("key", "ids", "shape", "side"):
            if table.column(name).null_count:
                raise ShardError(f"{shard.path} must have a value of {name!r} for every item")

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        """Item ``index``; a :class:`ShardError` if its ids are outside their codebooks or its columns contradict each other."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a row group of {len(self)}")
        row = self._rows[index]
        try:
            start, stop = self._offsets[index : index + 2]
            return from_row(self._ids[start:stop], row, self.spec)
        except (ValueError, TypeError) as error:
            raise ShardError(f"{self.path}, item {row['key']!r}: {error}") from None

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return self.table.drop_columns("ids").to_pylist()

    @cached_property
    def _lists(self) -> pa.ListArray:
        return self.table.column("ids").combine_chunks()

    @cached_property
    def _offsets(self) -> list[int]:
        return self._lists.offsets.to_pylist()

    @cached_property
    def _ids(self) -> Any:
        return self._lists.values.to_numpy()


def find_shards(folder: str | Path) -> list[Path]:
    """Shards of a folder, in order; none if it does not exist."""
    return sorted(path for path in Path(folder).glob(f"*{SUFFIX}") if not path.name.startswith("."))


def read_shard(path: str | Path, wanted: Origin | None = None) -> Iterator[Item]:
    """Items of a shard in order, in constant memory; arguments and errors are those of :class:`ShardReader`."""
    return iter(ShardReader(path, wanted))


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ImportError("shards of tokens are Parquet files, which need pyarrow: pip install pyarrow") from None
    return parquet


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
