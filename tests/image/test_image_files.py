"""Image files: whatever a camera, a scanner or a designer saves is read as a viewer shows it, or refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from tokenizers_mm.image import files
from tokenizers_mm.tokens import TokenSpec

SPEC = TokenSpec("image", (16,), axes=("height", "width"), hop=(8, 8), channels=3)
GREY = TokenSpec("image", (16,), axes=("height", "width"), hop=(8, 8), channels=1)


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    """uint8 ``[H, W, 3]``, different in every pixel and corner."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y) % 256], axis=-1).astype(
        np.uint8
    )


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    return (files.read(path, SPEC) * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("extension", [".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"])
def test_lossless_formats_give_back_every_value(tmp_path: Path, extension: str) -> None:
    x = torch.from_numpy(picture()).permute(2, 0, 1).float() / 255
    files.write(tmp_path / f"a{extension}", x, SPEC)
    assert torch.equal(files.read(tmp_path / f"a{extension}", SPEC), x)
    info = files.info(tmp_path / f"a{extension}")
    assert (info.width, info.height, info.mode, info.frames) == (30, 20, "RGB", 1)


@pytest.mark.parametrize("extension", [e for e in files.EXTENSIONS if e != ".avif" or features.check("avif")])
def test_every_format_written_can_be_read(tmp_path: Path, extension: str) -> None:
    x = torch.from_numpy(picture(64, 64)).permute(2, 0, 1).float() / 255
    x[2] = 0.5
    files.write(tmp_path / "deep" / f"a{extension}", x, SPEC)
    error = (files.read(tmp_path / "deep" / f"a{extension}", SPEC) - x).abs().mean()
    assert error < (0.08 if extension == ".gif" else 0.02)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [f"a{extension}"]


@given(value=st.floats(-2, 3))
@settings(max_examples=60, deadline=None)
def test_values_are_clipped_and_rounded_half_up(value: float) -> None:
    wanted = int(np.floor(np.float32(min(max(value, 0), 1)) * np.float32(255) + np.float32(0.5)))
    assert int(files.to_uint8(torch.tensor([value]))[0]) == wanted


def test_grey_palette_and_bilevel_become_three_channels(tmp_path: Path) -> None:
    rgb = Image.fromarray(picture())
    for mode in ("L", "P", "1"):
        image = rgb.convert(mode)
        assert np.array_equal(pixels(saved(tmp_path / f"{mode}.png", image)), np.array(image.convert("RGB")))


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 4), np.uint8)
    values[0, 0] = (255, 0, 0, 255)
    values[0, 1] = (255, 0, 0, 0)
    values[1, 0] = (0, 0, 0, 128)
    found = pixels(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert found[0, 0].tolist() == [255, 0, 0]
    assert found[0, 1].tolist() == [255, 255, 255]
    assert found[1, 0].tolist() == [127, 127, 127]
    palette = Image.fromarray(picture()).quantize(8)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    assert pixels(tmp_path / "p.png")[0, 0].tolist() == [255, 255, 255]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(pixels(saved(tmp_path / "a.tif", image)).astype(int) - (255, 0, 0)).max() <= 2
    assert np.abs(pixels(saved(tmp_path / "a.jpg", image)).astype(int) - (255, 0, 0)).max() <= 6


def test_sixteen_bit_grey_keeps_its_bits(tmp_path: Path) -> None:
    values = np.array([[0, 1, 257], [65535, 32768, 12345]], np.uint16)
    x = files.read(saved(tmp_path / "a.png", Image.fromarray(values)), SPEC)
    assert torch.allclose(x[0], torch.from_numpy(values.astype(np.float32)) / 65535, atol=1e-7)
    assert torch.equal(x[0], x[2])
    large = Image.fromarray(np.array([[0, 70000]], np.int32))
    with pytest.raises(ValueError, match=r"b\.tif holds 'I' values outside 0 to 65535"):
        files.read(saved(tmp_path / "b.tif", large), SPEC)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = picture()
    undo = {1: [], 2: ["lr"], 3: ["180"], 4: ["tb"], 5: ["t"], 6: ["r90"], 7: ["tv"], 8: ["r270"]}[orientation]
    stored = upright
    for step in undo:
        stored = {
            "lr": lambda a: a[:, ::-1],
            "180": lambda a: a[::-1, ::-1],
            "tb": lambda a: a[::-1],
            "t": lambda a: a.transpose(1, 0, 2),
            "r90": lambda a: np.rot90(a, 1),
            "tv": lambda a: a[::-1, ::-1].transpose(1, 0, 2),
            "r270": lambda a: np.rot90(a, 3),
        }[step](stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(pixels(path), upright)


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1)])
def test_extreme_shapes(tmp_path: Path, size: tuple[int, int]) -> None:
    image = Image.fromarray(picture(*size))
    assert np.array_equal(pixels(saved(tmp_path / "a.png", image)), np.array(image))


def test_animations_are_refused_and_camera_previews_are_not(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for extension in ("webp", "gif", "png"):
        path = tmp_path / f"a.{extension}"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        with pytest.raises(ValueError, match=rf"a\.{extension} is animated .*3 frames"):
            files.read(path, SPEC)
    frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
    assert np.abs(pixels(tmp_path / "a.mpo")[0, 0].astype(int) - (255, 0, 0)).max() < 5


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_truncated_files_are_refused(tmp_path: Path, extension: str) -> None:
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(picture(200, 200)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a\.{extension} is (damaged|not an image)"):
        files.read(path, SPEC)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="empty file"):
        files.read(tmp_path / "empty.png", SPEC)
    with pytest.raises(ValueError, match="not an image"):
        files.info(tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.read(tmp_path / "nowhere.png", SPEC)
    with pytest.raises(IsADirectoryError):
        files.read(tmp_path, SPEC)
    with pytest.raises(ValueError, match="image spec"):
        files.read(tmp_path / "text.png", TokenSpec("audio", (2,)))


@pytest.mark.parametrize("side", [12000, 60000])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"bomb\.png claims .*more than 100,000,000"):
        files.read(tmp_path / "bomb.png", SPEC)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_damage_anywhere_is_an_image_or_one_error(position: int, value: int, cut: int) -> None:
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "JPEG")
    data = bytearray(file.getvalue())
    data[position % len(data)] = value
    try:
        shape = files.decode(bytes(data[: len(data) - cut]), "it").shape
    except ValueError as error:
        message = str(error)
        assert message.startswith("it "), message
    else:
        assert shape[0] == 3


def test_one_channel_is_luma_and_is_written_as_grey(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (4, 4), (255, 0, 0)))
    x = files.read(path, GREY)
    assert x.shape == (1, 4, 4)
    assert float(x[0, 0, 0]) == pytest.approx(0.299)
    files.write(tmp_path / "b.png", x, GREY)
    assert files.info(tmp_path / "b.png").mode == "L"


def test_wrong_signals_are_not_written(tmp_path: Path) -> None:
    for signal, error, match in (
        (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, "float image"),
        (torch.zeros(1, 4, 4), ValueError, r"\[3, H, W\], got \[1, 4, 4\]"),
        (torch.full((3, 4, 4), float("nan")), ValueError, "finite"),
    ):
        with pytest.raises(error, match=match):
            files.write(tmp_path / "a.png", signal, SPEC)
    with pytest.raises(ValueError, match="extension"):
        files.write(tmp_path / "a.xyz", torch.zeros(3, 4, 4), SPEC)
    with pytest.raises(ValueError, match=r"cannot write .*a\.webp as WEBP"):
        files.write(tmp_path / "a.webp", torch.zeros(3, 1, 20000), SPEC)
    assert not list(tmp_path.iterdir())
