"""Image files <-> tensors: the formats of Pillow, any mode, as RGB in [0, 1].

What a viewer shows is what is read: EXIF rotation is applied, palettes are looked up, CMYK is converted, grey becomes three
equal channels, transparency is composited over white. Sixteen-bit grey keeps its sixteen bits; embedded colour profiles are
not applied (values count as sRGB). Animations are refused, and so are images of more than 100 million pixels.
"""

from __future__ import annotations

import io
import os
import secrets
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tokenizers_mm.tokens import TokenSpec

_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {  # Pillow's name and how we write
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True, "method": 4}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".gif": ("GIF", {}),
    ".jp2": ("JPEG2000", {}),
    ".avif": ("AVIF", {"quality": 90}),
}
EXTENSIONS: tuple[str, ...] = tuple(_FORMATS)
SAMPLE = "pixel"
"""What rates of this modality refer to."""
MAX_PIXELS = 100_000_000
"""Largest image that is decoded: a small file can claim to be a huge one."""

_DEEP = ("I", "F")  # Pillow's modes of more than eight bits begin so: I, I;16, I;16B, F
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG


@dataclass(frozen=True)
class ImageInfo:
    """What an image file's header says.

    Args:
        width: Pixels, as stored (EXIF rotation not applied).
        height: Pixels, as stored.
        mode: Pillow's mode, e.g. ``"RGB"``, ``"L"``, ``"CMYK"``, ``"I;16"``.
        format: Pillow's name of the format, e.g. ``"JPEG"``.
        frames: Pictures inside; more than one in animations.
    """

    width: int
    height: int
    mode: str
    format: str
    frames: int


def info(path: str | Path) -> ImageInfo:
    """The header of an image file; its pixels are not decoded.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If it is empty, not an image, or claims more than :data:`MAX_PIXELS`.
    """
    with _opened(_bytes(path), str(path)) as image:
        return ImageInfo(image.width, image.height, image.mode, image.format or "", getattr(image, "n_frames", 1))


def read(path: str | Path, spec: TokenSpec) -> Tensor:
    """Pixels of an image file.

    Args:
        path: The file; its content decides the format, not its name.
        spec: Gives ``channels``: 3 (or 0) for RGB, 1 for luma.

    Returns:
        float32 ``[C, H, W]`` in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If it is empty, truncated, not an image, animated, or too large, or the spec is no image's.
    """
    channels = _channels(spec)
    pixels = decode(_bytes(path), str(path))
    x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    return x if channels == 3 else (x * x.new_tensor(_LUMA)[:, None, None]).sum(dim=0, keepdim=True)


def decode(data: bytes, name: str) -> Tensor:
    """RGB pixels of an encoded image.

    Args:
        data: The file's content.
        name: What errors call it.

    Returns:
        ``[3, H, W]``: uint8, or float32 in [0, 1] for images of more than eight bits.

    Raises:
        ValueError: If it is empty, truncated, not an image, animated, or too large.
    """
    with _opened(data, name) as image:
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a photograph and its preview
            raise ValueError(
                f"{name} is animated or has several pages ({getattr(image, 'n_frames', 1)} frames): save the one you want"
            )
        image.load()
        return rgb(image, name)


def rgb(image: Image.Image, name: str = "image") -> Tensor:
    """RGB pixels of a decoded Pillow image of any mode: ``[3, H, W]``, uint8 or float32 in [0, 1] (see :func:`decode`).

    Raises:
        ValueError: If it holds 32-bit values outside the range that its mode stands for.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(_DEEP):
        return _deep(image, name).repeat(3, 1, 1)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def write(path: str | Path, signal: Tensor, spec: TokenSpec) -> None:
    """Write an image to a file whose extension gives the format, with 8 bits per channel.

    Values outside [0, 1] are clipped. JPEG is written at quality 95 without chroma subsampling, WebP losslessly. Missing folders
    are made; the file appears only when it is complete.

    Args:
        path: Where to; one of :data:`EXTENSIONS`.
        signal: Float ``[C, H, W]``.
        spec: Gives ``channels``.

    Raises:
        TypeError: If the signal is not a float tensor.
        ValueError: If it is not finite or of other shape, or the format is unknown or cannot hold it.
        IsADirectoryError: If ``path`` is a folder.
    """
    path, channels = Path(path), _channels(spec)
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"cannot write {path}: the extension must be one of {', '.join(EXTENSIONS)}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    wanted = f"a float image [{channels}, H, W]"
    if not isinstance(signal, Tensor) or not signal.is_floating_point():
        raise TypeError(f"expected {wanted}, got {getattr(signal, 'dtype', type(signal).__name__)}")
    if signal.ndim != 3 or len(signal) != channels or signal.numel() == 0:
        raise ValueError(f"expected {wanted}, got {list(signal.shape)}")
    if not torch.isfinite(signal).all():
        raise ValueError("image must be finite, got NaN or infinity")
    name, options = _FORMATS[path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        to_pillow(signal).save(partial, name, **options)
        os.replace(partial, path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot write {path} as {name}, {list(signal.shape)}: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def to_uint8(x: Tensor) -> Tensor:
    """Float pixels in [0, 1] as 8-bit integers, rounded half up; values outside are clipped."""
    return (x.detach().clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def to_pillow(x: Tensor) -> Image.Image:
    """A float image ``[C, H, W]`` (C 1 or 3) in [0, 1] as Pillow's, 8 bits per channel."""
    pixels = to_uint8(x).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _bytes(path: str | Path) -> bytes:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected an image file, {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(f"no image file at {path}")
    return path.read_bytes()


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """A Pillow image whose errors, here and in the body, become one ``ValueError`` that names the file."""
    if not data:
        raise ValueError(f"{name} is an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked instead
            warnings.filterwarnings("ignore", message="Palette images with Transparency")
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width} x {image.height}"
                    raise ValueError(f"{name} claims {size} pixels, more than {MAX_PIXELS:,}: scale it down first")
                yield image
    except Image.DecompressionBombError:
        raise ValueError(f"{name} claims more than {MAX_PIXELS:,} pixels: scale it down first") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image that Pillow can read, or its header is damaged") from None
    except (OSError, EOFError, SyntaxError, struct.error) as error:
        raise ValueError(f"{name} is damaged or truncated: {error}") from None


def _deep(image: Image.Image, name: str) -> Tensor:
    """Grey of more than eight bits, float32 ``[1, H, W]``."""
    values = torch.from_numpy(np.array(image).astype(np.float32))[None]
    values = values if image.mode == "F" else values / 65535
    if not torch.isfinite(values).all() or float(values.min()) < 0 or float(values.max()) > 1:
        wanted = "0 to 1" if image.mode == "F" else "0 to 65535"
        raise ValueError(f"{name} holds {image.mode!r} values outside {wanted}: it cannot be read as an image")
    return values


def _channels(spec: TokenSpec) -> int:
    if spec.modality != "image" or spec.channels not in (0, 1, 3):
        raise ValueError(f"expected an image spec of 1 or 3 channels, got {spec.modality} with {spec.channels}")
    return spec.channels or 3
