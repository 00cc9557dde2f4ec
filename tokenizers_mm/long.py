"""Signals of any length in constant memory: windows with context for any codec, exact streaming for causal ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenizers_mm.labels import CLOCK
from tokenizers_mm.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers_mm.codec import Codec


def encode_long(
    codec: Codec, x: Tensor | Iterable[Tensor], *, window_seconds: float = 10.0, context_seconds: float = 1.0
) -> Tokens:
    """Tokens of a signal that need not fit in memory.

    A causal codec streams, so its tokens equal those of ``encode``. Others encode window by window, each with context on both
    sides that is then dropped: token counts equal those of ``encode``, ids can differ where the network sees further than the
    context.

    Args:
        codec: A codec whose last axis is time and whose side information is only the signal's size.
        x: The signal ``[B, C, N]``, or its consecutive pieces ``[B, C, n]`` or ``[C, n]``.
        window_seconds: Signal encoded at a time.
        context_seconds: Signal seen on both sides of a window.

    Raises:
        ValueError: If the signal is empty, or the codec has no time axis or per-signal side information.
    """
    hop, _ = _time_axis(codec)
    pieces = (p if p.ndim == codec.signal_ndim else p[None] for p in ([x] if isinstance(x, Tensor) else x))
    window, context = _windows(codec, window_seconds, context_seconds)
    parts: list[Tokens] = []
    total = 0
    if codec.streamable:
        session = codec.stream()
        for piece in pieces:
            for chunk in piece.split(window * hop, dim=-1):
                parts.append(session.push(chunk))
                total += chunk.shape[-1]
        if total:
            parts.append(session.flush())
    else:
        buffer: Tensor | None = None
        before = 0  # context samples at the start of the buffer, already encoded
        for piece in pieces:
            total += piece.shape[-1]
            buffer = piece if buffer is None else torch.cat([buffer, piece], dim=-1)
            while buffer.shape[-1] > before + (window + context) * hop:
                parts.append(
                    _cut(codec.encode(buffer[..., : before + (window + context) * hop]), before // hop, window)
                )
                keep = min(context * hop, before + window * hop)
                buffer = buffer[..., before + window * hop - keep :].clone()
                before = keep
        if buffer is not None and buffer.shape[-1] > before:
            parts.append(_cut(codec.encode(buffer), before // hop, None))
    if not total:
        raise ValueError("x must hold at least one sample, got none")
    joined = _join(parts)
    size = torch.full((len(joined), 1), total, device=joined.device)
    if codec.size_dims > 1:
        channels = joined.shapes[:, :1] if len(codec.spec.axes) > 1 else torch.ones_like(size)
        size = torch.cat([channels, size], dim=1)
    return replace(joined, side={"size": size})


def decode_long(
    codec: Codec, tokens: Tokens, *, window_seconds: float = 10.0, context_seconds: float = 1.0
) -> Iterator[Tensor]:
    """The signal of one item in consecutive pieces ``[1, C, n]``, in constant memory.

    A causal codec streams exactly; others decode overlapping windows and cross-fade, which differs from ``decode`` where the
    network sees further than the context (WavTokenizer's attention was trained on a few seconds and prefers windows).

    Raises:
        ValueError: If ``tokens`` holds more than one item, or the codec has no time axis.
    """
    hop, _ = _time_axis(codec)
    if len(tokens) != 1:
        raise ValueError(f"tokens must hold one item, got {len(tokens)}: decode items one by one")
    codec._check_spec(tokens.spec)
    size = tokens.side.get("size")
    total = int(size[0, -1]) if size is not None else int(tokens.shapes[0, -1]) * hop
    window, context = _windows(codec, window_seconds, context_seconds)
    pieces = (
        _decode_stream(codec, tokens, window)
        if codec.streamable
        else _decode_windows(codec, tokens, window, context, hop)
    )
    done = 0
    for piece in pieces:
        piece = piece[..., : total - done]
        done += piece.shape[-1]
        if piece.shape[-1]:
            yield piece


def _decode_stream(codec: Codec, tokens: Tokens, window: int) -> Iterator[Tensor]:
    session = codec.stream(decode=True)
    for start in range(0, int(tokens.shapes[0, -1]), window):
        yield session.push(_cut(tokens, start, window))
    yield session.flush()


def _decode_windows(codec: Codec, tokens: Tokens, window: int, context: int, hop: int) -> Iterator[Tensor]:
    steps = int(tokens.shapes[0, -1])
    fade = min(context, window) // 2 * hop
    ramp = torch.linspace(0, 1, 2 * fade + 2)[1:-1] if fade else torch.zeros(0)
    tail: Tensor | None = None  # the previous window's samples around the border, fading out
    for start in range(0, steps, window):
        first, end = max(0, start - context), min(steps, start + window)
        signal = codec.decode(replace(_cut(tokens, first, min(steps, end + context) - first), side={}))
        ramp = ramp.to(signal)
        offset = (start - first) * hop
        if tail is not None:
            border = slice(offset - fade, offset - fade + tail.shape[-1])
            r = ramp[: tail.shape[-1]]
            signal = torch.cat([signal[..., border] * r + tail * (1 - r), signal[..., border.stop :]], dim=-1)
            offset = fade
        else:
            signal, offset = signal[..., offset:], 0
        stop = offset + (end - start) * hop
        if end == steps:
            yield signal
            return
        tail = signal[..., stop - fade : stop + fade]
        yield signal[..., : stop - fade]


def _time_axis(codec: Codec) -> tuple[int, float]:
    spec = codec.spec
    if spec.frame_rate is None or spec.hop is None or spec.sample_rate is None:
        raise ValueError(f"{type(codec).__name__} has no time axis; encode its signals whole")
    return spec.hop[-1], spec.sample_rate


def _windows(codec: Codec, window_seconds: float, context_seconds: float) -> tuple[int, int]:
    """Steps of a window and of the context on each side of it, in whole blocks."""
    hop, rate = _time_axis(codec)
    block = codec.spec.block
    for name, seconds, least in (("window_seconds", window_seconds, 0.0), ("context_seconds", context_seconds, None)):
        if not math.isfinite(seconds) or seconds < 0 or seconds == least:
            raise ValueError(f"{name} must be a positive number of seconds, got {seconds}")
    window, context = (round(seconds * rate / hop / block) * block for seconds in (window_seconds, context_seconds))
    return max(block, window), context


def _cut(tokens: Tokens, start: int, steps: int | None) -> Tokens:
    """``steps`` steps of the time axis from ``start`` on (all the rest for None), for items of equal grids."""
    if extra := set(tokens.side) - {"size", CLOCK}:
        raise ValueError(f"these tokens carry {sorted(extra)} for the whole signal and cannot be cut in time")
    shape = tokens.shapes[0].tolist()
    grid = tokens.ids.reshape(len(tokens), *shape, tokens.ids.shape[-1])
    stop = shape[-1] if steps is None else min(shape[-1], start + steps)
    grid = grid.narrow(-2, start, stop - start)
    return _from_grid(grid, tokens)


def _join(parts: list[Tokens]) -> Tokens:
    grids = [p.ids.reshape(len(p), *p.shapes[0].tolist(), p.ids.shape[-1]) for p in parts]
    return _from_grid(torch.cat(grids, dim=-2), parts[0])


def _from_grid(grid: Tensor, like: Tokens) -> Tokens:
    shapes = torch.tensor(grid.shape[1:-1], device=grid.device).expand(len(grid), -1)
    return replace(like, ids=grid.flatten(1, -2), shapes=shapes, side={})
