"""Contender: a network whose speed is measured, a codec of ours or a peer, and how a wing declares its peers.

A wing's ``peers.py`` holds ``PEERS: dict[str, Peer]``. Speed doesn't depend on weights, so that peers are random ones; those
that are the same network as a codec can take over its weights, so that their ids must be the same too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
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
        sample_rate: Hz of its signals; None where there is no time.
        channels: Of its signals.
        encode: Signals ``[B, C, ...]`` to whatever ``decode`` takes.
        decode: Back to signals; None for a network that only encodes.
        loss: Training forward of signals: a scalar that has a gradient for all that is trained by gradients.
        streams: The codec whose sessions are timed; None where there is nothing to stream with.
        signal_range: What samples lie in.
        adopt: Takes over the weights of a codec that is the same network; None where it can't.
        ids: Ids ``[B, T]`` of what ``encode`` returned, to compare with a codec's of the same weights.
        signals: Makes so many signals of a size, where noise will not do; a wing's ``peers.py`` has it for all contenders.
    """

    module: nn.Module
    sample_rate: float | None
    channels: int
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Tensor] | None
    loss: Callable[[Tensor], Tensor]
    streams: Codec | None = None
    signal_range: tuple[float, float] = (-1.0, 1.0)
    adopt: Callable[[Codec], None] | None = None
    ids: Callable[[Any], Tensor] | None = None
    signals: Callable[[int, Sequence[int]], Any] | None = None

    def noise(self, batch: int, size: Sequence[int]) -> Any:
        """The same signals always: the wing's own, or ``[batch, channels, *size]`` of weak noise in the middle of the range."""
        if self.signals is not None:
            return self.signals(batch, size)
        generator = torch.Generator().manual_seed(0)
        lowest, highest = self.signal_range
        noise = torch.randn(batch, self.channels, *size, generator=generator)
        return (lowest + highest) / 2 + 0.05 * (highest - lowest) * noise


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
    """The codec of a card, with random weights (or its files, where it has no parameters) and the whole contract around them.

    Args:
        card: The card.
        kbps: Bitrate to run at, where it is scalable; by default all codebooks.

    Raises:
        ValueError: If it cannot run at that bitrate.
    """
    codec = registry.build(card).eval()
    if card.shipped and next(codec.parameters(), None) is None:  # its files are all that it is
        codec = registry.load(card.name)
    codec = codec if kbps is None else codec.with_bitrate(kbps)

    def loss(x: Tensor) -> Tensor:
        output = codec(x)
        return F.l1_loss(output.reconstruction, x) + output.quantizer_loss

    streams = codec if codec.streamable and codec.spec.frame_rate is not None else None
    return Contender(
        codec,
        codec.spec.sample_rate,
        codec.spec.channels or 1,
        codec.encode,
        codec.decode,
        loss,
        streams,
        codec.signal_range or (-1.0, 1.0),
    )
