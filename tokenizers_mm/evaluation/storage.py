"""How fast and how small ids are stored: ``.mmt`` beside the usual ways to write an array."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tokenizers_mm import bitstream, registry
from tokenizers_mm.evaluation.meter import CLOCKS
from tokenizers_mm.tokens import Tokens


@dataclass
class Storage:
    """One way to store a codec's ids.

    Args:
        codec: Whose ids.
        format: How they are stored.
        bits_per_id: Of the file.
        write: Megabytes of ids (2 bytes each) per second.
        read: The same, back.
    """

    codec: str
    format: str
    bits_per_id: float
    write: float
    read: float


def measure_storage(name: str, count: int, rounds: int, clock: str) -> list[Storage]:
    """Store ``count`` ids of a codec, as unevenly distributed as those of speech often are, in turns with other formats."""
    spec, read_clock = registry.get_card(name).spec, CLOCKS[clock]
    generator = torch.Generator().manual_seed(0)
    steps = max(1, count // spec.num_codebooks)
    columns = [
        ((size - 1) * torch.rand(steps, generator=generator).square()).round().long() for size in spec.codebook_sizes
    ]
    grid = torch.tensor([[1] * (len(spec.axes) - 1) + [steps]])
    tokens = Tokens(torch.stack(columns, dim=-1)[None], spec, shapes=grid)
    kind = np.int16 if max(spec.codebook_sizes) <= 2**16 else np.int32
    ids, total = tokens.ids.numpy().astype(kind), steps * spec.num_codebooks
    formats: dict[str, tuple[Callable[[], bytes], Callable[[bytes], Any]]] = {
        "mmt": (lambda: bitstream.dumps(tokens), bitstream.loads),
        "npz": (lambda: _npz(ids), lambda data: np.load(io.BytesIO(data))["ids"]),
        np.dtype(kind).name: (ids.tobytes, lambda data: np.frombuffer(data, kind).copy()),
    }
    files = {key: write() for key, (write, _) in formats.items()}
    seconds: dict[str, list[tuple[float, float]]] = {key: [] for key in formats}
    for _ in range(rounds):
        for key, (write, read) in formats.items():
            start = read_clock()
            write()
            middle = read_clock()
            read(files[key])
            seconds[key].append((middle - start, read_clock() - middle))
    megabytes = 2 * total / 1e6
    return [
        Storage(
            name,
            key,
            8 * len(files[key]) / total,
            *(megabytes / max(statistics.median(times), 1e-9) for times in zip(*found, strict=True)),
        )
        for key, found in seconds.items()
    ]


def _npz(ids: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=ids)
    return buffer.getvalue()
