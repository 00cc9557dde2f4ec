"""Classical coders of series: block means (piecewise aggregate approximation) and uniform quantisers, as bytes.

Each window of 96 samples and channel is standardised; its mean and deviation are stored as two float32, as TOTEM's side
information. Missing samples are stored as bits and coded as the mean.
"""

from __future__ import annotations

import struct
import zlib
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.evaluation.baseline import Baseline
from tokenizers_mm.missing import pack_missing, put_missing
from tokenizers_mm.timeseries.scaling import in_windows, revin_scale
from tokenizers_mm.timeseries.totem import normalised
from tokenizers_mm.tokens import TokenSpec

WINDOW = 96
_HEAD = struct.Struct("<III")  # channels, samples, bytes of packed missing
LIMIT = 3.0  # deviations that a uniform quantiser covers on either side


def _windows(signal: Tensor) -> tuple[Tensor, bytes]:
    """Normalised windows ``[C, W, L]`` and the head: sizes, scales, missing samples."""
    windows = in_windows(signal[None].float(), WINDOW)[0]
    mean, deviation = revin_scale(windows)
    missing = pack_missing([signal]).numpy().tobytes()
    scales = torch.stack([mean, deviation]).numpy().astype("<f4").tobytes()
    return normalised(windows, mean, deviation), _HEAD.pack(*signal.shape, len(missing)) + missing + scales


def _unhead(data: bytes) -> tuple[tuple[int, int], Tensor, Tensor, np.ndarray, bytes]:
    channels, samples, size = _HEAD.unpack_from(data)
    missing = np.frombuffer(data, np.uint8, size, _HEAD.size)
    count, start = channels * max(1, -(-samples // WINDOW)), _HEAD.size + size
    scales = torch.from_numpy(np.frombuffer(data, "<f4", 2 * count, start).copy()).view(2, channels, -1, 1)
    return (channels, samples), scales[0], scales[1], missing, data[start + 8 * count :]


def _finished(y: Tensor, shape: tuple[int, int], mean: Tensor, deviation: Tensor, missing: np.ndarray) -> Tensor:
    signal = (y * deviation + mean).flatten(1)[:, : shape[1]]
    return put_missing(signal, torch.from_numpy(missing.copy()))


def _encode_means(signal: Tensor, spec: TokenSpec, block: int) -> bytes:
    windows, head = _windows(signal)
    padded = torch.nn.functional.pad(windows, (0, -windows.shape[-1] % block), mode="replicate")
    return head + padded.unflatten(-1, (-1, block)).mean(dim=-1).numpy().astype("<f4").tobytes()


def _decode_means(data: bytes, spec: TokenSpec, block: int) -> Tensor:
    shape, mean, deviation, missing, rest = _unhead(data)
    means = torch.from_numpy(np.frombuffer(rest, "<f4").copy()).view(shape[0], mean.shape[1], -1)
    y = means.repeat_interleave(block, dim=-1)[..., : min(WINDOW, shape[1])]
    return _finished(y, shape, mean, deviation, missing)


def _encode_uniform(signal: Tensor, spec: TokenSpec, bits: int, block: int) -> bytes:
    """``2**bits`` levels over six deviations, for each sample or each mean of a block."""
    windows, head = _windows(signal)
    if block > 1:
        padded = torch.nn.functional.pad(windows, (0, -windows.shape[-1] % block), mode="replicate")
        windows = padded.unflatten(-1, (-1, block)).mean(dim=-1)
    levels = ((windows + LIMIT) / (2 * LIMIT) * 2**bits).floor().clamp(0, 2**bits - 1).to(torch.uint8).numpy()
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return head + np.packbits(levels.reshape(-1, 1) >> shifts & 1).tobytes()


def _decode_uniform(data: bytes, spec: TokenSpec, bits: int, block: int) -> Tensor:
    shape, mean, deviation, missing, rest = _unhead(data)
    length = min(WINDOW, shape[1])
    per_window = -(-length // block)
    count = shape[0] * mean.shape[1] * per_window
    unpacked = np.unpackbits(np.frombuffer(rest, np.uint8), count=count * bits).reshape(-1, bits)
    levels = torch.from_numpy(unpacked.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1)))
    y = (levels.view(shape[0], -1, per_window) + 0.5) / 2**bits * 2 * LIMIT - LIMIT
    return _finished(y.repeat_interleave(block, dim=-1)[..., :length].float(), shape, mean, deviation, missing)


def _means(block: int) -> Baseline:
    return Baseline(
        f"means of {block}",
        f"Means of {block} samples as float32, windows of {WINDOW} standardised, two float32 a window.",
        partial(_encode_means, block=block),
        partial(_decode_means, block=block),
    )


def _uniform(bits: int, block: int) -> Baseline:
    what = "each sample" if block == 1 else f"each mean of {block} samples"
    return Baseline(
        f"uniform {bits} bit" + ("" if block == 1 else f", means of {block}"),
        f"{what.capitalize()} in {2**bits} equal levels over {2 * LIMIT:g} deviations of its window of {WINDOW}.",
        partial(_encode_uniform, bits=bits, block=block),
        partial(_decode_uniform, bits=bits, block=block),
    )


def _encode_deflated(signal: Tensor, spec: TokenSpec) -> bytes:
    return struct.pack("<II", *signal.shape) + zlib.compress(signal.float().numpy().astype("<f4").tobytes(), 9)


def _decode_deflated(data: bytes, spec: TokenSpec) -> Tensor:
    values = np.frombuffer(zlib.decompress(data[8:]), "<f4").copy()
    return torch.from_numpy(values).view(*struct.unpack_from("<II", data))


BASELINES: dict[str, Baseline] = {
    **{f"means-{block}": _means(block) for block in (4, 8, 16)},
    **{f"uniform-{bits}": _uniform(bits, 1) for bits in (1, 2, 4, 8)},
    **{f"uniform-8-of-{block}": _uniform(8, block) for block in (4, 8)},
    "float32": Baseline(
        "float32, deflated", "Values as float32 through zlib 9, lossless.", _encode_deflated, _decode_deflated
    ),
}
