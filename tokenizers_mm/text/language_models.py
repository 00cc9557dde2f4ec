"""Language models of text by name: what a text costs, whatever a model reads it as."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tokenizers_mm.text.ngram import ByteNGram
from tokenizers_mm.weights import CONFIG, read_config

if TYPE_CHECKING:
    from tokenizers_mm.text.byte_exact import ByteExactLM, Bytes

_LEAST = 1e-7  # probability of a byte that a model rules out
ROW = 4096  # bytes that a network sees at a time, cut at line ends


@functools.lru_cache(maxsize=4)
def shipped(name: str) -> ByteNGram:
    """A model of bytes that ships, or one in a folder."""
    from tokenizers_mm import registry  # above the wings: what is found by name

    folder = registry.data_path("checkpoints") / name
    return ByteNGram.from_pretrained(name if Path(name).is_dir() or not folder.is_dir() else folder)


class NetworkCoder:
    """A network as a model of bytes for entropy coding, whatever it reads texts as.

    Coding is done byte by byte and with the same operations both ways; another machine may round otherwise and fail to decode.

    Args:
        name: A shipped model's, or its folder.
    """

    def __init__(self, name: str) -> None:
        from tokenizers_mm.text.generate import load_model

        self.network = load_model(name)

    def start(self) -> _GoingOn:
        """An empty text."""
        from tokenizers_mm.text.byte_exact import Bytes, byte_exact
        from tokenizers_mm.text.flat import SubwordLM

        # made anew for each text: caches that hold another one could round otherwise
        return _GoingOn(byte_exact(self.network) if isinstance(self.network, SubwordLM) else Bytes(self.network))


class _GoingOn:
    def __init__(self, model: Bytes | ByteExactLM) -> None:
        self.model: Any = model
        self.states = self.model.start_batch([b""])

    def probabilities(self) -> np.ndarray:
        """Of each next byte, float64 ``[256]``: no byte is impossible to code."""
        p = np.exp(self.model.logprobs_batch(self.states)[0][:256])
        p = np.maximum(p / p.sum(), _LEAST)
        return p / p.sum()

    def push(self, byte: int) -> None:
        """Add a byte."""
        self.states = self.model.advance_batch(self.states, [byte])


@functools.lru_cache(maxsize=4)
def network_coder(name: str) -> NetworkCoder:
    """A :class:`NetworkCoder`, loaded once."""
    return NetworkCoder(name)


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


@torch.no_grad()
def _cost(network: object, text: str) -> float:
    from tokenizers_mm.text.model import TextLM
    from tokenizers_mm.text.rows import pieces, signal_of

    assert isinstance(network, TextLM)
    return sum(
        float(network.score(signal_of([row], end=False)).nats.sum()) for row in pieces(text.encode("utf-8"), ROW)
    )
