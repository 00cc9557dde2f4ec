"""Image discriminators: patches, with or without blurred down-sampling, and differentiable augmentation before any of them.

PatchGAN: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2017), in the sizes that taming
transformers, LlamaGen, Open-MAGVIT2 and IBQ train with. Blurred strides: Zhang, "Making Convolutional Networks Shift-Invariant
Again" (2019), as TiTok's and MAGVIT-v2's. Augmentation: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN
Training" (2020). Each maps ``x [B, 3, H, W]`` in [0, 1] (and an unused ``condition``) to one output.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.adversarial import DiscriminatorOutput

SLOPE = 0.2
Norm = Literal["batch", "group", "none"]


class PatchDiscriminator(nn.Module):
    """PatchGAN: strided 4x4 convolutions whose every logit judges a patch (70 pixels a side with three layers).

    Features are the maps of every layer but the last. Parameters carry the names of the published ones
    (``main.0.weight`` ...) where ``norm`` is ``"batch"`` and nothing is blurred.

    Args:
        layers: Strided convolutions, each doubling the width (up to 8 times).
        channels: Width of the first.
        norm: Normalisation after all but the first and last: ``"batch"`` as published, ``"group"`` (32 channels each) where R1
            or small batches forbid it, or ``"none"``.
        blur: Smooth with a binomial filter before each stride.

    Raises:
        ValueError: If ``layers`` or ``channels`` is not positive, or ``norm`` is unknown.
    """

    def __init__(self, layers: int = 3, channels: int = 64, norm: Norm = "batch", blur: bool = False) -> None:
        super().__init__()
        if layers < 1 or channels < 1:
            raise ValueError(f"layers and channels must be at least 1, got {layers} and {channels}")
        if norm not in ("batch", "group", "none"):
            raise ValueError(f"norm must be 'batch', 'group' or 'none', got {norm!r}")
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        modules: list[nn.Module] = [*_stride(3, widths[0], blur, bias=True), nn.LeakyReLU(SLOPE)]
        for index, (narrow, wide) in enumerate(pairwise(widths)):
            bias = norm == "none"
            last = index == layers - 1
            modules += [nn.Conv2d(narrow, wide, 4, 1, 1, bias=bias)] if last else _stride(narrow, wide, blur, bias)
            modules += [*_norm(norm, wide), nn.LeakyReLU(SLOPE)]
        self.main = nn.Sequential(*modules, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.apply(_initialise)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        x, features = x * 2 - 1, []
        for module in self.main:
            x = module(x)
            if isinstance(module, nn.LeakyReLU):
                features.append(x)
        return [DiscriminatorOutput(x, features)]


class Blur(nn.Module):
    """A 4x4 binomial filter on each channel, padded by reflection; with stride 2 it halves the resolution."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", row[:, None] * row, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.taps.to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=channels)


class Augmented(nn.Module):
    """A discriminator that sees every image after random changes of colour, a shift, and a cut-out, real and generated alike.

    Args:
        discriminator: What sees them.
        colour: Change brightness, saturation and contrast.
        shift: Largest shift along each side as a share of it; 0 for none.
        cutout: Side of the square that is blanked as a share of the image's; 0 for none.

    Raises:
        ValueError: If a share is outside [0, 1].
    """

    def __init__(
        self, discriminator: nn.Module, colour: bool = True, shift: float = 0.125, cutout: float = 0.5
    ) -> None:
        super().__init__()
        if not (0 <= shift <= 1 and 0 <= cutout <= 1):
            raise ValueError(f"shift and cutout must be in [0, 1], got {shift} and {cutout}")
        self.discriminator = discriminator
        self.colour, self.shift, self.cutout = colour, shift, cutout

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[DiscriminatorOutput]:
        if self.colour:
            x = _recolour(x)
        if self.shift:
            x = _shifted(x, self.shift)
        if self.cutout:
            x = _cut_out(x, self.cutout)
        return self.discriminator(x, condition)


def _stride(narrow: int, wide: int, blur: bool, bias: bool) -> list[nn.Module]:
    if blur:
        return [nn.Conv2d(narrow, wide, 3, 1, 1, bias=bias), Blur()]
    return [nn.Conv2d(narrow, wide, 4, 2, 1, bias=bias)]


def _norm(kind: Norm, channels: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(max(1, channels // 32), channels)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    """One number per item, ``[B, 1, 1, 1]``."""
    return torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).uniform_(low, high)


def _recolour(x: Tensor) -> Tensor:
    x = x + _uniform(x, -0.25, 0.25)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * _uniform(x, 0, 2)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * _uniform(x, 0.5, 1.5)


def _places(x: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Whether each pixel lies in its item's rectangle, bool ``[B, 1, H, W]``."""
    rows = torch.arange(x.shape[2], device=x.device)[None, :, None] - top[:, None, None]
    columns = torch.arange(x.shape[3], device=x.device)[None, None, :] - left[:, None, None]
    return ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))[:, None]


def _shifted(x: Tensor, share: float) -> Tensor:
    """Each item moved by its own whole number of pixels, grey where nothing is left."""
    most = [round(side * share) for side in x.shape[2:]]
    padded = F.pad(x, (most[1], most[1], most[0], most[0]), value=0.5)
    top, left = (torch.randint(2 * m + 1, (len(x),), device=x.device) for m in most)
    rows = (top[:, None] + torch.arange(x.shape[2], device=x.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(x.shape[3], device=x.device))[:, None, None, :]
    item, channel = (torch.arange(n, device=x.device) for n in x.shape[:2])
    return padded[item[:, None, None, None], channel[None, :, None, None], rows, columns]


def _cut_out(x: Tensor, share: float) -> Tensor:
    height, width = (round(side * share) for side in x.shape[2:])
    top = torch.randint(-(height // 2), x.shape[2] - height // 2, (len(x),), device=x.device)
    left = torch.randint(-(width // 2), x.shape[3] - width // 2, (len(x),), device=x.device)
    return x.masked_fill(_places(x, top, left, height, width), 0.5)
