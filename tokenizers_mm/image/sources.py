"""Where training images come from: folders, manifests, tar shards, torchvision and Hugging Face datasets, read at random."""

from __future__ import annotations

import glob
import re
import tarfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from tokenizers_mm.image import files
from tokenizers_mm.manifest import manifest_paths

Kind = Literal["folder", "manifest", "shards", "torchvision", "huggingface"]
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Picture(Protocol):
    """One image that can be decoded when it is needed."""

    @property
    def name(self) -> str:
        """Where it comes from, for messages."""
        ...

    def pixels(self) -> Tensor:
        """``[3, H, W]``, uint8 or float32 in [0, 1]."""
        ...


@dataclass(frozen=True)
class FilePicture:
    """An image file, or ``size`` bytes from ``offset`` on in an uncompressed tar."""

    path: Path
    name: str
    offset: int = 0
    size: int = -1

    def pixels(self) -> Tensor:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return files.decode(file.read(self.size), self.name)


@dataclass(frozen=True)
class ItemPicture:
    """Item ``index`` of a map-style dataset that gives Pillow images, encoded files, or pairs or mappings with one."""

    dataset: Any
    index: int
    column: str
    name: str

    def pixels(self) -> Tensor:
        item = self.dataset[self.index]
        if isinstance(item, dict):
            if self.column not in item:
                raise ValueError(f"{self.name} has no column {self.column!r}, only {sorted(item)}")
            item = item[self.column]
        elif isinstance(item, tuple):
            item = item[0]
        if isinstance(item, dict) and item.get("bytes"):  # a Hugging Face image that is not decoded
            return files.decode(item["bytes"], self.name)
        if not isinstance(item, Image.Image):
            raise ValueError(f"{self.name} gives {type(item).__name__}, expected a Pillow image")
        return files.rgb(item, self.name)


@dataclass(frozen=True)
class ImageSource:
    """Where images come from.

    Args:
        path: A folder (searched with its subfolders); a manifest CSV (column ``path``, relative to the CSV); tar shards in
            webdataset's layout, uncompressed, as one file, a pattern (``train-*.tar``) or a range
            (``train-{00000..00007}.tar``); the root folder of a torchvision dataset; or the name of a Hugging Face dataset
            (or a folder that ``datasets.load_from_disk`` reads).
        split: Manifest: keep the rows whose column ``split`` says this. torchvision: its ``split``, or ``train`` / ``test``
            where it has a ``train`` flag. Hugging Face: the split. By default everything, and for the latter two ``"train"``.
        kind: What ``path`` is; by default told from its ending: ``.csv`` a manifest, ``.tar`` shards, else a folder.
        dataset: torchvision: the class, such as ``"CIFAR10"``. Hugging Face: the configuration, where there are several.
        column: Hugging Face: the column with the image.
        download: Fetch the torchvision dataset if it is not there yet.
    """

    path: str
    split: str | None = None
    kind: Kind | None = None
    dataset: str | None = None
    column: str = "image"
    download: bool = False

    def pictures(self) -> Sequence[Picture]:
        """The source's images in a fixed order; whether they can be decoded is not checked.

        Raises:
            FileNotFoundError: If the folder, manifest, shard or dataset does not exist.
            ValueError: If the manifest lacks a column, a shard is compressed, or nothing matches.
            ImportError: If a Hugging Face dataset is named and ``datasets`` is not installed.
        """
        ending = Path(self.path).suffix.lower()
        kind: str = self.kind or {".csv": "manifest", ".tar": "shards"}.get(ending, "folder")
        if self.split is not None and kind in ("folder", "shards"):
            raise ValueError(f"split is for manifests and named datasets, {self.path} is a {kind} source")
        find = {"folder": self._folder, "manifest": self._manifest, "shards": self._shards}
        found = find[kind]() if kind in find else self._named(kind)
        if not found:
            raise ValueError(f"no image in {kind} {self.path}" + (f", split {self.split!r}" if self.split else ""))
        return found

    def _folder(self) -> Sequence[Picture]:
        folder = Path(self.path)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder at {folder}")
        return [FilePicture(p, str(p)) for p in sorted(folder.rglob("*")) if _is_image(p.name) and p.is_file()]

    def _manifest(self) -> Sequence[Picture]:
        return [FilePicture(path, str(path)) for path in manifest_paths(Path(self.path), self.split)]

    def _shards(self) -> Sequence[Picture]:
        return [picture for shard in expand(self.path) for picture in _members(shard)]

    def _named(self, kind: str) -> Sequence[Picture]:
        dataset = self._torchvision() if kind == "torchvision" else self._huggingface()
        label = self.dataset if kind == "torchvision" else self.path
        return [ItemPicture(dataset, i, self.column, f"{label}[{i}]") for i in range(len(dataset))]

    def _torchvision(self) -> Any:
        from inspect import signature

        from torchvision import datasets

        if not hasattr(datasets, self.dataset or ""):
            raise ValueError(f"dataset must name a class of torchvision.datasets, got {self.dataset!r}")
        build = getattr(datasets, self.dataset or "")
        takes, split = signature(build).parameters, self.split or "train"
        options: dict[str, Any] = {"download": self.download} if "download" in takes else {}
        options |= {"split": split} if "split" in takes else {"train": split == "train"} if "train" in takes else {}
        try:
            return build(self.path, **options)
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"no {self.dataset} under {self.path} (download: true fetches it): {error}"
            ) from None

    def _huggingface(self) -> Any:
        try:
            import datasets
        except ImportError:
            raise ImportError("Hugging Face datasets need the package datasets: pip install datasets") from None
        if Path(self.path).is_dir():
            loaded = datasets.load_from_disk(self.path)
            return loaded[self.split or "train"] if isinstance(loaded, dict) else loaded
        return datasets.load_dataset(self.path, self.dataset, split=self.split or "train")


def expand(pattern: str) -> list[Path]:
    """The shards that a path, a glob pattern, or a range ``{00000..00007}`` names, in order.

    Raises:
        FileNotFoundError: If one of them does not exist, or nothing matches.
    """
    if span := _RANGE.search(pattern):
        first, last, width = int(span[1]), int(span[2]), len(span[1])
        names = [f"{pattern[: span.start()]}{n:0{width}d}{pattern[span.end() :]}" for n in range(first, last + 1)]
        return [path for name in names for path in expand(name)]
    paths = [Path(pattern)] if Path(pattern).is_file() else [Path(p) for p in sorted(glob.glob(pattern))]
    if not paths:
        raise FileNotFoundError(f"no shard at {pattern}")
    return paths


def _members(shard: Path) -> list[FilePicture]:
    """Where each image lies inside an uncompressed tar."""
    try:
        with tarfile.open(shard, "r:") as archive:
            images = [member for member in archive if member.isfile() and _is_image(member.name)]
    except tarfile.TarError as error:
        raise ValueError(f"{shard} is not an uncompressed tar, or it is damaged: {error}") from None
    return [FilePicture(shard, f"{shard}:{m.name}", m.offset_data, m.size) for m in images]


def _is_image(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in files.EXTENSIONS and not path.name.startswith(".")


class Images:
    """The images of some sources, decoded when asked for, or all at once.

    Args:
        sources: Where they come from.
        cache: Keep every image in memory, decoded, as 8-bit integers.

    Raises:
        FileNotFoundError, ValueError: If a source does not exist, or (cached) no image can be decoded.
    """

    def __init__(self, sources: Sequence[ImageSource], *, cache: bool = False) -> None:
        self.pictures = [picture for source in sources for picture in source.pictures()]
        self._broken: set[int] = set()
        self.cached: Tensor | None = None
        if cache:
            self._decode_all()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        """Pixels ``[3, H, W]``, uint8 or float32 in [0, 1]; a damaged image is replaced by the next, with one warning."""
        for step in range(len(self)):
            item = (index + step) % len(self)
            if item in self._broken:
                continue
            if self.cached is not None:
                begin, (height, width) = int(self.starts[item]), self.sizes[item]
                return self.cached[begin : begin + 3 * height * width].view(3, height, width)
            try:
                return self.pictures[item].pixels()
            except (ValueError, OSError) as error:
                self._broken.add(item)
                warnings.warn(f"an image is skipped: {error}", stacklevel=2)
        raise ValueError(f"none of {len(self)} images can be read")

    def _decode_all(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            decoded = list(pool.map(_attempt, self.pictures))
        broken = [found for found in decoded if isinstance(found, Exception)]
        good = [(picture, x) for picture, x in zip(self.pictures, decoded, strict=True) if isinstance(x, Tensor)]
        if not good:
            raise ValueError(f"none of {len(decoded)} images can be read: {_some(broken)}")
        if broken:
            rank_zero_warn(f"{len(broken)} of {len(decoded)} images are skipped: {_some(broken)}", category=UserWarning)
        self.pictures = [picture for picture, _ in good]
        self.sizes = [(x.shape[1], x.shape[2]) for _, x in good]
        self.starts = np.cumsum([0, *(3 * h * w for h, w in self.sizes)])
        # one tensor, not a list: workers of any start method share it through a single handle
        self.cached = torch.cat([x.flatten() for _, x in good])


def _attempt(picture: Picture) -> Tensor | Exception:
    try:
        x = picture.pixels()
    except (ValueError, OSError) as error:
        return error
    return x if x.dtype == torch.uint8 else files.to_uint8(x)


def _some(errors: Sequence[Exception], most: int = 5) -> str:
    more = f"; and {len(errors) - most} more" if len(errors) > most else ""
    return "; ".join(str(error) for error in errors[:most]) + more
