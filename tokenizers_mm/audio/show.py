"""How reports show sound: a mel spectrogram and a lossless clip that browsers play."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
import torchaudio.functional as AF
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from tokenizers_mm.audio import files
from tokenizers_mm.audio.losses import magnitude
from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.tokens import TokenSpec

SECONDS = 12.0  # of each clip that a report carries
COLUMNS, BANDS = 480, 96  # of a spectrogram
RANGE = 80.0  # dB below the loudest point of the original that are shown
WINDOW = 0.043  # seconds


def render(path: str | Path, spec: TokenSpec, original: str | Path | None = None) -> Exhibit:
    """The first :data:`SECONDS` of a sound file: its spectrogram, and the samples as 16-bit FLAC.

    Args:
        path: The file.
        spec: Gives the rate and channels to show it at.
        original: The file whose level sets the colour scale; by default ``path`` itself.

    Raises:
        FileNotFoundError, ValueError: As :func:`tokenizers_mm.audio.files.read`.
    """
    signal = files.read(path, spec, seconds=SECONDS)
    rate, length = int(spec.sample_rate or 0), signal.shape[1]
    level = _level(signal, rate)
    loudest = level if original is None else _level(files.read(original, spec, seconds=SECONDS), rate)
    top = float(loudest.max())
    kilohertz = f"{rate / 2000:g} kHz"
    return Exhibit(
        caption=f"Spectrogram, mel-spaced from 0 to {kilohertz}, {RANGE:g} dB below the original's loudest point",
        image=_picture((level - top) / RANGE + 1),
        sound=_flac(signal, rate),
        seconds=length / rate,
        share=min(1.0, length / rate / max(files.info(path).seconds, 1e-9)),
        top=kilohertz,
        bottom="0",
    )


def _level(signal: Tensor, rate: int) -> Tensor:
    """Mel spectrogram in dB ``[BANDS, about COLUMNS]`` of the mono mix."""
    size = round(WINDOW * rate)
    hop = max(1, -(-signal.shape[1] // COLUMNS))
    window = F.pad(torch.hann_window(size), (size // 2, size - size // 2))  # padded: low bands need fine bins
    mono = F.pad(signal.mean(dim=0), (0, max(0, 2 * size - signal.shape[1])))
    power = magnitude(mono[None, None], window, hop)[0].square()  # F, T
    return 10 * (_bands(rate, len(power)).T @ power).clamp(min=1e-10).log10()


@lru_cache(maxsize=8)
def _bands(rate: int, bins: int) -> Tensor:
    return AF.melscale_fbanks(bins, 0.0, rate / 2, BANDS, rate)


def _picture(level: Tensor) -> bytes:
    """A picture of values in [0, 1], low bands at the bottom."""
    colours = np.round(np.asarray(colormaps["magma"].colors) * 255).astype(np.uint8)  # type: ignore[attr-defined]
    pixels = colours[(level.flip(0).clamp(0, 1) * 255).round().long().numpy()]
    file = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(file, "WEBP", quality=70, method=4)
    return file.getvalue()


def _flac(signal: Tensor, rate: int) -> bytes:
    values = (signal * 32768).round().clamp(-32768, 32767).short()
    file = io.BytesIO()
    soundfile.write(file, values.T.numpy(), rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
