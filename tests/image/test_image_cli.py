"""Images on the command line: what people have in their folders goes there and back at its own size, or is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenizers_mm import cli
from tokenizers_mm.image import VQGAN

WIDTH, HEIGHT = 40, 24


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("codec")
    quantizer = {"kind": "fsq", "levels": [8, 5, 5]}
    VQGAN(8, 8, (1, 2), patch_size=4, blocks=1, latent_channels=8, groups=4, quantizer=quantizer).save_pretrained(
        folder
    )
    return folder


def picture() -> Image.Image:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(np.stack([6 * x, 10 * y, 3 * (x + y)], axis=-1).astype(np.uint8))


def save_what_people_have(folder: Path) -> dict[str, tuple[int, int]]:
    """Files of many kinds; their names and the width and height that a viewer shows."""
    (folder / "sub").mkdir(parents=True)
    image, turned = picture(), Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "colour.png")
    image.convert("L").save(folder / "grey.jpg")
    image.convert("RGBA").save(folder / "sub" / "alpha.webp", lossless=True)
    image.convert("P").save(folder / "palette.png")
    image.convert("CMYK").save(folder / "sub" / "print.jpg")
    image.save(folder / "turned.jpg", exif=turned)
    Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 60).save(folder / "deep.png")
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1, 10000, 3), np.uint8)).save(folder / "line.png")
    sizes = dict.fromkeys(["colour", "grey", "sub/alpha", "palette", "sub/print", "deep"], (WIDTH, HEIGHT))
    return {**sizes, "turned": (HEIGHT, WIDTH), "dot": (1, 1), "line": (10000, 1)}


def test_a_folder_of_images_goes_there_and_back(
    codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = save_what_people_have(tmp_path / "in")
    assert run("encode", tmp_path / "in", "-c", codec, "-o", tmp_path / "tokens") == 0
    shown = capsys.readouterr().out
    assert "bits/sample real" in shown
    assert "1 x 10000" in shown
    assert run("decode", tmp_path / "tokens", "-c", codec, "-o", tmp_path / "out") == 0
    for name, size in sizes.items():
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert (image.size, image.mode) == (size, "RGB")


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_other_formats_are_written_on_request(codec: Path, tmp_path: Path, ending: str) -> None:
    picture().save(tmp_path / "a.png")
    assert run("encode", tmp_path / "a.png", "-c", codec) == 0
    assert run("decode", tmp_path / "a.mmt", "-c", codec, "-o", tmp_path / f"b.{ending}") == 0
    with Image.open(tmp_path / f"b.{ending}") as image:
        assert image.format == {"jpg": "JPEG", "webp": "WEBP"}[ending]


def test_what_cannot_be_read_is_named_and_the_rest_done(
    codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture().save(folder / "good.png")
    picture().resize((200, 200)).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:2000])
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    assert run("encode", folder, "-c", codec, "-o", tmp_path / "tokens") == 1
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["good.mmt"]
    errors = " ".join(capsys.readouterr().err.split())
    assert "cut.jpg is damaged or truncated" in errors
    assert "moving.webp is animated" in errors
    assert "2 of 3 files failed" in errors
