"""Image data for training: random crops in batches, resumable to the example.

Crops follow ADM (Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021), as LlamaGen trains: the shorter side
is scaled so that the crop is a random share of it. What example number i holds is a function of (seed, i) alone, whatever the
epoch, rank or worker, so that an interrupted run goes on with exactly the examples it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from tokenizers_mm.checks import at_least
from tokenizers_mm.image.sources import Images, ImageSource
from tokenizers_mm.threads import one_thread
from tokenizers_mm.training.loader import ResumableLoader, loader

__all__ = ["Batch", "FixedCrops", "ImageDataModule", "ImageSource", "RandomCrops", "collate"]


class Batch(TypedDict):
    """``signal`` float32 ``[B, 3, H, W]`` in [0, 1]."""

    signal: Tensor


class RandomCrops(Dataset):
    """Endless training examples: number ``i`` is a function of ``(seed, i)`` alone; each pass shows every image once.

    Args:
        images: What to cut from.
        size: Side of the square crops.
        crop_fraction: Range of the crop's share of the image's shorter side, drawn per example.
        flip: Mirror half of the examples.
        transforms: More of ``torchvision.transforms.v2``, applied to the crop in [0, 1].
        seed: Of everything random here.
    """

    def __init__(
        self,
        images: Images,
        size: int,
        *,
        crop_fraction: tuple[float, float] = (1.0, 1.0),
        flip: bool = True,
        transforms: Sequence[nn.Module] = (),
        seed: int = 0,
    ) -> None:
        self.images, self.size, self.crop_fraction, self.flip = images, size, crop_fraction, flip
        self.transforms, self.seed = transforms, seed
        self._order = (-1, np.arange(len(images)))

    def __len__(self) -> int:
        """Examples of one pass."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        with one_thread():  # as in a worker process, so that their number changes nothing
            return self._example(index)

    def _example(self, index: int) -> Tensor:
        turn, place = divmod(index, len(self))
        if self._order[0] != turn:
            self._order = (turn, np.random.default_rng((self.seed, 0, turn)).permutation(len(self)))
        random = np.random.default_rng((self.seed, 1, index))
        x = self.images[int(self._order[1][place])]
        x = scaled(x, round(self.size / random.uniform(*self.crop_fraction)))
        top, left = (int(random.integers(side - self.size + 1)) for side in x.shape[1:])
        x = tv.crop(x, top, left, self.size, self.size)
        if self.flip and random.random() < 0.5:
            x = tv.horizontal_flip(x)
        x = to_float(x)
        if not self.transforms:
            return x
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms draw from the global generator
            torch.manual_seed(int(random.integers(2**63)))
            for transform in self.transforms:
                x = transform(x)
        return x.clamp(0, 1)


class FixedCrops(Dataset):
    """Validation and test examples: the shorter side scaled to ``size``, the middle cut out.

    Args:
        images: What to cut from.
        size: Side of the square crops.
    """

    def __init__(self, images: Images, size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return to_float(centre_crop(self.images[index], self.size))


def scaled(x: Tensor, shorter: int) -> Tensor:
    """``x [3, H, W]`` with its shorter side scaled to ``shorter`` (bicubic, antialiased); as it is where that fits."""
    height, width = x.shape[-2:]
    least = min(height, width)
    if least == shorter:
        return x
    size = [max(shorter, round(side * shorter / least)) for side in (height, width)]
    if 1 in (*size, height, width):  # torch's 8-bit kernel fails an assertion on such images
        x = to_float(x)
    return tv.resize(x, size, InterpolationMode.BICUBIC, antialias=True)


def centre_crop(x: Tensor, size: int) -> Tensor:
    """The middle ``size x size`` of ``x [3, H, W]`` scaled so that its shorter side is ``size``."""
    return tv.center_crop(scaled(x, size), [size, size])


def to_float(x: Tensor) -> Tensor:
    """Pixels, uint8 or float, as float32 in [0, 1]."""
    return tv.to_dtype(x, torch.float32, scale=True).clamp(0, 1)


def collate(images: Sequence[Tensor]) -> Batch:
    """Images ``[3, H, W]`` of one size as a batch."""
    return {"signal": torch.stack(list(images))}


class ImageDataModule(L.LightningDataModule):
    """Training crops and validation crops from images of any size and format, as :class:`Batch`.

    Args:
        train: Source or sources of training images.
        valid: Of validation images; none means no validation.
        test: Of test images.
        size: Side of the square crops in pixels.
        batch_size: Items per batch and device.
        num_workers: Processes that prepare batches.
        crop_fraction: Range of a training crop's share of the image's shorter side; ``[0.8, 1.0]`` is ADM's and LlamaGen's.
        flip: Mirror half of the training crops.
        transforms: More of ``torchvision.transforms.v2`` for training crops, on float images in [0, 1].
        cache: Decode everything once and keep it in memory as 8-bit integers: for sets of a few thousand small images.
        examples_per_epoch: Examples per epoch over all devices; by default the number of images.
        seed: Of the order, the crops and the transforms.

    Raises:
        ValueError: For numbers out of range.
    """

    def __init__(
        self,
        train: ImageSource | list[ImageSource],
        valid: ImageSource | list[ImageSource] | None = None,
        test: ImageSource | list[ImageSource] | None = None,
        *,
        size: int = 256,
        batch_size: int = 16,
        num_workers: int = 0,
        crop_fraction: tuple[float, float] = (0.8, 1.0),
        flip: bool = True,
        transforms: list[nn.Module] | None = None,
        cache: bool = False,
        examples_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(1, size=size, batch_size=batch_size, examples_per_epoch=examples_per_epoch)
        at_least(0, num_workers=num_workers, seed=seed)
        if not 0 < crop_fraction[0] <= crop_fraction[1] <= 1:
            raise ValueError(f"crop_fraction must be a range (least, most) within (0, 1], got {crop_fraction}")
        self.sources = {"train": _listed(train), "valid": _listed(valid), "test": _listed(test)}
        self.size, self.batch_size, self.num_workers = size, batch_size, num_workers
        self.crop_fraction, self.flip, self.transforms = crop_fraction, flip, transforms or []
        self.cache, self.examples_per_epoch, self.seed = cache, examples_per_epoch, seed
        self.images: dict[str, Images] = {}

    def prepare_data(self) -> None:
        """Download what is to be downloaded, once per machine."""
        for source in [source for sources in self.sources.values() for source in sources]:
            if source.download or source.kind == "huggingface":
                source.pictures()

    def setup(self, stage: str | None = None) -> None:
        """Find the images of the splits that this stage needs."""
        needed = {"fit": ("train", "valid"), "validate": ("valid",), "test": ("test",)}.get(stage or "", self.sources)
        for split in needed:
            if split not in self.images and self.sources[split]:
                self.images[split] = Images(self.sources[split], cache=self.cache and split != "test")

    def train_dataloader(self) -> ResumableLoader:
        """Random crops, going on from epoch to epoch without repeating an example number."""
        data = RandomCrops(
            self.images["train"],
            self.size,
            crop_fraction=self.crop_fraction,
            flip=self.flip,
            transforms=self.transforms,
            seed=self.seed,
        )
        count = self.examples_per_epoch or len(data)
        return ResumableLoader(data, self.batch_size, count, self.num_workers, collate=collate)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The middle of every validation image, in a fixed order."""
        return self._fixed("valid")

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        """The middle of every test image, in a fixed order."""
        return self._fixed("test")

    def _fixed(self, split: str) -> DataLoader | list[DataLoader]:
        if split not in self.images:
            return []
        return loader(FixedCrops(self.images[split], self.size), self.num_workers, collate, batch_size=self.batch_size)


def _listed(source: ImageSource | list[ImageSource] | None) -> list[ImageSource]:
    return [source] if isinstance(source, ImageSource) else list(source or [])
