"""Stability of a codec's tokens: how many stay when what they stand for stays.

What language models on tokens ask: does a reconstruction encode to the same tokens again (idempotence), and do a shift in time
and an inaudible noise leave them alone? Every number is the share of equal ids, over all codebooks, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.condition import add_noise
from tokenizers_mm.tokens import Tokens

NOISE_SNR = 40.0  # dB


def idempotence(codec: Codec, signal: Tensor, tokens: Tokens, estimate: Tensor) -> float | None:
    """Share of ids that encoding the reconstruction gives again.

    Args:
        codec: The codec.
        signal: ``[1, C, ...]``.
        tokens: Those of ``signal``.
        estimate: What ``tokens`` decode to, shaped like ``signal``.
    """
    return _equal(codec.encode(estimate).grid(0), tokens.grid(0))


def shift_by_hop(codec: Codec, signal: Tensor, tokens: Tokens, estimate: Tensor) -> float | None:
    """Share of ids that stay, one step on, when the signal starts one hop later; None where there is no hop or one step."""
    hop = codec.spec.hop
    if hop is None or codec.spec.scales or signal.shape[-1] <= hop[-1]:
        return None
    shifted = codec.encode(signal[..., hop[-1] :]).grid(0)
    return _equal(shifted, tokens.grid(0)[..., 1:, :])


def shift_by_part(codec: Codec, signal: Tensor, tokens: Tokens, estimate: Tensor) -> float | None:
    """Share of ids that stay when the signal starts a quarter of a hop later, each step three quarters the same samples."""
    hop = codec.spec.hop
    if hop is None or codec.spec.scales or not 4 <= hop[-1] < signal.shape[-1]:
        return None
    shifted, original = codec.encode(signal[..., hop[-1] // 4 :]).grid(0), tokens.grid(0)
    return _equal(shifted, original[..., : shifted.shape[-2], :])


def noise(codec: Codec, signal: Tensor, tokens: Tokens, estimate: Tensor) -> float | None:
    """Share of ids that white noise at 40 dB signal-to-noise ratio leaves alone."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(signal.shape, generator=generator).to(signal)
    return _equal(codec.encode(add_noise(signal, white, NOISE_SNR)).grid(0), tokens.grid(0))


STABILITY: dict[str, Callable[[Codec, Tensor, Tokens, Tensor], float | None]] = {
    "idempotence": idempotence,
    "shift_by_hop": shift_by_hop,
    "shift_by_part": shift_by_part,
    "noise": noise,
}


def stability(codec: Codec, signal: Tensor, tokens: Tokens | None = None) -> dict[str, float | None]:
    """Every number of this module for one signal.

    Args:
        codec: The codec.
        signal: ``[1, C, ...]`` as :meth:`Codec.encode` takes it.
        tokens: Those of ``signal``, if they are known.

    Returns:
        A share per key of :data:`STABILITY`; None where it is not defined (content decides the grid, too short).
    """
    signal = signal.to(codec.device)
    tokens = codec.encode(signal) if tokens is None else tokens.to(codec.device)
    estimate = codec.decode(tokens)
    if not estimate.isfinite().all():
        return dict.fromkeys(STABILITY)
    return {key: function(codec, signal, tokens, estimate) for key, function in STABILITY.items()}


def _equal(a: Tensor, b: Tensor) -> float | None:
    """Share of equal ids of two grids ``[..., Q]``; None where their shapes differ or there is nothing to compare."""
    if a.shape != b.shape or a.numel() == 0:
        return None
    return float((a == b).double().mean())
