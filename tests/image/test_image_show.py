"""What people see of image codecs: pictures in reports, in run folders, on the command line."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tokenizers_mm.evaluation.html import write_html
from tokenizers_mm.image import VQGAN, VARTokenizer, files, show
from tokenizers_mm.image.monitor import ImageMonitor, grid
from tokenizers_mm.tokens import TokenSpec

SPEC = TokenSpec("image", (16,), axes=("height", "width"), hop=(8, 8), channels=3)
SAMPLES = Path(__file__).parents[2] / "eval" / "samples" / "images"
SMALL = {
    "hop": 8,
    "patch_size": 4,
    "channels": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "groups": 4,
    "latent_channels": 8,
}


def small_vqgan() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(**SMALL, level_attention=False, quantizer={"kind": "fsq", "levels": [8, 5, 5]}).eval()


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


def test_the_magnified_square_is_where_the_error_is() -> None:
    x = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[:, 40:50, 70:80] = 1 - y[:, 40:50, 70:80]
    top, left, side = show.worst_square(x, y)
    assert side == 16
    assert top <= 40
    assert top + side >= 50
    assert left <= 70
    assert left + side >= 80


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (1, 1), (3, 500), (900, 700)])
def test_reconstructions_come_with_their_error(tmp_path: Path, size: tuple[int, int]) -> None:
    x = torch.rand(3, *size)
    files.write(tmp_path / "a.png", x, SPEC)
    files.write(tmp_path / "b.png", 1 - x, SPEC)
    original, reconstruction = (
        show.render(tmp_path / "a.png", SPEC),
        show.render(tmp_path / "b.png", SPEC, tmp_path / "a.png"),
    )
    assert max(opened(original.image).size) == min(show.SIDE, max(size))
    assert opened(reconstruction.image).size[0] > opened(original.image).size[0]
    assert "error" in reconstruction.caption
    files.write(tmp_path / "c.png", torch.rand(3, 2, 2), SPEC)
    with pytest.raises(ValueError, match="its original"):
        show.render(tmp_path / "c.png", SPEC, tmp_path / "a.png")


def test_strips_show_every_prefix_of_scales() -> None:
    torch.manual_seed(0)
    codec = VARTokenizer(**SMALL, scales=[1, 2, 4], codebook_size=32, level_attention=False).eval()
    image = torch.rand(3, 32, 32)
    strip = show.scale_strip(codec, image)
    assert strip.shape == (3, 32, 4 * 32 + 3 * show.GAP)
    assert torch.equal(strip[..., -32:], image)
    assert torch.allclose(strip[..., -68:-36], codec.reconstruct(image[None])[0], atol=1e-6)
    with pytest.raises(ValueError, match="scalable in 'scales'"):
        show.scale_strip(small_vqgan(), image)


def test_a_report_shows_the_strip_of_a_codec_with_scales(tmp_path: Path) -> None:
    from tokenizers_mm.evaluation.run import evaluate

    torch.manual_seed(0)
    VARTokenizer(**SMALL, scales=[1, 2, 4], codebook_size=32, level_attention=False).save_pretrained(tmp_path / "codec")
    files.write(tmp_path / "data" / "a.png", torch.rand(3, 32, 40), SPEC)
    report = evaluate(
        [str(tmp_path / "codec")],
        suite="image",
        data=tmp_path / "data",
        split="all",
        metrics=["psnr"],
        baselines=[],
        keep=tmp_path / "kept",
    )
    kept = report.codecs[0].items[0].kept
    assert kept is not None
    assert kept.strip is not None
    strip = files.read(tmp_path / "kept" / kept.strip, SPEC)
    assert strip.shape == (3, 32, 4 * 40 + 3 * show.GAP)
    page = write_html(report, tmp_path / "report.html", items_folder=tmp_path / "kept").read_text()
    assert "Decoded from the first scale alone" in page
    assert opened(show.render_strip(tmp_path / "kept" / kept.strip, SPEC).image).size == (172, 32)


def test_the_monitor_writes_pictures_and_psnr(tmp_path: Path) -> None:
    monitor, logged = ImageMonitor(images=2), {}
    trainer = SimpleNamespace(
        sanity_checking=False, is_global_zero=True, global_step=7, default_root_dir=str(tmp_path), loggers=[]
    )
    module = SimpleNamespace(log=lambda name, value, **_: logged.update({name: float(value)}), codec=small_vqgan())
    x = torch.rand(3, 3, 16, 16)
    outputs = {"reconstruction": (x + 10 / 255)}
    monitor.on_validation_batch_end(trainer, module, outputs, {"signal": (x * 200).round() / 255}, 0)  # type: ignore[arg-type]
    monitor.on_validation_epoch_end(trainer, module)  # type: ignore[arg-type]
    assert Image.open(tmp_path / "images" / "step-0000007.png").size == (34, 52)
    assert 0 < logged["images/psnr"] < 30
    assert ImageMonitor(1).state_dict() == {"validations": 0}
    with pytest.raises(ValueError, match="at least 1"):
        ImageMonitor(0)


def test_grids_take_pictures_of_several_sizes() -> None:
    a, b = torch.rand(3, 8, 6), torch.rand(3, 5, 9)
    assert grid([(a, a), (b, b)], gap=2).shape == (3, 3 * 10 - 2, 2 * 11 - 2)


# -- command line


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    small_vqgan().save_pretrained(folder)
    return folder


def run(*arguments: object) -> str:
    from tokenizers_mm.cli import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_folders_of_images_become_tokens_and_images_again(tmp_path: Path, codec_folder: Path) -> None:
    sizes = {"a.png": (30, 21), "sub/b.jpg": (16, 40), "c.webp": (1, 1)}
    for name, size in sizes.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)).save(
            tmp_path / "in" / name
        )
    run("encode", tmp_path / "in", "-c", codec_folder, "-o", tmp_path / "tokens")
    run("decode", tmp_path / "tokens", "-c", codec_folder, "-o", tmp_path / "out")
    for name, size in sizes.items():
        assert Image.open((tmp_path / "out" / name).with_suffix(".png")).size == size
    run("decode", tmp_path / "tokens" / "a.mmt", "-c", codec_folder, "-o", tmp_path / "one.jpg")
    assert Image.open(tmp_path / "one.jpg").format == "JPEG"


def test_evaluation_of_a_folder_and_of_a_shard_agree(tmp_path: Path, codec_folder: Path) -> None:
    import tarfile

    for n in range(2):
        pixels = np.random.default_rng(n).integers(0, 255, (24, 40, 3), np.uint8)
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{n}.png")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for n in range(2):
            archive.add(tmp_path / "set" / f"{n}.png", f"{n}.png")
    reports = []
    for data in ("set", "set.tar"):
        out = tmp_path / f"{data}.json"
        run("eval", codec_folder, "--data", tmp_path / data, "-o", out, "--html", tmp_path / f"{data}.html")
        reports.append(json.loads(out.read_text()))
    first, second = reports
    assert first["data"]["fingerprint"] == second["data"]["fingerprint"]
    codec, *coders = first["codecs"]
    assert codec["rate_unit"] == "bit/pixel"
    assert codec["nominal_rate"] == pytest.approx(15 * np.log2(200) / (24 * 40))
    assert {c["codec"] for c in coders} >= {"JPEG q50", "WebP q50"}
    assert all(c["items"][0]["size"] == [24, 40] for c in first["codecs"])
    assert codec["metrics"]["psnr"] == second["codecs"][0]["metrics"]["psnr"]
    assert codec["metrics"]["lpips"]["mean"] is None
    page = (tmp_path / "set.html").read_text()
    assert page.count("data:image/webp") >= 4


# -- samples that ship


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_images", SAMPLES / "make_images.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["make_images"] = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def test_samples_are_what_the_manifest_and_the_script_say(script: ModuleType) -> None:
    with (SAMPLES / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"{entry[0]}.png" for entry in script.IMAGES]
    assert {p.name for p in SAMPLES.iterdir() if p.is_file()} == {
        *(row["path"] for row in rows),
        "manifest.csv",
        "README.md",
        "make_images.py",
    }
    assert sum(p.stat().st_size for p in SAMPLES.glob("*.png")) < 300_000
    for index, row in enumerate(rows):
        kept = np.array(Image.open(SAMPLES / row["path"]))
        assert kept.shape == (int(row["height"]), int(row["width"]), 3)
        if row["label"] != "text":
            difference = np.abs(kept.astype(int) - np.array(script.make(index)).astype(int))
            assert difference.mean() < 0.5, row["path"]  # libraries of mathematics differ in the last bit
