"""Distances between two sets of sounds that need no trained model: whether spectra are those of the data."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
import torchaudio.functional as AF
from torch import Tensor

from tokenizers_mm.audio.losses import magnitude
from tokenizers_mm.evaluation.frechet import frechet_distance
from tokenizers_mm.evaluation.metric import Metric, Unmeasurable

RATE, WINDOW, HOP, BANDS = 16000, 1024, 256, 40
PIECE = 31  # frames: about half a second
FLOOR = 1e-8  # of power: 80 dB below full scale


class Mono(Protocol):
    """A pair of signals."""

    def mono(self, rate: int) -> tuple[Tensor, Tensor]:
        """Both as a mono mix at a rate, ``[N]``."""


def log_mel_pieces(pair: Mono) -> tuple[Tensor, Tensor]:
    """Mean log mel spectra of the half seconds of both signals, in dB, ``[pieces, 40]``."""
    reference, estimate = (_pieces(x) for x in pair.mono(RATE))
    return reference, estimate


def _pieces(signal: Tensor) -> Tensor:
    if len(signal) < PIECE * HOP:
        raise Unmeasurable(f"shorter than the {PIECE * HOP / RATE:.1f} s of a piece")
    power = magnitude(signal[None, None], torch.hann_window(WINDOW), HOP)[0].square() / (WINDOW / 4) ** 2
    level = 10 * (_bands().T @ power).clamp(min=FLOOR).log10()  # BANDS, frames
    whole = level.shape[1] // PIECE * PIECE
    return level[:, :whole].unflatten(1, (-1, PIECE)).mean(dim=2).T


@lru_cache(maxsize=1)
def _bands() -> Tensor:
    return AF.melscale_fbanks(WINDOW // 2 + 1, 0.0, RATE / 2, BANDS, RATE)


SET_METRICS: dict[str, Metric] = {
    "mel_fd": Metric(
        "log-mel FD", "dB²", "lower", 1, log_mel_pieces,
        "Frechet distance of the mean log spectra of half seconds in 40 mel bands at 16 kHz, mono mix; not FAD, for comparisons "
        "within one set only.", combine=frechet_distance,
    ),
}  # fmt: skip
