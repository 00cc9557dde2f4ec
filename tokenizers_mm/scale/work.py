"""The work of bulk tokenization: signals in, items of tokens out, in order; who reads, drives and writes is left to others."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from torch import Tensor

from tokenizers_mm import checks
from tokenizers_mm.codec import Codec
from tokenizers_mm.labels import Labels
from tokenizers_mm.scale.columns import Item, Label
from tokenizers_mm.scale.shards import ShardWriter
from tokenizers_mm.signals import Signal, batched, extents
from tokenizers_mm.tokens import Tokens

BROKEN = (ValueError, TypeError, OSError, RuntimeError)
"""What one bad input raises; the others go on."""


@dataclass(frozen=True)
class Loaded:
    """A signal that was read.

    Args:
        signal: A tensor ``[C, ...]`` or a string; or, where it is too long to hold, the consecutive pieces ``[C, n]`` of one.
        labels: Names of its channels, and its clock.
    """

    signal: Signal | Iterator[Tensor]
    labels: Labels = field(default_factory=Labels)

    @property
    def is_long(self) -> bool:
        """Whether it comes in pieces."""
        return not isinstance(self.signal, (Tensor, str))


Source: TypeAlias = Signal | Callable[[], Loaded]


class Example(NamedTuple):
    """What becomes an item: its key, its signal or a function that reads it, its class."""

    key: str
    source: Source
    label: Label = None


class Broken(NamedTuple):
    """An input that has no tokens, and why."""

    key: str
    error: str


@dataclass
class Tally:
    """What a run did.

    Args:
        items: Inputs that were tokenized.
        done_before: Inputs that were there already.
        steps: Token steps.
        bits: What the ids cost at log2 of their codebooks' sizes.
        broken: Inputs that were left out.
        elapsed: Seconds of work.
    """

    items: int = 0
    done_before: int = 0
    steps: int = 0
    bits: float = 0.0
    broken: int = 0
    elapsed: float = 0.0


def tokenize(
    examples: Iterable[Example | tuple[str, Source, Label]],
    codec: Codec,
    writer: ShardWriter,
    *,
    done: Collection[str] = frozenset(),
    batch_size: int = 16,
    window: float = 10.0,
    on_broken: Callable[[Broken], None] = lambda _: None,
) -> Tally:
    """Tokenize signals and write their tokens, in the order of the signals.

    Args:
        examples: Keys, signals (or functions that read them) and classes; read one after another as they are needed.
        codec: What makes the tokens.
        writer: Where they go; it is left open.
        done: Keys that are left out.
        batch_size: Signals that are encoded together.
        window: Seconds encoded at a time of a signal that comes in pieces.
        on_broken: Told of every input that cannot be read or encoded.

    Returns:
        What was done.

    Raises:
        ValueError: If the tokens are none that shards hold.
    """
    tally, start = Tally(), time.perf_counter()

    def fresh() -> Iterator[Example | tuple[str, Source, Label]]:
        for example in examples:
            if example[0] in done:
                tally.done_before += 1
            else:
                yield example

    for result in encode_all(fresh(), codec, batch_size=batch_size, window=window):
        if isinstance(result, Broken):
            tally.broken += 1
            on_broken(result)
            continue
        writer.write(result)
        tally.items += 1
        tally.steps += int(result.tokens.lengths[0])
        tally.bits += float(result.tokens.bits[0])
    tally.elapsed = time.perf_counter() - start
    return tally


def broken_list(path: Path) -> Callable[[Broken], None]:
    """Lists broken inputs in a file, a key and an error in each row; that of an earlier run is removed."""
    path.unlink(missing_ok=True)

    def add(broken: Broken) -> None:
        with path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerow(broken)

    return add


def encode_all(
    examples: Iterable[Example | tuple[str, Source, Label]],
    codec: Codec,
    *,
    batch_size: int = 16,
    window: float = 10.0,
) -> Iterator[Item | Broken]:
    """Items of tokens, or what is broken, in the order of the examples.

    Signals of one size are encoded together; no more than ``batch_size`` are in memory, and of a long one ``window`` seconds.
    Arguments are those of :func:`tokenize`.
    """
    checks.at_least(1, batch_size=batch_size)
    remaining, rest = map(Example._make, examples), True
    while rest:
        waiting: list[tuple[Example, Loaded | Broken]] = []
        long: tuple[Example, Loaded] | None = None
        for example in islice(remaining, batch_size):
            loaded = _load(example)
            if isinstance(loaded, Loaded) and loaded.is_long:
                long = (example, loaded)
                break
            waiting.append((example, loaded))
        rest = long is not None or len(waiting) == batch_size
        yield from _encode_batch(waiting, codec)
        if long is not None:
            yield _encode_long(*long, codec, window)


def _load(example: Example) -> Loaded | Broken:
    if not callable(example.source):
        return Loaded(example.source)
    try:
        return example.source()
    except BROKEN as error:
        return _broken(example, error)


def _encode_batch(waiting: Sequence[tuple[Example, Loaded | Broken]], codec: Codec) -> Iterator[Item | Broken]:
    """Each example's item, those of equal sizes encoded together."""
    groups: dict[object, dict[int, tuple[Example, Loaded]]] = {}
    for i, (example, loaded) in enumerate(waiting):
        if isinstance(loaded, Loaded):
            groups.setdefault(_group(loaded.signal, codec), {})[i] = example, loaded
    tokens: dict[int, Tokens | Broken] = {}
    for members in groups.values():
        tokens |= zip(members, _encode(list(members.values()), codec), strict=True)
    for i, (example, loaded) in enumerate(waiting):
        found = loaded if isinstance(loaded, Broken) else tokens[i]
        yield found if isinstance(found, Broken) else Item(example.key, found, example.label)


def _group(signal: Signal, codec: Codec) -> object:
    """Signals that give the same can be one batch without encoding padding."""
    if isinstance(signal, str):
        return str
    return extents(signal)[:-1] if codec.padding_safe else extents(signal)


def _encode(group: Sequence[tuple[Example, Loaded]], codec: Codec) -> list[Tokens | Broken]:
    """Tokens of each; where a batch fails, each for itself, so that only the bad one does."""
    try:
        found = codec.encode(*batched([loaded.signal for _, loaded in group], codec.device)).to("cpu")
        return [loaded.labels.put(found[i]) for i, (_, loaded) in enumerate(group)]
    except BROKEN as error:
        if len(group) == 1:
            return [_broken(group[0][0], error)]
    return [_encode([each], codec)[0] for each in group]


def _encode_long(example: Example, loaded: Loaded, codec: Codec, window: float) -> Item | Broken:
    try:
        pieces = (piece.to(codec.device) for piece in loaded.signal)
        tokens = loaded.labels.put(codec.encode_long(pieces, window_seconds=window).to("cpu"))
    except BROKEN as error:
        return _broken(example, error)
    return Item(example.key, tokens, example.label)


def _broken(example: Example, error: Exception) -> Broken:
    return Broken(example.key, " ".join(f"{type(error).__name__}: {error}".split()))
