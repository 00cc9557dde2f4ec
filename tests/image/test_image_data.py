"""Image data: every example is a function of its number, and folders, manifests, shards and datasets give the same images."""

from __future__ import annotations

import csv
import io
import sys
import tarfile
import types
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from PIL import Image
from torchvision.transforms import v2

from tokenizers_mm.image.data import FixedCrops, ImageDataModule, RandomCrops, centre_crop
from tokenizers_mm.image.sources import Images, ImageSource, expand


def picture(number: int, height: int = 24, width: int = 24) -> Image.Image:
    """Red is the picture's number, green its row, blue its column."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([np.full_like(x, number), y, x], axis=-1).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "sub/b", "sub/deep/c", "sub/deep/d", "e")):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, 24 + number, 30).save(path)
    return tmp_path / "images"


def shard(path: Path, numbers: range, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for n in numbers:
            for extension in ("png", "json"):
                file = io.BytesIO()
                if extension == "png":
                    picture(n).save(file, "PNG")
                info = tarfile.TarInfo(f"{n:04d}.{extension}")
                info.size = len(file.getvalue())
                file.seek(0)
                archive.addfile(info, file)
    return path


def numbers(images: Images) -> list[int]:
    return [int(images[i][0, 0, 0]) for i in range(len(images))]


def module(folder: Path, **options: object) -> ImageDataModule:
    source = ImageSource(str(folder))
    built = ImageDataModule(source, source, source, **{"size": 16, "batch_size": 2, **options})  # type: ignore[arg-type]
    built.setup("fit")
    return built


def stream(loader: object, batches: int) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    while len(found) < batches:
        found += [batch["signal"] for batch in islice(loader, batches - len(found))]  # type: ignore[call-overload]
    return found


# -- sources


def test_folders_are_searched_in_a_fixed_order_and_other_files_ignored(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    picture(9).save(folder / ".hidden.png")
    assert numbers(Images([ImageSource(str(folder))])) == [0, 4, 1, 2, 3]


def test_manifests_give_the_rows_of_a_split(folder: Path) -> None:
    manifest = folder / "list.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "split"], ["a.png", "train"], ["sub/b.png", "valid"]])
    assert numbers(Images([ImageSource(str(manifest))])) == [0, 1]
    assert numbers(Images([ImageSource(str(manifest), split="valid")])) == [1]
    with pytest.raises(ValueError, match=r"no image in manifest .*'nope'"):
        ImageSource(str(manifest), split="nope").pictures()
    manifest.write_text("file\na.png\n")
    with pytest.raises(ValueError, match=r"'path'.*\['file'\]"):
        ImageSource(str(manifest)).pictures()


def test_shards_are_read_in_place(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", range(3))
    shard(tmp_path / "train-1.tar", range(3, 5))
    for pattern in ("train-*.tar", "train-{0..1}.tar"):
        assert numbers(Images([ImageSource(str(tmp_path / pattern), kind="shards")])) == [0, 1, 2, 3, 4]
    assert numbers(Images([ImageSource(str(tmp_path / "train-1.tar"))])) == [3, 4]
    assert [p.name for p in expand(str(tmp_path / "train-{1..1}.tar"))] == ["train-1.tar"]
    with pytest.raises(FileNotFoundError, match=r"train-2\.tar"):
        ImageSource(str(tmp_path / "train-{0..2}.tar")).pictures()
    shard(tmp_path / "packed.tar", range(2), "w:gz")
    with pytest.raises(ValueError, match="not an uncompressed tar"):
        ImageSource(str(tmp_path / "packed.tar")).pictures()
    (tmp_path / "none.tar").write_bytes(b"not a tar at all")
    with pytest.raises(ValueError, match=r"none\.tar"):
        ImageSource(str(tmp_path / "none.tar")).pictures()


def test_torchvision_datasets_by_name(tmp_path: Path) -> None:
    source = ImageSource(str(tmp_path), kind="torchvision", dataset="FakeData")
    with pytest.raises(ValueError, match=r"torchvision\.datasets, got 'Nothing'"):
        ImageSource(str(tmp_path), kind="torchvision", dataset="Nothing").pictures()
    with pytest.raises(FileNotFoundError, match=r"no CIFAR10 .*download: true"):
        ImageSource(str(tmp_path), kind="torchvision", dataset="CIFAR10").pictures()
    from torchvision import datasets

    original = datasets.FakeData
    try:
        datasets.FakeData = lambda root: original(3, (3, 20, 24))  # the root folder of others is its size
        images = Images([source])
        assert len(images) == 3
        assert images[1].shape == (3, 20, 24)
    finally:
        datasets.FakeData = original


def test_hugging_face_datasets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    picture(2).save(file, "PNG")
    rows = [{"image": picture(1)}, {"image": {"bytes": file.getvalue(), "path": None}}, {"other": 0}]
    fake = types.ModuleType("datasets")
    asked = []
    fake.load_dataset = lambda *args, **kwargs: asked.append((args, kwargs)) or rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    images = Images([ImageSource("owner/name", split="test", kind="huggingface", dataset="small")])
    assert asked == [(("owner/name", "small"), {"split": "test"})]
    assert int(images[0][0, 0, 0]) == 1
    assert int(images[1][0, 0, 0]) == 2
    with pytest.warns(UserWarning, match=r"owner/name\[2\] has no column 'image', only \['other'\]"):
        assert int(images[2][0, 0, 0]) == 1
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        ImageSource("owner/name", kind="huggingface").pictures()


@pytest.mark.parametrize("path", ["nowhere", "nowhere.csv", "nowhere.tar"])
def test_missing_sources_are_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageSource(str(tmp_path / path)).pictures()


@pytest.mark.parametrize("cache", [False, True])
def test_broken_images_cost_one_warning_that_names_them(folder: Path, cache: bool) -> None:
    (folder / "aa.png").write_bytes((folder / "a.png").read_bytes()[:60])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = Images([ImageSource(str(folder))], cache=cache)
        found = numbers(images) + numbers(images)
    assert [str(w.message).count("aa.png") for w in caught] == [1]
    assert set(found) == {0, 1, 2, 3, 4}


def test_a_source_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image in folder"):
        Images([ImageSource(str(tmp_path))])
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"none of 1 images can be read: .*empty\.png"):
        Images([ImageSource(str(tmp_path))], cache=True)


def test_sources_and_transforms_come_from_yaml(folder: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    text = (
        "class_path: tokenizers_mm.image.data.ImageDataModule\ninit_args:\n"
        f"  train: {{path: {folder}}}\n  valid: [{{path: x.tar}}, {{path: m.csv, split: valid}}]\n"
        "  transforms:\n    - class_path: torchvision.transforms.v2.GaussianBlur\n      init_args: {kernel_size: 3}\n"
    )
    config = parser.parse_args([f"--data={text}"])
    built = parser.instantiate_classes(parser.parse_string(parser.dump(config))).data
    assert built.sources["train"] == [ImageSource(str(folder))]
    assert built.sources["valid"] == [ImageSource("x.tar"), ImageSource("m.csv", split="valid")]
    assert isinstance(built.transforms[0], v2.GaussianBlur)


# -- crops


def test_crops_are_windows_of_the_scaled_image(folder: Path) -> None:
    crops = RandomCrops(Images([ImageSource(str(folder))]), 24)
    assert crops[0].shape == (3, 24, 24)
    assert crops[0].dtype == torch.float32
    x = RandomCrops(crops.images, 24, flip=False)[0] * 255  # shorter sides are 24 to 28: hardly scaled
    assert float((x[2, :, 1:] - x[2, :, :-1]).mean()) == pytest.approx(1, abs=0.2)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 50), width=st.integers(1, 50), size=st.integers(1, 40), low=st.floats(0.3, 1))
def test_any_size_gives_whole_crops(height: int, width: int, size: int, low: float) -> None:
    class One:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.full((3, height, width), 100, dtype=torch.uint8)

    x = RandomCrops(One(), size, crop_fraction=(low, 1.0))[3]  # type: ignore[arg-type]
    assert x.shape == (3, size, size)
    assert torch.allclose(x, torch.tensor(100 / 255), atol=0.01)
    assert FixedCrops(One(), size)[0].shape == (3, size, size)  # type: ignore[arg-type]


def test_validation_shows_the_middle(folder: Path) -> None:
    x = torch.arange(3 * 8 * 12).reshape(3, 8, 12).float() / 288
    assert torch.equal(centre_crop(x, 8), x[:, :, 2:10])
    built = module(folder)
    first, second = (stream(built.val_dataloader(), 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert [len(b) for b in first] == [2, 2, 1]


def test_each_pass_shows_every_image_once_and_flips_half(folder: Path) -> None:
    crops = RandomCrops(Images([ImageSource(str(folder))]), 24)
    for turn in range(3):
        shown = [round(float(crops[5 * turn + i][0].mean()) * 255) for i in range(5)]
        assert sorted(shown) == [0, 1, 2, 3, 4]
    flipped = [float(crops[i][2, 0, 0] - crops[i][2, 0, -1]) > 0 for i in range(60)]
    assert 15 < sum(flipped) < 45


def test_examples_are_functions_of_seed_and_number(folder: Path) -> None:
    options = {"crop_fraction": (0.5, 1.0), "transforms": [v2.ColorJitter(0.3), v2.GaussianBlur(3)]}
    crops = [
        RandomCrops(Images([ImageSource(str(folder))], cache=c), 16, **options, seed=s)
        for c, s in ((0, 0), (1, 0), (0, 1))
    ]
    for index in (0, 7, 23):
        torch.manual_seed(index)
        assert torch.equal(crops[0][index], crops[1][index])
        assert not torch.equal(crops[0][index], crops[2][index])
        assert float(crops[0][index].min()) >= 0
        assert float(crops[0][index].max()) <= 1


def test_workers_do_not_change_the_batches(folder: Path) -> None:
    alone, helped = (
        stream(module(folder, num_workers=n, crop_fraction=(0.5, 1.0)).train_dataloader(), 4) for n in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


@settings(max_examples=10, deadline=None)
@given(stop=st.integers(0, 8), per_epoch=st.integers(1, 9))
def test_a_restored_loader_goes_on_where_it_stopped(
    tmp_path_factory: pytest.TempPathFactory, stop: int, per_epoch: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "image-resume"
    if not root.exists():
        root.mkdir()
        for n in range(5):
            picture(n, 20, 26).save(root / f"{n}.png")
    built = module(root, cache=True, examples_per_epoch=per_epoch)
    whole, first, second = stream(built.train_dataloader(), 10), built.train_dataloader(), built.train_dataloader()
    start = stream(first, stop)
    second.load_state_dict(first.state_dict())
    resumed = start + stream(second, 10 - stop)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_wrong_options_are_named(folder: Path) -> None:
    for options, match in (
        ({"size": 0}, "size must be at least 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"crop_fraction": (0.9, 0.5)}, "crop_fraction"),
        ({"crop_fraction": (0.5, 1.5)}, "crop_fraction"),
    ):
        with pytest.raises(ValueError, match=match):
            module(folder, **options)
