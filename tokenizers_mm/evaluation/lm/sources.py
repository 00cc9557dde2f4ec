"""Tokens that language models are measured on: read from shards or files, and how much signal they stand for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from tokenizers_mm.scale.columns import Label
from tokenizers_mm.scale.shards import ShardReader, find_shards
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.transcode import SUFFIX, read_tokens


def read(
    source: Path, *, most_ids: int | None = None, most_items: int | None = None
) -> tuple[list[Tokens], str | None]:
    """Items one by one, and the name of the codec that made them, where that is known.

    Args:
        source: A folder of shards or of ``.mmt`` files, or one of either.
        most_ids: Stop once there are as many.
        most_items: Likewise.

    Raises:
        ValueError: If there are no tokens, or tokens of different specs.
    """
    items: list[Tokens] = []
    ids, codec = 0, None
    for tokens, writer in _all(source):
        if items and tokens.spec != items[0].spec:
            raise ValueError(f"{source} must hold tokens of one spec, got {items[0].spec} and {tokens.spec}")
        codec = codec or writer
        for item in tokens:
            if (most_items is not None and len(items) >= most_items) or (most_ids is not None and ids >= most_ids):
                return items, codec
            ids += item.ids.numel()
            items.append(item)
    if not ids:
        raise ValueError(f"{source} must hold tokens, got none")
    return items, codec


def read_labels(source: Path, count: int) -> list[Label]:
    """Classes of the first ``count`` items that :func:`read` gives; None for those of files, which hold none."""
    found = [label for path in _shards(source) for label in ShardReader(path).read_labels()][:count]
    return found or [None] * count


def _shards(source: Path) -> list[Path]:
    return find_shards(source) if source.is_dir() else [source] if source.suffix == ".parquet" else []


def _all(source: Path) -> Iterator[tuple[Tokens, str | None]]:
    if shards := _shards(source):
        for path in shards:
            shard = ShardReader(path)
            yield from ((item.tokens, shard.origin.codec) for item in shard)
        return
    yield from map(read_tokens, sorted(source.rglob(f"*{SUFFIX}")) if source.is_dir() else [source])


def batches(items: list[Tokens], ids: int = 2**15) -> Iterator[Tokens]:
    """Items in order, joined to batches of about so many ids; what decoding alone needs is left out."""
    batch: list[Tokens] = []
    for item in items:
        bare = replace(item, side={}, shared={}, names=None)
        longest = max(bare.ids.numel(), *(other.ids.numel() for other in batch), 1)
        if batch and longest * (len(batch) + 1) > ids:
            yield Tokens.cat(batch)
            batch = []
        batch.append(bare)
    if batch:
        yield Tokens.cat(batch)


def extent(item: Tokens) -> float:
    """What rates refer to: seconds (of each row, where a signal's channels are), or samples (pixels, bytes) without time.

    Raises:
        ValueError: If the tokens do not say how long their signal is.
    """
    size = item.side["size"][0].tolist() if "size" in item.side else _size(item.spec, item.shapes[0].tolist())
    rate = item.spec.sample_rate
    return float(math.prod(size)) if rate is None else math.prod(size[:-1]) * size[-1] / rate


def _size(spec: TokenSpec, shape: list[int]) -> list[int]:
    if spec.hop is None:
        raise ValueError(f"the content of {spec.modality} decides its token count: tokens must have a size in side")
    others = [steps * hop for steps, hop in zip(shape[:-1], spec.hop, strict=False)]
    return [*others, spec.samples(shape[-1])]


def fingerprint(items: list[Tokens]) -> str:
    """SHA-256 over grids and ids."""
    total = hashlib.sha256()
    for item in items:
        total.update(repr(item.shapes[0].tolist()).encode() + item.ids.to(torch.int64).numpy().tobytes())
    return total.hexdigest()
