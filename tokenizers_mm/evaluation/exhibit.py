"""Exhibit: how a report shows one signal. A wing's ``show.py`` makes them: ``render(path, spec, original=None) -> Exhibit``.
Where it also has ``overview(items, spec) -> Exhibit | None``, that shows all pairs of original and token files of a codec as one.

Exhibits hold media, never HTML, so that escaping stays in one place.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exhibit:
    """A signal as a browser shows it.

    Args:
        caption: What the picture shows, for people who cannot see it and as a tooltip.
        image: A picture file; its horizontal axis is time (or the last axis) from ``0`` to ``seconds``.
        image_type: Its media type.
        sound: A sound file that browsers decode, of the same stretch as the picture.
        sound_type: Its media type.
        seconds: Duration of what is shown; None where there is no time.
        share: Part of the signal along its last axis that is shown, 0 to 1.
        top: Label of the picture's vertical axis at the top, ``""`` for none.
        bottom: The same at the bottom.

    Raises:
        ValueError: If a type is not an image's or a sound's, or the share is out of range.
    """

    caption: str
    image: bytes | None = None
    image_type: str = "image/webp"
    sound: bytes | None = None
    sound_type: str = "audio/flac"
    seconds: float | None = None
    share: float = 1.0
    top: str = ""
    bottom: str = ""

    def __post_init__(self) -> None:
        for name, kind in (("image_type", "image"), ("sound_type", "audio")):
            if not re.fullmatch(rf"{kind}/[\w.+-]+", getattr(self, name)):
                raise ValueError(f"{name} must be a media type {kind}/..., got {getattr(self, name)!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the picture as a data URI, the sound as base64."""
        return {
            "caption": self.caption,
            "image": self.image and f"data:{self.image_type};base64,{base64.b64encode(self.image).decode()}",
            "sound": self.sound and base64.b64encode(self.sound).decode(),
            "seconds": self.seconds,
            "share": self.share,
            "top": self.top,
            "bottom": self.bottom,
        }
