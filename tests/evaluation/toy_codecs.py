"""Toy codecs for the tests of evaluation, importable by the processes that they start."""

from __future__ import annotations

import math
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.tokens import Tokens, TokenSpec

RATE = 16000


class Coarse(Codec):
    """A toy codec of any modality: the mean of each hop of samples, in 256 levels."""

    def __init__(self, modality: str = "audio", hop: int = 40, sample_rate: float | None = RATE) -> None:
        super().__init__()
        self.spec = TokenSpec(modality, (256,), axes=("time",), hop=(hop,), sample_rate=sample_rate)
        self.scale = torch.nn.Parameter(torch.tensor(100.0))

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        hop = self.spec.hop[0]
        x = torch.nn.functional.pad(x, (0, -x.shape[-1] % hop))
        levels = (x[:, 0].unfold(1, hop, hop).mean(-1) * self.scale).round() + 128
        return Tokens(levels.clamp(0, 255).long()[..., None], self.spec)

    def _decode(self, tokens: Tokens) -> Tensor:
        return ((tokens.ids[..., 0].float() - 128) / self.scale).repeat_interleave(self.spec.hop[0], 1)[:, None]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        raise NotImplementedError


class Faulty(Coarse):
    """Answers with NaN, and refuses loud signals."""

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        if x.abs().max() > 0.35:
            raise RuntimeError("too loud for me")
        return super()._encode(x, lengths)

    def _decode(self, tokens: Tokens) -> Tensor:
        return super()._decode(tokens) * float("nan")


def write_clips(folder: Path, names: tuple[str, ...] = ("a.wav", "b.flac", "sub/c.wav")) -> Path:
    """Short tones of falling length and rising level and pitch."""
    t = torch.arange(RATE) / RATE
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        x = (0.2 + 0.1 * i) * torch.sin(2 * math.pi * 200 * (i + 1) * t) * torch.sin(2 * math.pi * 3 * t).abs()
        soundfile.write(folder / name, x[: RATE - 1000 * i].numpy(), RATE)
    return folder
