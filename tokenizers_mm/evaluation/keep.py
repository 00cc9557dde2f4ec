"""Keep what an evaluation heard and made: originals, reconstructions and tokens as files, for reports that show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

from torch import Tensor

from tokenizers_mm import bitstream
from tokenizers_mm.tokens import Tokens, TokenSpec

Join = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Kept:
    """Files of one item, relative to ``Report.kept``; None where there was nothing to keep.

    Args:
        original: What the codec was given, at its own rate and channels (any codec of that rate shares the file).
        reconstruction: What came back.
        tokens: The ids as a ``.mmt`` file.
        strip: What the first scales alone decode to, then the first two, ... in one file.
    """

    original: str | None = None
    reconstruction: str | None = None
    tokens: str | None = None
    strip: str | None = None


class Keeper:
    """Writes the files of one codec under one condition.

    Args:
        folder: Where everything goes; ``<folder>/<codec>/<condition>/<item>`` and ``<folder>/original...``.
        files: The wing's file room.
        codec: Name of the codec or baseline.
        condition: Name of the condition.
        join: Makes one signal of several, for codecs of which any first scales decode; None where the wing has none.
    """

    def __init__(self, folder: Path, files: ModuleType, codec: str, condition: str, join: Join | None = None) -> None:
        self.folder, self.files, self.join = folder, files, join
        self.codec, self.condition = slug(codec), slug(condition)

    def __call__(
        self,
        name: str,
        spec: TokenSpec,
        original: Tensor,
        reconstruction: Tensor,
        tokens: Tokens | None,
        prefixes: Sequence[Tensor] = (),
    ) -> Kept:
        """Keep one item; a signal that no file can hold (NaN) is not kept.

        Args:
            name: The item's path below the data folder.
            spec: Gives rate and channels.
            original: ``[C, ...]``.
            reconstruction: ``[C, ...]``.
            tokens: A batch of one, if there are tokens.
            prefixes: What the first scales alone decode to, then the first two, ...
        """
        rate = "" if spec.sample_rate is None else f"-{spec.sample_rate:g}"
        source = PurePosixPath(f"original{rate}", self.condition, name + self.files.EXTENSIONS[0])
        result = PurePosixPath(self.codec, self.condition, name + self.files.EXTENSIONS[0])
        strip = PurePosixPath(self.codec, self.condition, f"{name}.scales{self.files.EXTENSIONS[0]}")
        return Kept(
            original=self._write(source, original, spec),
            reconstruction=self._write(result, reconstruction, spec),
            tokens=None if tokens is None else self._save(PurePosixPath(self.codec, self.condition, name), tokens),
            strip=self._write(strip, self.join([*prefixes, original]), spec) if self.join and prefixes else None,
        )

    def _write(self, path: PurePosixPath, signal: Tensor, spec: TokenSpec) -> str | None:
        try:
            self.files.write(self.folder / path, signal, spec)
        except (TypeError, ValueError):
            return None
        return str(path)

    def _save(self, path: PurePosixPath, tokens: Tokens) -> str:
        path = path.with_name(path.name + ".mmt")
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        bitstream.save(tokens, self.folder / path)
        return str(path)


def slug(name: str) -> str:
    """A name as one part of a path: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "codec"
