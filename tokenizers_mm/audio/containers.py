"""Token files of other audio programs."""

from __future__ import annotations

from pathlib import Path

from tokenizers_mm.audio import ecdc
from tokenizers_mm.audio.ecdc_lm import EcdcLM
from tokenizers_mm.audio.pretrained.encodec import Encodec
from tokenizers_mm.codec import Codec
from tokenizers_mm.containers import Container
from tokenizers_mm.tokens import Tokens

CARDS = {"encodec_24khz": "encodec-24khz", "encodec_48khz": "encodec-48khz"}


class EcdcFiles:
    """``.ecdc``, the files of EnCodec's own program."""

    def read(self, path: Path, *, lm: Path | None = None) -> Tokens:
        return ecdc.read(path, lm=None if lm is None else EcdcLM.load(lm))

    def write(self, tokens: Tokens, path: Path, codec: Codec, *, lm: Path | None = None) -> None:
        if not isinstance(codec, Encodec):
            raise ValueError(f".ecdc files hold tokens of EnCodec, got those of {type(codec).__name__}")
        ecdc.write(tokens, path, lm=None if lm is None else EcdcLM.load(lm))

    def codec_name(self, path: Path) -> str:
        return CARDS[ecdc.model_of(path)]


CONTAINERS: dict[str, Container] = {".ecdc": EcdcFiles()}
