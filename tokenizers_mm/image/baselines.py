"""Classical image coders at several qualities: JPEG, WebP, AVIF and JPEG 2000, as Pillow's libraries write them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import features
from torch import Tensor

from tokenizers_mm.evaluation.baseline import Baseline
from tokenizers_mm.image import files
from tokenizers_mm.tokens import TokenSpec

QUALITIES = (10, 30, 50, 70, 90)


def _encode(signal: Tensor, spec: TokenSpec, container: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    files.to_pillow(signal).save(file, container, **options)
    return file.getvalue()


def _decode(data: bytes, spec: TokenSpec) -> Tensor:
    x = files.decode(data, "the coded image").float() / 255
    return x if spec.channels != 1 else x[:1]


def jpeg_payload(data: bytes) -> int:
    """Bytes of the entropy-coded scans of a JPEG file, without markers, tables and metadata.

    Raises:
        ValueError: If it is not a whole JPEG file.
    """
    position, total = 2, 0
    while position + 4 <= len(data):
        marker, size = data[position : position + 2], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker[0] != 0xFF:
            raise ValueError(f"no JPEG marker at byte {position}")
        position += 2 + size
        if marker[1] != 0xDA:
            continue
        start = position
        while data[position] != 0xFF or data[position + 1] == 0 or 0xD0 <= data[position + 1] <= 0xD7:
            position += 1
        total += position - start
        if data[position + 1] == 0xD9:
            return total
    raise ValueError("no end of the JPEG image")


def webp_payload(data: bytes) -> int:
    """Bytes of the ``VP8 `` or ``VP8L`` chunks of a WebP file."""
    position, total = 12, 0
    while position + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[position : position + 8])
        total += size if name in (b"VP8 ", b"VP8L") else 0
        position += 8 + size + size % 2
    return total


def box_payload(data: bytes, wanted: bytes) -> int:
    """Bytes inside the top-level boxes of one kind of an ISO media file (AVIF: ``mdat``; JPEG 2000: ``jp2c``)."""
    position, total = 0, 0
    while position + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[position : position + 8])
        size = size or len(data) - position
        total += size - 8 if name == wanted else 0
        position += max(8, size)
    return total


def _unavailable(feature: str, spec: TokenSpec) -> str | None:
    if spec.channels not in (0, 1, 3):
        return f"takes RGB or grey, the codec has {spec.channels} channels"
    return None if features.check(feature) else f"this Pillow has no {feature}"


def _coder(
    title: str, feature: str, container: str, payload: Callable[[bytes], int], options: dict[str, Any], settings: str
) -> Baseline:
    return Baseline(
        title,
        f"{container} by Pillow, {settings}; nominal rate without the container's headers.",
        partial(_encode, container=container, options=options),
        _decode,
        partial(_unavailable, feature),
        payload,
    )


def _lossy(
    title: str, feature: str, container: str, payload: Callable[[bytes], int], **fixed: Any
) -> dict[str, Baseline]:
    extra = "".join(f", {key} {value}" for key, value in fixed.items())
    return {
        f"{container.lower()}-{quality}": _coder(
            f"{title} q{quality}",
            feature,
            container,
            payload,
            {"quality": quality, **fixed},
            f"quality {quality}{extra}",
        )
        for quality in QUALITIES
    }


def _jpeg2000(ratio: int) -> Baseline:
    options = {"irreversible": True, "quality_mode": "rates", "quality_layers": [ratio]}
    payload = partial(box_payload, wanted=b"jp2c")
    return _coder(f"JPEG 2000 1:{ratio}", "jpg_2000", "JPEG2000", payload, options, f"irreversible, 1:{ratio}")


BASELINES: dict[str, Baseline] = {
    **_lossy("JPEG", "jpg", "JPEG", jpeg_payload),
    **_lossy("WebP", "webp", "WEBP", webp_payload, method=6),
    **_lossy("AVIF", "avif", "AVIF", partial(box_payload, wanted=b"mdat"), speed=6),
    **{f"jpeg2000-{ratio}": _jpeg2000(ratio) for ratio in (20, 40, 80, 160)},
    "png": _coder("PNG", "zlib", "PNG", len, {"optimize": True}, "optimised, lossless"),
}
