"""Make the sample images of this folder and their manifest.csv: `python eval/samples/images/make_images.py`.

With `--photographs FOLDER` it writes test photographs of scikit-image there instead (`pip install scikit-image`), for a look at
real pictures: `mmtok eval CODEC --data FOLDER`. They are not part of this package.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parent
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina")
PALETTE = [(38, 84, 124), (239, 71, 111), (255, 209, 102), (6, 214, 160), (247, 127, 0), (93, 63, 211)]


def grid(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y in [0, 1]."""
    y, x = np.mgrid[0:height, 0:width]
    return x / (width - 1), y / (height - 1)


def image(values: np.ndarray) -> Image.Image:
    """Values in [0, 1], ``[H, W]`` or ``[H, W, 3]``."""
    values = values if values.ndim == 3 else values[..., None].repeat(3, axis=2)
    return Image.fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def blend(low: tuple[int, int, int], high: tuple[int, int, int], share: np.ndarray) -> np.ndarray:
    return (np.array(low) + (np.array(high) - np.array(low)) * share[..., None]) / 255


def clouds(random: np.random.Generator, size: int, falloff: float) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power ``falloff``, in [0, 1]."""
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    f[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(random.standard_normal((size, size))) / f**falloff).real
    return (noise - noise.min()) / np.ptp(noise)


def gradient(random: np.random.Generator) -> Image.Image:
    x, y = grid(176, 176)
    return image(np.stack([x, y, 0.5 + 0.5 * np.sin(2 * np.pi * (x + y))], axis=-1))


def sunset(random: np.random.Generator) -> Image.Image:
    x, y = grid(192, 176)
    sky = blend((30, 20, 70), (255, 150, 60), np.clip(1.4 * y, 0, 1))
    sky[np.hypot((x - 0.6) * 192, (y - 0.5) * 176) < 22] = (1, 0.9, 0.6)
    sky[y > 0.72 + 0.06 * np.sin(9 * x) + 0.03 * np.sin(31 * x + 1)] = (0.06, 0.05, 0.1)
    return image(sky)


def zone_plate(random: np.random.Generator) -> Image.Image:
    x, y = grid(176, 176)
    return image(0.5 + 0.5 * np.cos(0.4 * np.pi * 176 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)))


def stripes(random: np.random.Generator) -> Image.Image:
    x, y = grid(176, 176)
    return image(np.where((x * 11 + y * 5) % 1 < 0.5, 1.0, 0.15)[..., None] * blend((6, 214, 160), (239, 71, 111), y))


def marble(random: np.random.Generator) -> Image.Image:
    x, _ = grid(128, 128)
    veins = np.abs(np.sin(2 * np.pi * (3 * x + 2.5 * clouds(random, 128, 1.6))))
    return image(blend((60, 60, 75), (240, 236, 228), veins**0.5))


def hills(random: np.random.Generator) -> Image.Image:
    height = clouds(random, 128, 1.8)
    dy, dx = np.gradient(height * 60)
    light = (1 - dx - dy) / np.sqrt(3 * (1 + dx**2 + dy**2))
    return image(blend((40, 90, 40), (220, 200, 150), height) * (0.35 + 0.65 * light.clip(0, 1))[..., None])


def cells(random: np.random.Generator) -> Image.Image:
    x, y = grid(160, 160)
    centres, colours = random.random((30, 2)), random.random((30, 3))
    distance = np.sort(np.hypot(x[..., None] - centres[:, 0], y[..., None] - centres[:, 1]), axis=-1)
    nearest = np.hypot(x[..., None] - centres[:, 0], y[..., None] - centres[:, 1]).argmin(axis=-1)
    return image(colours[nearest] * (1 - 0.8 * (distance[..., 1] - distance[..., 0] < 0.015))[..., None])


def balls(random: np.random.Generator) -> Image.Image:
    x, y = grid(176, 176)
    picture = blend((225, 225, 235), (150, 155, 175), y)
    for colour in PALETTE:
        cx, cy, r = 0.15 + 0.7 * random.random(), 0.15 + 0.7 * random.random(), 0.08 + 0.1 * random.random()
        z = np.sqrt(np.clip(1 - ((x - cx) ** 2 + (y - cy) ** 2) / r**2, 0, None))
        light = np.clip((-(x - cx) / r - (y - cy) / r + z) / math.sqrt(3), 0, 1)
        ball = np.array(colour) / 255 * (0.25 + 0.75 * light[..., None]) + light[..., None] ** 30
        picture = np.where((z > 0)[..., None], ball, picture)
    return image(picture)


def bars(random: np.random.Generator) -> Image.Image:
    picture = Image.new("RGB", (192, 176), "white")
    draw = ImageDraw.Draw(picture)
    for i, value in enumerate(random.integers(20, 140, 9)):
        draw.rectangle((18 + 19 * i, 158 - int(value), 31 + 19 * i, 158), fill=PALETTE[i % len(PALETTE)])
    draw.line((12, 8, 12, 158, 188, 158), fill="black", width=2)
    return picture


def curves(random: np.random.Generator) -> Image.Image:
    picture = Image.new("RGB", (224, 176), (250, 250, 252))
    draw = ImageDraw.Draw(picture)
    for i in range(8):
        draw.line((0, 22 * i, 224, 22 * i), fill=(215, 215, 222))
        draw.line((28 * i, 0, 28 * i, 176), fill=(215, 215, 222))
    for colour in PALETTE[:4]:
        steps = np.cumsum(random.standard_normal(56)) * 7
        points = [(4 * i, 88 + float(v)) for i, v in enumerate(steps)]
        draw.line(points, fill=colour, width=2)
    return picture


def tiles(random: np.random.Generator) -> Image.Image:
    picture = Image.new("RGB", (176, 176))
    draw = ImageDraw.Draw(picture)
    for row in range(8):
        for column in range(8):
            box = (22 * column, 22 * row, 22 * column + 21, 22 * row + 21)
            draw.rectangle(box, fill=PALETTE[int(random.integers(len(PALETTE)))])
            start = int(random.integers(4)) * 90
            draw.pieslice(box, start, start + 90, fill=PALETTE[int(random.integers(len(PALETTE)))])
    return picture


def text(lines: list[str], ink: str, paper: str) -> Callable[[np.random.Generator], Image.Image]:
    def draw(random: np.random.Generator) -> Image.Image:
        picture = Image.new("RGB", (256, 176), paper)
        for i, line in enumerate(lines):
            ImageDraw.Draw(picture).text((10, 8 + 26 * i), line, fill=ink, font=ImageFont.load_default(10 + 3 * i))
        return picture

    return draw


ENGLISH = [
    "The quick brown fox",
    "jumps over the lazy dog",
    "0123456789 +-*/=%",
    "Sphinx of black quartz",
    "Judge my vow",
]
SIGN = ["open daily", "9 to 17", "TICKETS", "Platform 3", "Mind the gap"]

# name, label, split, function
IMAGES: list[tuple[str, str, str, Callable[[np.random.Generator], Image.Image]]] = [
    ("gradient", "gradient", "test", gradient),
    ("sunset", "scene", "test", sunset),
    ("zone-plate", "pattern", "test", zone_plate),
    ("marble-1", "texture", "test", marble),
    ("hills-1", "texture", "test", hills),
    ("balls-1", "scene", "test", balls),
    ("bars-1", "chart", "test", bars),
    ("curves-1", "chart", "test", curves),
    ("tiles-1", "pattern", "test", tiles),
    ("text-1", "text", "test", text(ENGLISH, "black", "white")),
    ("cells-1", "pattern", "valid", cells),
    ("balls-2", "scene", "valid", balls),
    ("curves-2", "chart", "valid", curves),
    ("text-2", "text", "valid", text(SIGN, "white", "#1f3a68")),
    ("stripes", "pattern", "train", stripes),
    ("marble-2", "texture", "train", marble),
    ("balls-3", "scene", "train", balls),
    ("balls-4", "scene", "train", balls),
    ("bars-2", "chart", "train", bars),
    ("curves-3", "chart", "train", curves),
    ("tiles-2", "pattern", "train", tiles),
    ("cells-2", "pattern", "train", cells),
]


def make(index: int) -> Image.Image:
    """Image number ``index`` of the list: a function of its place in it alone."""
    return IMAGES[index][3](np.random.default_rng(index))


def write_samples(folder: Path) -> None:
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "split", "width", "height"])
        for index, (name, label, split, _) in enumerate(IMAGES):
            picture = make(index)
            picture.save(folder / f"{name}.png", optimize=True)
            writer.writerow([f"{name}.png", label, split, *picture.size])


def write_photographs(folder: Path) -> None:
    from skimage import data

    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        try:
            Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.png")
        except (AttributeError, OSError, ModuleNotFoundError) as error:  # some are downloaded on first use
            print(f"left out {name}: {error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="write scikit-image's photographs there")
    chosen = parser.parse_args().photographs
    write_samples(FOLDER) if chosen is None else write_photographs(chosen)
