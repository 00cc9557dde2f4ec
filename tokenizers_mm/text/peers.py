"""Public packages to compare speed with: hat-splitter, which HAT's authors maintain, and the ``tokenizers`` library as it is."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.contender import Contender, Peer
from tokenizers_mm.text.subword import SubwordCodec

_SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sta", "ter", "ve", "xo", "zi", "ün", "ño", "да", "ни", "的", "水")
_MARKS = (",", ".", "!", "?", ";", ":", "-", "'")


def signals(batch: int, size: Sequence[int]) -> list[str]:
    """Made-up texts of about ``size[0]`` UTF-8 bytes: words of which few are frequent and many rare, as in languages."""
    return [_text(seed, size[0]) for seed in range(batch)]


@functools.lru_cache(maxsize=16)
def _text(seed: int, size: int) -> str:
    chance = random.Random(seed)
    words = ["".join(chance.choices(_SYLLABLES, k=chance.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]  # Zipf's law

    drawn = chance.choices(words, weights, k=size // 5)
    pieces = [word + (chance.choice(_MARKS) if chance.random() < 0.12 else "") for word in drawn]
    lines = [" ".join(pieces[start : start + 25]) for start in range(0, len(pieces), 25)]
    return "\n".join(lines).encode("utf-8")[:size].decode("utf-8", "ignore")


def _nothing_to_train(x: Any) -> Tensor:
    raise ValueError("splitters and tokenizers have nothing to train by gradients")


def _without(package: str, name: str) -> str | None:
    return None if find_spec(name) else f"its package is not installed: pip install {package}"


def _hat_splitter() -> Contender:
    from hat_splitter import HATSplitter  # type: ignore[attr-defined]  # its stubs name it otherwise

    splitter = HATSplitter()

    def encode(texts: list[str]) -> list[list[bytes]]:
        return [splitter.split_with_limit(text, 100) for text in texts]

    return Contender(nn.Module(), None, 1, encode, None, _nothing_to_train)


def _tokenizers() -> Contender:
    held: dict[str, Any] = {}

    def adopt(codec: Codec) -> None:
        assert isinstance(codec, SubwordCodec)
        from tokenizers import Tokenizer

        held["tokenizer"] = Tokenizer.from_buffer(codec.file.numpy().tobytes())

    def encode(texts: list[str]) -> Any:
        if not held:
            from tokenizers_mm import registry  # above the wings: what is found by name

            adopt(registry.load("bpe-8k"))
        return held["tokenizer"].encode_batch_fast(texts, add_special_tokens=False)

    def decode(codes: Any) -> Any:
        return held["tokenizer"].decode_batch([found.ids for found in codes], skip_special_tokens=False)

    def ids(codes: Any) -> Tensor:
        return torch.tensor([found.ids for found in codes])

    return Contender(nn.Module(), None, 1, encode, decode, _nothing_to_train, adopt=adopt, ids=ids)


PEERS: dict[str, Peer] = {
    "hat-splitter": Peer(
        "HATSplitter of hat-splitter, words of at most 100 bytes",
        _hat_splitter,
        lambda: _without("hat-splitter", "hat_splitter"),
    ),
    "tokenizers": Peer(
        "the same tokenizer file in the tokenizers library, its fastest call",
        _tokenizers,
        lambda: _without("tokenizers", "tokenizers"),
    ),
}
