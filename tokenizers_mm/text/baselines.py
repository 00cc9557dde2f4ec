"""Compressors of text: gzip, xz and zstd, and the shipped models as entropy coders."""

from __future__ import annotations

import functools
import gzip
import lzma
from importlib.util import find_spec

from tokenizers_mm.evaluation.baseline import Baseline
from tokenizers_mm.text.entropy_coding import compress, decompress
from tokenizers_mm.text.language_models import network_coder, shipped
from tokenizers_mm.tokens import TokenSpec

_ZSTD_LEVEL = 19


def _utf8(data: bytes) -> str:
    return data.decode("utf-8")


def _zstd(text: str, spec: TokenSpec) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(text.encode("utf-8"))


def _unzstd(data: bytes, spec: TokenSpec) -> str:
    import zstandard

    return _utf8(zstandard.ZstdDecompressor().decompress(data))


def _without_zstd(spec: TokenSpec) -> str | None:
    return None if find_spec("zstandard") else "needs the package zstandard: pip install 'tokenizers_mm[text]'"


_counts = functools.partial(shipped, "byte-ngram")


def _network(name: str) -> Baseline:
    return Baseline(
        f"{name} + range coder", f"Range coding with what {name} says of the next byte, on this machine.",
        lambda text, spec: compress(text.encode("utf-8"), network_coder(name)),
        lambda data, spec: _utf8(decompress(data, network_coder(name))),
    )  # fmt: skip


BASELINES: dict[str, Baseline] = {
    "utf-8": Baseline(
        "UTF-8", "The bytes as they are.", lambda text, spec: text.encode("utf-8"), lambda data, spec: _utf8(data)
    ),
    "gzip-9": Baseline(
        "gzip -9", "gzip at level 9, each text alone.",
        lambda text, spec: gzip.compress(text.encode("utf-8"), 9, mtime=0), lambda data, spec: _utf8(gzip.decompress(data)),
    ),
    "xz-9": Baseline(
        "xz -9e", "xz at preset 9 extreme, each text alone.",
        lambda text, spec: lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME),
        lambda data, spec: _utf8(lzma.decompress(data)),
    ),
    "zstd-19": Baseline("zstd -19", "zstd at level 19, each text alone.", _zstd, _unzstd, _without_zstd),
    "byte-ngram": Baseline(
        "byte-ngram + range coder", "Range coding with the shipped counts of what follows up to five bytes.",
        lambda text, spec: compress(text.encode("utf-8"), _counts()), lambda data, spec: _utf8(decompress(data, _counts())),
    ),
    **{name: _network(name) for name in ("hat-small", "bpe-small", "byte-small")},
}  # fmt: skip
