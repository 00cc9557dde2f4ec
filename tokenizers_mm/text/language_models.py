"""Language models of text by name: what a text costs, whatever a model reads it as."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tokenizers_mm.text.ngram import ByteNGram
from tokenizers_mm.weights import CONFIG, read_config

ROW = 4096  # bytes that a network sees at a time, cut at line ends


@functools.lru_cache(maxsize=4)
def shipped(name: str) -> ByteNGram:
    """A model of bytes that ships, or one in a folder."""
    from tokenizers_mm import registry  # above the wings: what is found by name

    folder = registry.data_path("checkpoints") / name
    return ByteNGram.from_pretrained(name if Path(name).is_dir() or not folder.is_dir() else folder)


def load_cost(weights: Path) -> Callable[[str], float]:
    """What a language model says of texts: a function that gives the cost of one in nats.

    Args:
        weights: ``model.safetensors`` of a :class:`ByteNGram` or of a language model of this wing, ``config.json`` beside it.

    Raises:
        ValueError: If it is of neither.
    """
    from tokenizers_mm import text as wing
    from tokenizers_mm.text.model import TextLM

    name = read_config(weights.parent / CONFIG).get("class")
    if name == ByteNGram.__name__:
        counts = ByteNGram.from_pretrained(weights.parent)
        return lambda text: float(counts.nats(text.encode("utf-8")).sum())
    found = getattr(wing, str(name), None)
    if not (isinstance(found, type) and issubclass(found, TextLM)):
        raise ValueError(f"{weights.parent}: class {name!r} is no language model of text")
    network = found.from_pretrained(weights.parent)
    return lambda text: _cost(network, text)


def rows(data: bytes, limit: int = ROW) -> Iterator[bytes]:
    """Pieces of at most ``limit`` bytes, cut after lines where there are any, else after characters."""
    at = 0
    while at < len(data):
        end = min(at + limit, len(data))
        if end < len(data):
            line = data.rfind(b"\n", at, end) + 1
            while not line and end > at + 1 and data[end] & 0xC0 == 0x80:
                end -= 1
            end = line or end
        yield data[at:end]
        at = end


@torch.no_grad()
def _cost(network: object, text: str) -> float:
    from tokenizers_mm.text.model import TextLM
    from tokenizers_mm.text.rows import signal_of

    assert isinstance(network, TextLM)
    return sum(float(network.score(signal_of([row], end=False)).nats.sum()) for row in rows(text.encode("utf-8")))
