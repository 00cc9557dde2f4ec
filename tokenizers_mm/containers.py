"""Token files of other programs, which ``mmtok encode | decode`` take by their extension.

A wing's ``containers.py`` holds ``CONTAINERS``: extension with the dot -> an object with these functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tokenizers_mm.codec import Codec
from tokenizers_mm.tokens import Tokens


class Container(Protocol):
    """Reads and writes one format.

    ``lm`` is the folder of the language model that an entropy coder of the format needs, where it has one.
    """

    def read(self, path: Path, *, lm: Path | None = None) -> Tokens:
        """The tokens of a file; ``BitstreamError`` for anything else."""

    def write(self, tokens: Tokens, path: Path, codec: Codec, *, lm: Path | None = None) -> None:
        """Write tokens that ``codec`` made; ``ValueError`` if the format is not for that codec."""

    def codec_name(self, path: Path) -> str:
        """Name of the card whose tokens a file holds."""
