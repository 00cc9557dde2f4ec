"""Results so far, on disk: an evaluation that was killed goes on where it stopped, and gives the same numbers.

One JSON-lines file per codec and condition, named after everything that its numbers depend on, so that a file is only ever read
by the evaluation that would write the same. A line is one finished item; the half line of a killed process is cut off.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from tokenizers_mm import bitstream
from tokenizers_mm.evaluation.keep import slug
from tokenizers_mm.evaluation.metric import Features
from tokenizers_mm.evaluation.report import ItemResult
from tokenizers_mm.tokens import Tokens


@dataclass(frozen=True)
class Record:
    """All that an evaluation goes on with of one item.

    Args:
        item: Its result.
        tokens: Its ids, a batch of one; None for a baseline or a failed item.
        features: What metrics of the whole set combine, by metric key.
    """

    item: ItemResult
    tokens: Tokens | None = None
    features: dict[str, Features] = field(default_factory=dict)


def digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


class Store:
    """The records of one codec under one condition.

    Args:
        folder: Where the file is; None keeps nothing.
        codec: Name of the codec.
        condition: Name of the condition.
        facts: Everything else that the numbers depend on.
    """

    def __init__(self, folder: Path | None, codec: str, condition: str, facts: Mapping[str, Any]) -> None:
        name = f"{slug(codec)}-{slug(condition)}-{digest(facts)[:16]}.jsonl"
        self.path = None if folder is None else folder / name

    def load(self) -> dict[str, Record]:
        """Finished items by name; whatever follows the last whole line is cut off the file."""
        if self.path is None or not self.path.is_file():
            return {}
        records, good = {}, 0
        with open(self.path, "r+b") as file:
            for line in file:
                try:
                    record = _parse(line)
                except (ValueError, KeyError, TypeError):
                    break
                records[record.item.name] = record
                good += len(line)
            file.truncate(good)
        return records

    def append(self, record: Record) -> None:
        """Add a finished item; one that failed is left to the next run."""
        if self.path is None or record.item.error is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tokens = None if record.tokens is None else base64.b64encode(bitstream.dumps(record.tokens)).decode()
        features = {key: [_pack(x) for x in pair] for key, pair in record.features.items()}
        line = json.dumps({"item": asdict(record.item), "tokens": tokens, "features": features}, ensure_ascii=False)
        with open(self.path, "ab", buffering=0) as file:  # one write of the whole line
            file.write(line.encode() + b"\n")
            os.fsync(file.fileno())


@cache
def _adapter() -> TypeAdapter[ItemResult]:
    return TypeAdapter(ItemResult)


def _parse(line: bytes) -> Record:
    if not line.endswith(b"\n"):
        raise ValueError("half a line")
    found = json.loads(line)
    tokens = None if found["tokens"] is None else bitstream.loads(base64.b64decode(found["tokens"]))
    features = {key: (_unpack(pair[0]), _unpack(pair[1])) for key, pair in found["features"].items()}
    return Record(_adapter().validate_python(found["item"]), tokens, features)


def _pack(x: torch.Tensor) -> str:
    file = io.BytesIO()
    np.save(file, x.numpy(), allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _unpack(text: str) -> torch.Tensor:
    return torch.from_numpy(np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False))
