"""Coders: what an evaluation runs, a codec or a classical baseline, timed, behind one method."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from tokenizers_mm import bitstream
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.baseline import Baseline
from tokenizers_mm.evaluation.stability import stability
from tokenizers_mm.signals import Signal, batched, extents, fitted
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.weights import digest

T = TypeVar("T")


@dataclass(frozen=True)
class Coded:
    """One signal that went through a coder.

    Args:
        estimate: Its reconstruction, shaped like the signal.
        tokens: Its ids, a batch of one; None from a baseline.
        bits: Nominal cost.
        file_bytes: Real cost.
        encode_seconds: Wall-clock time; of a batch, the share of this signal's length.
        decode_seconds: The same for decoding.
        stability: Share of ids that stay, if asked for.
    """

    estimate: Signal
    tokens: Tokens | None
    bits: float
    file_bytes: int
    encode_seconds: float
    decode_seconds: float
    stability: dict[str, float | None] = field(default_factory=dict)


class Coder(ABC):
    """Something that turns signals into bytes and back.

    Attributes:
        name: In tables.
        kind: What it is.
        spec: Rate and channels of the signals that it takes.
        config: What it was built with.
        parameters: Numbers in its network.
        device: Where it runs.
        reading: Options of the wing's file reader that its signals need.
        fingerprint: SHA-256 of everything that its output depends on, but for library versions.
    """

    name: str
    kind: Literal["codec", "detector", "baseline"]
    spec: TokenSpec
    config: dict[str, Any]
    parameters: int
    device: str
    reading: Mapping[str, object] = {}
    fingerprint: str

    @abstractmethod
    def code(self, signals: Sequence[Signal], *, with_stability: bool = False) -> list[Coded]:
        """Encode and decode signals ``[C, ...]`` at the rate of ``spec``, together where that is possible."""

    def prefixes(self, tokens: Tokens) -> list[Tensor]:
        """What the first scale of an item's tokens decodes to, the first two, ... all, each ``[C, ...]``; none without scales."""
        return []


class CodecCoder(Coder):
    """A codec under evaluation."""

    kind = "codec"

    def __init__(self, name: str, codec: Codec) -> None:
        self.name, self.codec, self.spec, self.config = name, codec, codec.spec, codec.config
        self.parameters = sum(p.numel() for p in codec.parameters())
        self.device, self.reading = str(codec.device), codec.reading
        self.fingerprint = codec_fingerprint(codec)
        self._warm = False

    def code(self, signals: Sequence[Signal], *, with_stability: bool = False) -> list[Coded]:
        """Signals that differ at most in their last extent go through the network together."""
        done: list[Coded] = []
        for _, group in groupby(signals, key=lambda signal: extents(signal)[:-1]):
            done += self._code(list(group), with_stability)
        return done

    def prefixes(self, tokens: Tokens) -> list[Tensor]:
        if self.spec.scalable != "scales":
            return []
        counts = range(1, len(self.spec.scales) + 1)
        return [self.codec.decode(tokens.prefix(scales=count))[0].cpu() for count in counts]

    def _code(self, signals: list[Signal], with_stability: bool) -> list[Coded]:
        batch, lengths = batched(signals, self.codec.device)
        if not self._warm:  # first calls allocate and tune; they are not what a signal costs
            self.codec.reconstruct(batch[:1], lengths[:1])
            self._warm = True
        tokens, encode_seconds = self._timed(lambda: self.codec.encode(batch, lengths))
        estimates, decode_seconds = self._timed(lambda: self.codec.decode(tokens))
        coded = []
        for i, (signal, share) in enumerate(zip(signals, (lengths / lengths.sum().clamp(min=1)).tolist(), strict=True)):
            item = tokens[i].to("cpu")
            coded.append(
                Coded(
                    estimate=fitted(estimates[i], signal),
                    tokens=item,
                    bits=float(item.bits[0]),
                    file_bytes=len(bitstream.dumps(item)),
                    encode_seconds=encode_seconds * share,
                    decode_seconds=decode_seconds * share,
                    stability=stability(self.codec, batched([signal])[0], item) if with_stability else {},
                )
            )
        return coded

    def _timed(self, function: Callable[[], T]) -> tuple[T, float]:
        cuda = self.codec.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self.codec.device)
        start = time.perf_counter()
        value = function()
        if cuda:
            torch.cuda.synchronize(self.codec.device)
        return value, time.perf_counter() - start


class BaselineCoder(Coder):
    """A classical coder, at the rate and channels of the codecs that it is compared with."""

    kind = "baseline"

    def __init__(self, name: str, baseline: Baseline, spec: TokenSpec) -> None:
        self.name, self.baseline, self.spec = name, baseline, spec
        self.config: dict[str, Any] = {}
        self.parameters, self.device = 0, "cpu"
        self.fingerprint = hashlib.sha256(f"{baseline.name}: {baseline.definition}".encode()).hexdigest()

    def code(self, signals: Sequence[Signal], *, with_stability: bool = False) -> list[Coded]:
        return [self._code(signal) for signal in signals]

    def _code(self, signal: Signal) -> Coded:
        start = time.perf_counter()
        data = self.baseline.encode(signal, self.spec)
        middle = time.perf_counter()
        decoded = self.baseline.decode(data, self.spec)
        end = time.perf_counter()
        payload = 8.0 * self.baseline.payload(data)
        return Coded(fitted(decoded, signal), None, payload, len(data), middle - start, end - middle)


def codec_fingerprint(codec: nn.Module) -> str:
    """SHA-256 over the class, config and weights of a codec or detector."""
    return digest(type(codec).__name__, getattr(codec, "config", {}), codec.state_dict())
