"""Simple coders of EEG in the codecs' table: linear and mu-law PCM at the codecs' rate and below, transform coding, FLAC.

All of them code each channel for itself; quantised values go through DEFLATE, and the rate is that of the bytes it
gives. What a waveform of a few bits per second and channel can hold is theirs to show.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import partial

import numpy as np
import torch
from scipy.fft import dct, idct
from torch import Tensor

from tokenizers_mm.evaluation.baseline import Baseline
from tokenizers_mm.resampling import resample
from tokenizers_mm.tokens import TokenSpec

_HEAD = struct.Struct("<II")  # channels, samples
_BLOCK = 2.0  # seconds of a block of the cosine transform
_MU = 255.0
_STEP = 0.1  # microvolts that lossless PCM resolves


def _levels(signal: Tensor) -> np.ndarray:
    """Largest magnitude of each channel, float32."""
    return signal.abs().amax(dim=1).clamp(min=1e-6).numpy().astype("<f4")


def _mu_law_encode(signal: Tensor, spec: TokenSpec, bits: int, rate: int) -> bytes:
    level = _levels(signal)
    low = resample(signal, _whole(spec), rate) if rate else signal
    x = (low / torch.from_numpy(level)[:, None]).clamp(-1, 1)
    companded = x.sign() * torch.log1p(_MU * x.abs()) / np.log1p(_MU)
    half = 2 ** (bits - 1) - 1
    codes = (companded * half).round().to(torch.int8).numpy()
    return _HEAD.pack(*signal.shape) + level.tobytes() + zlib.compress(codes.tobytes(), 9)


def _mu_law_decode(data: bytes, spec: TokenSpec, bits: int, rate: int) -> Tensor:
    channels, samples, level, body = _opened(data)
    codes = np.frombuffer(zlib.decompress(body), np.int8).reshape(channels, -1).astype(np.float32)
    companded = codes / (2 ** (bits - 1) - 1)
    x = (
        torch.from_numpy(np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(_MU)) / _MU).float()
        * level[:, None]
    )
    x = resample(x, rate, _whole(spec)) if rate else x
    return x[:, :samples]


def _dct_encode(signal: Tensor, spec: TokenSpec, step: float) -> bytes:
    size = _block(spec)
    level = signal.std(dim=1).clamp(min=1e-6).numpy().astype("<f4")
    padded = torch.nn.functional.pad(signal / torch.from_numpy(level)[:, None], (0, -signal.shape[1] % size))
    coefficients = dct(padded.reshape(len(signal), -1, size).numpy(), norm="ortho")
    codes = np.sign(coefficients) * np.floor(np.abs(coefficients) / step + 0.35)  # a dead zone: zeros are cheap
    codes = np.ascontiguousarray(
        np.clip(codes, -32768, 32767).astype("<i2").transpose(0, 2, 1)
    )  # frequency by frequency
    planes = codes.view(np.uint8).reshape(-1, 2).T.tobytes()
    return _HEAD.pack(*signal.shape) + level.tobytes() + zlib.compress(planes, 9)


def _dct_decode(data: bytes, spec: TokenSpec, step: float) -> Tensor:
    channels, samples, level, body = _opened(data)
    size = _block(spec)
    planes = np.frombuffer(zlib.decompress(body), np.uint8).reshape(2, -1).T.copy()
    codes = planes.view("<i2").reshape(channels, size, -1).transpose(0, 2, 1)
    x = idct(codes.astype(np.float64) * step, norm="ortho").reshape(channels, -1)
    return (torch.from_numpy(x).float() * level[:, None])[:, :samples]


def _pcm_encode(signal: Tensor, spec: TokenSpec) -> bytes:
    return _HEAD.pack(*signal.shape) + (signal / _STEP).round().clamp(-32768, 32767).short().numpy().tobytes()


def _pcm_decode(data: bytes, spec: TokenSpec) -> Tensor:
    channels, _ = _HEAD.unpack_from(data)
    codes = np.frombuffer(data, "<i2", offset=_HEAD.size).reshape(channels, -1)
    return torch.from_numpy(codes.astype(np.float32)) * _STEP


def _flac_encode(signal: Tensor, spec: TokenSpec) -> bytes:
    import soundfile

    codes, parts = (signal / _STEP).round().clamp(-32768, 32767).short().numpy(), []
    for first in range(0, len(codes), 8):  # FLAC's most channels
        file = io.BytesIO()
        soundfile.write(file, codes[first : first + 8].T, _whole(spec), format="FLAC", subtype="PCM_16")
        parts.append(file.getvalue())
    sizes = struct.pack(f"<I{len(parts)}I", len(parts), *(len(part) for part in parts))
    return sizes + b"".join(parts)


def _flac_decode(data: bytes, spec: TokenSpec) -> Tensor:
    import soundfile

    count = struct.unpack_from("<I", data)[0]
    sizes, place, found = struct.unpack_from(f"<{count}I", data, 4), 4 + 4 * count, []
    for size in sizes:
        values = soundfile.read(io.BytesIO(data[place : place + size]), dtype="int16", always_2d=True)[0]
        found.append(torch.from_numpy(values.T.astype(np.float32)))
        place += size
    return torch.cat(found) * _STEP


def _opened(data: bytes) -> tuple[int, int, Tensor, bytes]:
    """Channels, samples, their levels, and what was entropy-coded."""
    channels, samples = _HEAD.unpack_from(data)
    level = np.frombuffer(data, "<f4", channels, _HEAD.size).copy()
    return channels, samples, torch.from_numpy(level), data[_HEAD.size + 4 * channels :]


def _block(spec: TokenSpec) -> int:
    return round(_BLOCK * (spec.sample_rate or 1))


def _whole(spec: TokenSpec) -> int:
    return int(spec.sample_rate or 0)


def _unavailable(spec: TokenSpec) -> str | None:
    rate = spec.sample_rate
    return None if rate is not None and rate == int(rate) else f"takes whole rates, the codec has {rate} Hz"


def _mu_law(bits: int, rate: int) -> Baseline:
    where = f"resampled to {rate} Hz, " if rate else ""
    return Baseline(
        f"mu-law {bits} bit" + (f" {rate} Hz" if rate else ""),
        f"Each channel {where}companded (mu 255) to its peak, {bits} bits, DEFLATE over all.",
        partial(_mu_law_encode, bits=bits, rate=rate),
        partial(_mu_law_decode, bits=bits, rate=rate),
        _unavailable,
    )


def _dct(step: float) -> Baseline:
    return Baseline(
        f"DCT step {step:g}",
        f"Cosine transform of 2 s blocks of each channel, uniform quantiser of {step:g} standard deviations with a dead zone, "
        "DEFLATE over all.",
        partial(_dct_encode, step=step),
        partial(_dct_decode, step=step),
        _unavailable,
    )


BASELINES: dict[str, Baseline] = {
    **{f"dct-{step:g}": _dct(step) for step in (0.5, 1.0, 2.0, 4.0, 8.0)},
    "mulaw-4-32": _mu_law(4, 32),
    "mulaw-4-64": _mu_law(4, 64),
    "mulaw-8": _mu_law(8, 0),
    "pcm16": Baseline(
        "PCM 16 bit", "Linear PCM in steps of 0.1 microvolts, 16 bits, not compressed.", _pcm_encode, _pcm_decode
    ),
    "flac": Baseline(
        "FLAC", "The same 16 bits as FLAC by libsndfile, 8 channels a file.", _flac_encode, _flac_decode, _unavailable
    ),
}
