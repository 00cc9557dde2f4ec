"""Codecs whose networks mix all of a window: a longer recording is cut into windows of a fixed length, each encoded as alone.

The windows of all channels and items go through the network together. Neighbours overlap by as much as a step's window reaches
past its hop, so that the steps of a long recording follow one another as evenly as those of a short one. ``encode_long`` and
``decode_long`` therefore equal ``encode`` and ``decode``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from tokenizers_mm.codec import Codec
from tokenizers_mm.eeg.grid import unpack
from tokenizers_mm.tokens import Tokens

_SAMPLES_AT_ONCE = 2**21


class SegmentedCodec(Codec):
    """A codec of windows; ids of a channel's windows follow one another, and so do the windows' side tensors.

    Attributes:
        window: Samples of a window; less the overlap of :attr:`spec`, whole hops.
    """

    size_dims = 2
    window: int

    @abstractmethod
    def _encode_windows(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Ids ``[M, C, T, Q]`` of windows ``[M, C, n]``, n at most :attr:`window`, and their side tensors ``[M, K]``."""

    @abstractmethod
    def _decode_windows(self, ids: Tensor, side: Mapping[str, Tensor]) -> Tensor:
        """Signals ``[M, C, n]`` of the ids and side tensors of windows."""

    @property
    def stride(self) -> int:
        """Samples from one window's start to the next."""
        return self.window - self.spec.overlap

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        batch, channels, n = x.shape
        whole = max(0, (n - self.window) // self.stride + 1)
        rest = n - whole * self.stride
        parts: list[tuple[Tensor, dict[str, Tensor]]] = []
        if whole:
            windows = rearrange(x.unfold(-1, self.window, self.stride), "b c w n -> (b w) c n")
            at_once = max(1, _SAMPLES_AT_ONCE // (channels * self.window))
            found = [self._encode_windows(piece) for piece in windows.split(at_once)]
            ids = torch.cat([ids for ids, _ in found])
            side = {name: torch.cat([each[name] for _, each in found]) for name in found[0][1]}
            parts.append(
                (
                    rearrange(ids, "(b w) c t q -> b c (w t) q", b=batch),
                    {name: rearrange(value, "(b w) k -> b (w k)", b=batch) for name, value in side.items()},
                )
            )
        if rest > self.spec.overlap or not whole:
            parts.append(self._encode_windows(x[..., whole * self.stride :]))
        ids = torch.cat([ids for ids, _ in parts], dim=2)
        side = {name: torch.cat([each[name] for _, each in parts], dim=1) for name in parts[0][1]}
        shapes = torch.tensor(ids.shape[1:3], device=ids.device).expand(batch, -1)
        return Tokens(rearrange(ids, "b c t q -> b (c t) q"), self.spec, shapes=shapes, side=side)

    def _decode(self, tokens: Tokens) -> Tensor:
        return torch.cat(list(self._decode_pieces(tokens, tokens.shape[1])), dim=-1)

    def _decode_pieces(self, tokens: Tokens, steps: int) -> Iterator[Tensor]:
        """Consecutive pieces of the signal, of whole windows that make up about ``steps`` steps at a time."""
        overlap, fade = self.spec.overlap, self._fade(tokens)
        tail: Tensor | None = None
        for windows in self._decoded_windows(tokens, max(1, steps // self._steps_per_window)):
            for signal in windows:
                if tail is not None:
                    signal = torch.cat(
                        [tail * (1 - fade) + signal[..., :overlap] * fade, signal[..., overlap:]], dim=-1
                    )
                tail = signal[..., signal.shape[-1] - overlap :]
                yield signal[..., : signal.shape[-1] - overlap]
        if overlap and tail is not None:
            yield tail

    def _decoded_windows(self, tokens: Tokens, at_once: int) -> Iterator[list[Tensor]]:
        """Signals ``[B, C, n]`` of the windows in order, ``at_once`` through the network together."""
        ids, batch = unpack(tokens), len(tokens)
        per_window = self._steps_per_window
        whole = ids.shape[2] // per_window
        count = whole + bool(ids.shape[2] % per_window)
        side = {name: self._per_window(name, value, ids.shape[1], count) for name, value in tokens.side.items()}
        side.pop("size", None)
        for first in range(0, count, at_once):
            stop = min(first + at_once, whole)
            if stop > first:
                part = rearrange(
                    ids[:, :, first * per_window : stop * per_window],
                    "b c (w t) q -> (b w) c t q",
                    t=per_window,
                )
                mine = {name: rearrange(value[:, first:stop], "b w k -> (b w) k") for name, value in side.items()}
                yield list(rearrange(self._decode_windows(part, mine), "(b w) c n -> w b c n", b=batch))
            if first + at_once >= count > whole:
                yield [
                    self._decode_windows(
                        ids[:, :, whole * per_window :], {name: value[:, whole] for name, value in side.items()}
                    )
                ]

    def _per_window(self, name: str, value: Tensor, channels: int, count: int) -> Tensor:
        """A side tensor ``[B, W * K]``, zeros at its end aside, as ``[B, W, K]``."""
        if name == "size":
            return value
        wanted = count * self._side_width(name, channels)
        if value.ndim != 2 or value.shape[1] < wanted:
            raise ValueError(f"tokens need side[{name!r}] [B, {wanted}] for {count} windows, got {list(value.shape)}")
        return value[:, :wanted].unflatten(1, (count, -1))

    @abstractmethod
    def _side_width(self, name: str, channels: int) -> int:
        """K, how many numbers a window of so many channels has in a side tensor."""

    @property
    def _steps_per_window(self) -> int:
        assert self.spec.hop is not None
        return self.stride // self.spec.hop[-1]

    def _fade(self, tokens: Tokens) -> Tensor:
        """Weights of the later one of two windows where they overlap."""
        return torch.linspace(0, 1, self.spec.overlap + 2, device=tokens.device)[1:-1]

    # -- long signals ------------------------------------------------------------------------------------------------------

    def encode_long(
        self, x: Tensor | Iterable[Tensor], *, window_seconds: float = 10.0, context_seconds: float = 1.0
    ) -> Tokens:
        """As :meth:`Codec.encode_long`, in the codec's own windows, so that the tokens equal those of ``encode``."""
        pieces = (p if p.ndim == self.signal_ndim else p[None] for p in ([x] if isinstance(x, Tensor) else x))
        parts: list[Tokens] = []
        rest: Tensor | None = None
        total = 0
        for piece in pieces:
            total += piece.shape[-1]
            rest = piece if rest is None else torch.cat([rest, piece], dim=-1)
            ready = (rest.shape[-1] - self.spec.overlap - 1) // self.stride  # the last window waits: it may end here
            if ready > 0:
                parts.append(self.encode(rest[..., : ready * self.stride + self.spec.overlap]))
                rest = rest[..., ready * self.stride :].clone()
        if rest is None or not total:
            raise ValueError("x must hold at least one sample, got none")
        parts.append(self.encode(rest))
        ids = torch.cat([unpack(part) for part in parts], dim=2)
        side = {name: torch.cat([part.side[name] for part in parts], dim=1) for name in parts[0].side if name != "size"}
        sizes = torch.tensor([[ids.shape[1], total]], device=ids.device).expand(len(ids), -1)
        shapes = torch.tensor(ids.shape[1:3], device=ids.device).expand(len(ids), -1)
        return Tokens(ids.flatten(1, 2), self.spec, shapes=shapes, side={**side, "size": sizes})

    @torch.no_grad()
    def decode_long(
        self, tokens: Tokens, *, window_seconds: float = 10.0, context_seconds: float = 1.0
    ) -> Iterator[Tensor]:
        """As :meth:`Codec.decode_long`, in the codec's own windows, so that the pieces joined equal ``decode``."""
        if len(tokens) != 1:
            raise ValueError(f"tokens must hold one item, got {len(tokens)}: decode items one by one")
        self._check_spec(tokens.spec)
        total = int(tokens.side["size"][0, -1]) if "size" in tokens.side else self.spec.samples(tokens.shape[1])
        done = 0
        with self._inference():
            for piece in self._decode_pieces(replace(tokens, shapes=tokens.shapes).to(self.device), 1):
                piece = piece[..., : total - done]
                done += piece.shape[-1]
                if piece.shape[-1]:
                    yield piece
