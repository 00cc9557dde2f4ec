"""How reports show images: the picture, its error, and the place where it is worst, magnified; strips of scale prefixes."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.image import files
from tokenizers_mm.tokens import TokenSpec

SIDE = 384  # longest side of a picture in a report
GAIN = 5.0  # how much errors are enlarged
ZOOM = 4  # the magnified part is this share of the shorter side
GAP = 4  # white pixels between pictures


def render(path: str | Path, spec: TokenSpec, original: str | Path | None = None) -> Exhibit:
    """An image as a report shows it.

    An original is shown as it is. A reconstruction comes as four pictures: itself; its error, enlarged around grey; and the
    square where the error is largest, magnified, original left and reconstruction right.

    Args:
        path: The file.
        spec: Gives the channels to read it with.
        original: The file that it is a reconstruction of.

    Raises:
        FileNotFoundError, ValueError: As :func:`tokenizers_mm.image.files.read`.
    """
    image = _read(path, spec)
    if original is None:
        return Exhibit(caption=f"{image.shape[2]} x {image.shape[1]} pixels", image=_webp(_fitted(image)))
    reference = _read(original, spec)
    if reference.shape != image.shape:
        raise ValueError(f"{path} is {list(image.shape)}, its original {list(reference.shape)}")
    return Exhibit(
        caption=f"Reconstruction; its error, {GAIN:g} times around grey; the part where it is largest, "
        "original left, reconstruction right",
        image=_webp(comparison(reference, image)),
    )


def comparison(reference: Tensor, estimate: Tensor) -> Tensor:
    """Four pictures in a square: estimate, error, and both images' worst part magnified: ``[3, H', W']``.

    Args:
        reference: ``[3, H, W]`` in [0, 1].
        estimate: The same.
    """
    error = (0.5 + GAIN * (estimate - reference)).clamp(0, 1)
    top, left, side = worst_square(reference, estimate)
    parts = [x[:, top : top + side, left : left + side] for x in (reference, estimate)]
    upper = [_fitted(x) for x in (estimate, error)]
    height, width = upper[0].shape[1:]
    scale = max(1, min(height, width) // side)
    lower = [_centred(x.repeat_interleave(scale, 1).repeat_interleave(scale, 2), width) for x in parts]
    return torch.cat([beside(upper), upper[0].new_ones(3, GAP, 2 * width + GAP), beside(lower)], dim=1)


def worst_square(reference: Tensor, estimate: Tensor) -> tuple[int, int, int]:
    """Top, left and side of the square, a quarter of the shorter side, whose mean squared error is largest."""
    side = max(1, min(reference.shape[1:]) // ZOOM)
    error = (estimate - reference).double().square().sum(dim=0)
    area = F.pad(
        error.cumsum(dim=0).cumsum(dim=1), (1, 0, 1, 0)
    )  # sums over every square are differences of four of these
    sums = area[side:, side:] - area[:-side, side:] - area[side:, :-side] + area[:-side, :-side]
    place = int(sums.argmax())
    return place // sums.shape[1], place % sums.shape[1], side


def beside(pictures: list[Tensor]) -> Tensor:
    """Pictures ``[3, H, W]`` of one height in a row, with white between them."""
    gap = pictures[0].new_ones(3, pictures[0].shape[1], GAP)
    row = [piece for picture in pictures for piece in (gap, picture)]
    return torch.cat(row[1:], dim=2)


def scale_strip(codec: Codec, image: Tensor) -> Tensor:
    """An image decoded from its first scale, its first two, ... all of them, and the original at the end: ``[3, H, W']``.

    Args:
        codec: A codec whose tokens are scalable in scales.
        image: ``[3, H, W]`` in [0, 1].

    Raises:
        ValueError: If the codec's tokens have no scales.
    """
    if codec.spec.scalable != "scales":
        raise ValueError(f"a strip of scales needs a codec scalable in 'scales', got {codec.spec.scalable!r}")
    tokens = codec.encode(image[None])
    decoded = [codec.decode(tokens.prefix(scales=count))[0].cpu() for count in range(1, len(codec.spec.scales) + 1)]
    return beside([*decoded, image.cpu()])


def render_strip(path: str | Path, spec: TokenSpec) -> Exhibit:
    """A strip of scales as a report shows it: prefixes, then the original.

    Args:
        path: The file, pictures side by side.
        spec: Gives the channels to read it with.

    Raises:
        FileNotFoundError, ValueError: As :func:`tokenizers_mm.image.files.read`.
    """
    return Exhibit(
        "Decoded from the first scale alone, the first two, ... all of them; the original", _webp(_read(path, spec))
    )


@lru_cache(maxsize=4)
def _read(path: str | Path, spec: TokenSpec) -> Tensor:
    return files.read(path, spec).expand(3, -1, -1)


def _fitted(image: Tensor) -> Tensor:
    """No side longer than :data:`SIDE`."""
    scale = SIDE / max(image.shape[1:])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _centred(image: Tensor, width: int) -> Tensor:
    missing = max(0, width - image.shape[2])
    return F.pad(image, (missing // 2, missing - missing // 2), value=1.0)[:, :, :width]


def _webp(image: Tensor) -> bytes:
    file = io.BytesIO()
    files.to_pillow(image).save(file, "WEBP", quality=90, method=4)
    return file.getvalue()
