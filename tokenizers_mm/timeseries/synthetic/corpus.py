"""A corpus of generated series on disk: Parquet shards, written in parallel, the same bytes whatever the number of workers.

A shard is a function of the settings and its number alone and appears whole or not at all, so that a run that was killed goes on
with the shards that are missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tokenizers_mm.checks import at_least
from tokenizers_mm.timeseries.synthetic.sample import LENGTHS, Sample, generate

SETTINGS = "corpus.json"
VERSION = 1
"""Of the generator: a change of what it draws must raise it."""


@dataclass(frozen=True)
class CorpusSettings:
    """What a corpus holds.

    Args:
        series: How many series.
        seed: Of the corpus.
        variates: Least and most variates per series.
        lengths: Least and most steps per series.
        shard_size: Series per shard.

    Raises:
        ValueError: If a number is out of range.
    """

    series: int
    seed: int = 0
    variates: tuple[int, int] = (1, 1)
    lengths: tuple[int, int] = LENGTHS
    shard_size: int = 256

    def __post_init__(self) -> None:
        at_least(1, series=self.series, shard_size=self.shard_size)
        at_least(0, seed=self.seed)
        for name, least in (("variates", 1), ("lengths", 200)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ValueError(f"{name} must be a range from {least} on, got {low} to {high}")

    @property
    def shards(self) -> int:
        """How many files."""
        return -(-self.series // self.shard_size)

    def to_dict(self) -> dict[str, Any]:
        """As ``corpus.json`` holds it."""
        return json.loads(json.dumps({"version": VERSION, **asdict(self)}))


def write_corpus(
    folder: str | Path, settings: CorpusSettings, *, workers: int = 1, progress: bool = False
) -> list[Path]:
    """Generate a corpus, or what is still missing of it.

    Args:
        folder: Where ``corpus.json`` and ``shard-00000.parquet``, ... go.
        settings: What to generate.
        workers: Processes; 1 generates in this one.
        progress: Whether to show a bar.

    Returns:
        All shards in order.

    Raises:
        ValueError: If the folder holds a corpus of other settings, or ``workers`` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder / SETTINGS, settings)
    paths = [shard_path(folder, number) for number in range(settings.shards)]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    with _bar(progress) as bar:
        task = bar.add_task("series", total=settings.series)
        bar.advance(task, sum(_count(settings, n) for n in range(settings.shards) if n not in set(missing)))
        for number in _written(paths, missing, settings, workers):
            bar.advance(task, _count(settings, number))
    return paths


def read_settings(folder: str | Path) -> CorpusSettings:
    """The settings of a corpus.

    Raises:
        FileNotFoundError: If there is no corpus there.
        ValueError: If its ``corpus.json`` is wrong, or of another version of the generator.
    """
    path = Path(folder) / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no corpus: there is no {SETTINGS} (make one: mmtok corpus)")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found.pop("version")
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
        }
        settings = CorpusSettings(**plain)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a corpus: {error}") from None
    if version != VERSION:
        raise ValueError(f"{path} is of version {version} of the generator, this is version {VERSION}")
    return settings


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.parquet"


def read_shard(path: Path) -> Iterator[Sample]:
    """The samples of one shard.

    Raises:
        ValueError: If it is no shard of a corpus.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from None
    if table.column_names != list(_columns([])):
        raise ValueError(f"{path} is no shard of a corpus: its columns are {table.column_names}")
    for row in range(table.num_rows):
        shape = (table["variates"][row].as_py(), -1)
        series, normal, labels = (table[name][row].values.to_numpy() for name in ("series", "normal", "labels"))
        attributes = json.loads(table["attributes"][row].as_py())
        yield Sample(series.reshape(shape), normal.reshape(shape), labels, attributes)


def _claim(path: Path, settings: CorpusSettings) -> None:
    """Make a folder that of these settings."""
    if path.is_file() and (found := read_settings(path.parent)) != settings:
        raise ValueError(f"{path.parent} holds another corpus ({found}); give another folder, or delete it")
    if not path.is_file():
        _replace(path, (json.dumps(settings.to_dict(), indent=1) + "\n").encode())


def _written(paths: list[Path], missing: list[int], settings: CorpusSettings, workers: int) -> Iterator[int]:
    """Numbers of shards as they are done."""
    if workers == 1 or len(missing) < 2:
        for number in missing:
            yield _write_shard(paths[number], number, settings)
        return
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_write_shard, paths[number], number, settings) for number in missing]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_shard(path: Path, number: int, settings: CorpusSettings) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = number * settings.shard_size
    rows = range(first, first + _count(settings, number))
    samples = [generate(settings.seed, index, settings.variates, settings.lengths) for index in rows]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(_columns(samples)), sink, compression="zstd", use_dictionary=False)
    _replace(path, sink.getvalue())
    return number


def _columns(samples: list[Sample]) -> dict[str, Any]:
    import pyarrow as pa

    return {
        "variates": pa.array([len(s.series) for s in samples], pa.int32()),
        "series": pa.array([s.series.ravel() for s in samples], pa.list_(pa.float32())),
        "normal": pa.array([s.normal.ravel() for s in samples], pa.list_(pa.float32())),
        "labels": pa.array([s.labels for s in samples], pa.list_(pa.uint8())),
        "attributes": pa.array([json.dumps(s.attributes, default=_plain) for s in samples], pa.string()),
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _count(settings: CorpusSettings, number: int) -> int:
    """Series in a shard."""
    return min(settings.shard_size, settings.series - number * settings.shard_size)


def _replace(path: Path, data: Any) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _bar(show: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not show)
