"""A weight-free pitch tracker: normalised cross-correlation candidates and the smoothest path through them.

After Talkin, "A robust algorithm for pitch tracking (RAPT)" (1995), for the normalised cross-correlation, and Boersma, "Accurate
short-term analysis of the fundamental frequency ..." (1993), for the octave and jump costs. Periodicity is the correlation at the
chosen lag, so its scale differs from that of neural trackers: compare values only with values from this tracker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CANDIDATES = 6
OCTAVE_COST = 0.03  # correlation that a candidate must gain to lie one octave lower
JUMP_COST = 0.5  # correlation that a jump of one octave between neighbouring frames costs
VOICED_FROM = 0.6  # least correlation of a voiced frame
FLOOR_DB = -35.0  # energy, relative to the loudest window's, added to every window's: hum in pauses counts as noise
SILENCE_DB = -60.0  # frames below this level (RMS, dB full scale) are unvoiced
BLOCK = 2000  # frames at once, to bound memory


@dataclass(frozen=True)
class PitchTrack:
    """Pitch of one signal, one value per frame.

    Args:
        f0: Hz, ``[T]``; meaningful where ``voiced``.
        periodicity: 0 (noise) to 1 (periodic), ``[T]``; 0 in silence.
        voiced: bool ``[T]``.
    """

    f0: Tensor
    periodicity: Tensor
    voiced: Tensor


def track_pitch(
    x: Tensor, sample_rate: int, *, fmin: float = 50.0, fmax: float = 550.0, hop_seconds: float = 0.01
) -> PitchTrack:
    """Fundamental frequency, periodicity and voicing of a mono signal.

    Args:
        x: Signal ``[N]``.
        sample_rate: Hz.
        fmin: Lowest pitch in Hz; the correlation window is two of its periods long.
        fmax: Highest pitch in Hz.
        hop_seconds: Time between frames; frame t is centred on ``t * hop_seconds``.

    Returns:
        ``T = N // hop + 1`` frames.

    Raises:
        ValueError: If ``x`` is not one channel or the pitch range does not fit the rate.
    """
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"expected a mono signal [N], got {list(x.shape)}")
    if not 0 < fmin < fmax <= sample_rate / 4:
        raise ValueError(f"expected 0 < fmin < fmax <= {sample_rate / 4:g} Hz, got {fmin:g} and {fmax:g}")
    shortest, longest = int(sample_rate / fmax), math.ceil(sample_rate / fmin)
    window, hop = 2 * longest, round(sample_rate * hop_seconds)
    size = window + longest + 1
    frames = F.pad(x.double(), (size // 2, size - size // 2)).unfold(0, size, hop)[: len(x) // hop + 1]
    floor = float(frames.square().sum(dim=1).max()) * window / size * 10 ** (FLOOR_DB / 10)
    blocks = [_analyse(block, window, shortest, longest, floor) for block in frames.split(BLOCK)]
    lags, strengths, levels = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    path = _smoothest_path(np.log2(lags.numpy()), strengths.numpy())[:, None]
    lag, strength = lags.gather(1, path)[:, 0], strengths.gather(1, path)[:, 0]
    periodicity = torch.where(levels > SILENCE_DB, strength.clamp(0, 1), 0.0)
    return PitchTrack(sample_rate / lag, periodicity, periodicity >= VOICED_FROM)


def _analyse(frames: Tensor, window: int, shortest: int, longest: int, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate lags and their correlations ``[T, CANDIDATES]`` and the level in dB ``[T]`` of frames ``[T, size]``."""
    frames = frames - frames.mean(dim=1, keepdim=True)
    levels = 10 * torch.log10(frames.square().mean(dim=1).clamp(min=1e-20))
    return *_candidates(_correlation(frames, window, longest, floor), shortest, longest), levels


def _correlation(frames: Tensor, window: int, longest: int, floor: float) -> Tensor:
    """Normalised correlation of each frame's first ``window`` samples with those ``lag`` later, ``[T, longest + 1]``."""
    fft_size = 1 << (frames.shape[1] + window).bit_length()
    head = torch.fft.rfft(frames[:, :window], fft_size)
    cross = torch.fft.irfft(head.conj() * torch.fft.rfft(frames, fft_size), fft_size)[:, : longest + 1]
    total = F.pad(frames.square().cumsum(dim=1), (1, 0))
    energy = (total[:, window : window + longest + 1] - total[:, : longest + 1]).clamp(min=0) + floor
    return cross / (energy[:, :1] * energy).clamp(min=1e-20).sqrt()


def _candidates(correlation: Tensor, shortest: int, longest: int) -> tuple[Tensor, Tensor]:
    """The strongest peaks of each frame between two lags, refined by a parabola: lags and heights ``[T, CANDIDATES]``."""
    left, middle, right = (correlation[:, shortest - 1 + i : longest - 1 + i] for i in range(3))
    peak = (middle > left) & (middle >= right)
    lags = torch.arange(shortest, longest, dtype=correlation.dtype).expand_as(middle)
    favour = middle - OCTAVE_COST * torch.log2(lags / shortest)
    best = favour.masked_fill(~peak, -2.0).topk(CANDIDATES, dim=1).indices
    low, mid, high, is_peak, lag = (t.gather(1, best) for t in (left, middle, right, peak, lags))
    curvature = (2 * mid - low - high).clamp(min=1e-12)
    shift = torch.where(is_peak, ((high - low) / (2 * curvature)).clamp(-0.5, 0.5), 0.0)
    height = torch.where(is_peak, mid + (high - low) * shift / 4, 0.0)
    return lag + shift, height


def _smoothest_path(octaves: np.ndarray, strengths: np.ndarray) -> Tensor:
    """Viterbi: for each frame the candidate that is strong, short of lag and near its neighbours, int64 ``[T]``."""
    gain = strengths - OCTAVE_COST * octaves
    # a jump costs little where either frame is hardly periodic: there is no pitch to follow
    trust = np.minimum(strengths[1:, None, :], strengths[:-1, :, None])
    jump = JUMP_COST * trust * np.abs(octaves[1:, None, :] - octaves[:-1, :, None])  # T - 1, from, to
    total, origin = gain[0], np.zeros(octaves.shape, dtype=np.int64)
    for t in range(1, len(gain)):
        reached = total[:, None] - jump[t - 1]
        origin[t] = reached.argmax(axis=0)
        total = reached.max(axis=0) + gain[t]
    path = torch.empty(len(gain), dtype=torch.long)
    path[-1] = int(total.argmax())
    for t in range(len(gain) - 1, 0, -1):
        path[t - 1] = int(origin[t, path[t]])
    return path
