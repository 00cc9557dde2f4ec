"""Contender: a network whose speed is measured, a codec of ours or a peer, and how a wing declares its peers.

A wing's ``peers.py`` holds ``PEERS: dict[str, Peer]``. Speed doesn't depend on weights, so that peers are random ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm import registry
from tokenizers_mm.cards import Card
from tokenizers_mm.codec import Codec


@dataclass(frozen=True)
class Contender:
    """One network, ready to run.

    Args:
        module: All of its weights.
        sample_rate: Hz of its signals.
        channels: Of its signals.
        encode: Signals ``[B, C, N]`` to whatever ``decode`` takes.
        decode: Back to signals.
        loss: Training forward of signals: a scalar that has a gradient for all that is trained by gradients.
        streams: The codec whose sessions are timed; None where there is nothing to stream with.
    """

    module: nn.Module
    sample_rate: float
    channels: int
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]
    loss: Callable[[Tensor], Tensor]
    streams: Codec | None = None


@dataclass(frozen=True)
class Peer:
    """A public codec to compare with.

    Args:
        definition: What exactly is run, in one sentence; stored with every result.
        build: Makes it, with random weights.
        unavailable: Why it cannot run here, or None if it can.
    """

    definition: str
    build: Callable[[], Contender]
    unavailable: Callable[[], str | None]


def codec_contender(card: Card, kbps: float | None = None) -> Contender:
    """The codec of a card, with random weights and the whole contract around them.

    Args:
        card: The card.
        kbps: Bitrate to run at, where it is scalable; by default all codebooks.

    Raises:
        ValueError: If its signals have no rate, or it cannot run at that bitrate.
    """
    codec = registry.build(card).eval()
    codec = codec if kbps is None else codec.with_bitrate(kbps)
    if codec.spec.sample_rate is None or codec.signal_ndim != 3:
        raise ValueError(
            f"real-time factors need signals [B, C, N] with a sample rate, which {card.name!r} does not take"
        )

    def loss(x: Tensor) -> Tensor:
        output = codec(x)
        return F.l1_loss(output.reconstruction, x) + output.quantizer_loss

    streams = codec if codec.streamable else None
    return Contender(codec, codec.spec.sample_rate, codec.spec.channels or 1, codec.encode, codec.decode, loss, streams)
