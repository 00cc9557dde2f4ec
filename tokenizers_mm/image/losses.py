"""Reconstruction losses on images: structure and gradients without any weights, and perceptual ones from local VGG weights.

Each is called as ``loss(estimate, reference)`` on images ``[B, 3, H, W]`` in [0, 1] and returns a scalar that is 0 for equal
images. Pixel losses are torch's: recipes name ``torch.nn.L1Loss`` and ``torch.nn.MSELoss``.

SSIM: Wang et al., 2004; MS-SSIM: Wang et al., 2003. LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", 2018. Only the loss that has LPIPS's weights is called so; nothing falls back to another silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.published import fit, read_checkpoint

WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian
K1, K2 = 0.01**2, 0.03**2  # its constants for a data range of 1
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
VGG16_FILE = "vgg16-397923af.pth"
"""torchvision's name for the backbone's weights in torch's hub cache."""


class StructuralLoss(nn.Module):
    """What replaces a perceptual network where no weights are at hand: SSIM and differences of edges.

    ``ssim_weight * (1 - SSIM) + gradient_weight * G``: SSIM over several scales (MS-SSIM) where both sides exceed 160 pixels, at
    one scale below; G is the mean absolute difference of horizontal and vertical derivatives, averaged over ``scales``
    resolutions, each half of the one before. It knows edges and texture contrast, not content: never report it as LPIPS.

    Args:
        ssim_weight: Weight of the SSIM term.
        gradient_weight: Weight of the gradient term.
        scales: Resolutions at which derivatives are compared.

    Raises:
        ValueError: If ``scales`` is not positive or a weight is negative.
    """

    def __init__(self, ssim_weight: float = 1.0, gradient_weight: float = 0.5, scales: int = 3) -> None:
        super().__init__()
        if scales < 1 or ssim_weight < 0 or gradient_weight < 0:
            raise ValueError(
                f"scales must be at least 1 and weights >= 0, got {scales}, {ssim_weight} and {gradient_weight}"
            )
        self.ssim_weight, self.gradient_weight, self.scales = ssim_weight, gradient_weight, scales

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference)
        estimate, reference = estimate.float(), reference.float()
        total = estimate.new_zeros(())
        if self.ssim_weight:
            several = min(estimate.shape[-2:]) > (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1)
            similarity = ms_ssim(estimate, reference) if several else ssim(estimate, reference)
            total = total + self.ssim_weight * (1 - similarity)
        if self.gradient_weight:
            total = total + self.gradient_weight * gradient_distance(estimate, reference, self.scales)
        return total


def gradient_distance(estimate: Tensor, reference: Tensor, scales: int) -> Tensor:
    """Mean absolute difference of neighbouring pixels' differences, averaged over halved resolutions (while 2 pixels remain)."""
    error, terms = estimate - reference, []  # derivatives and means are linear
    for scale in range(scales):
        if min(error.shape[-2:]) < 2:
            break
        terms.append((error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2)
        if scale + 1 < scales:
            error = F.avg_pool2d(error, 2)
    return torch.stack(terms).mean() if terms else error.abs().mean()


def ssim(estimate: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of images in [0, 1], mean over everything: Gaussian window 11 (or what fits), sigma 1.5."""
    return torch.stack(_ssim_terms(estimate, reference)).prod(dim=0).mean()


def ms_ssim(estimate: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale structural similarity of images in [0, 1] with the original five weights, mean over the batch."""
    scores = []
    for scale in range(len(SCALE_WEIGHTS)):
        luminance, contrast = _ssim_terms(estimate, reference)
        last = scale == len(SCALE_WEIGHTS) - 1
        scores.append((luminance * contrast if last else contrast).mean(dim=(1, 2, 3)))
        if not last:
            estimate, reference = F.avg_pool2d(estimate, 2), F.avg_pool2d(reference, 2)
    weights = torch.tensor(SCALE_WEIGHTS, device=estimate.device)[:, None]
    # a negative contrast has no fractional power; the floor keeps its gradient finite
    return (torch.stack(scores).clamp(min=1e-6) ** weights).prod(dim=0).mean()


def _ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps ``[B, C, H - 10, W - 10]``."""
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    both = mean_x.square() + mean_y.square()
    luminance = (2 * mean_x * mean_y + K1) / (both + K1)
    contrast = (2 * (xy - mean_x * mean_y) + K2) / (xx + yy - both + K2)
    return luminance, contrast


def _blur(x: Tensor) -> Tensor:
    """Gaussian means of every whole window. Two products with banded matrices: far faster than a convolution on CPUs."""
    rows, columns = (_band(side, x.device) for side in x.shape[-2:])
    return rows @ x @ columns.T


def _band(side: int, device: torch.device) -> Tensor:
    """``[side - window + 1, side]``: one Gaussian per row."""
    window = min(WINDOW, side if side % 2 else side - 1)
    offsets = torch.arange(window, device=device) - window // 2
    taps = torch.exp(-offsets.square() / (2 * SIGMA**2))
    band = torch.zeros(side - window + 1, side, device=device)
    for i, row in enumerate(band):
        row[i : i + window] = taps / taps.sum()
    return band


# -- with weights ------------------------------------------------------------------------------------------------------


class VGGFeatures(nn.Module):
    """The five maps of VGG16 that perceptual losses compare (relu1_2, 2_2, 3_3, 4_3, 5_3), frozen.

    Simonyan & Zisserman, 2015; weights in torchvision's layout.

    Args:
        weights: Path of ``vgg16-397923af.pth`` (or of a safetensors file with the same keys); by default it is looked for in
            torch's hub cache. ``"random"`` gives random features: for smoke tests only.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If the file holds another network.
    """

    CUTS = (4, 9, 16, 23, 30)
    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        layers = nn.Sequential(*list(make_layers(cfgs["D"]).children())[: self.CUTS[-1]])
        if weights != "random":
            path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / VGG16_FILE
            if not path.is_file():
                raise FileNotFoundError(
                    f"no VGG16 weights at {path}: give the path of torchvision's {VGG16_FILE}, "
                    "or train on StructuralLoss, which needs none"
                )
            found = {k.removeprefix("features."): v for k, v in read_checkpoint(path).items() if "classifier" not in k}
            layers.load_state_dict(fit(found, layers.state_dict(), "VGG16 (torchvision)"))
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.slices = nn.ModuleList(layers[a:b] for a, b in zip((0, *self.CUTS), self.CUTS, strict=False))
        self.register_buffer("mean", torch.tensor(self.MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(self.STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> VGGFeatures:
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images ``[B, 3, H, W]`` in [0, 1], of 64, 128, 256, 512 and 512 channels."""
        maps = []
        x = (x - cast(Tensor, self.mean)) / cast(Tensor, self.std)
        for layers in self.slices:
            x = layers(x)
            maps.append(x)
        return maps


class VGGFeatureLoss(nn.Module):
    """Mean absolute difference of VGG16's maps, averaged over them (Johnson et al., 2016, with L1): not LPIPS.

    Args:
        weights: As for :class:`VGGFeatures`.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.features = VGGFeatures(weights)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference)
        pairs = zip(self.features(estimate), self.features(reference), strict=True)
        return torch.stack([F.l1_loss(a, b) for a, b in pairs]).mean()


class LPIPS(nn.Module):
    """Learned perceptual distance on VGG16: squared differences of unit-length features, weighted per channel.

    Args:
        weights: VGG16's, as for :class:`VGGFeatures`.
        heads: Path of the linear heads (``lin0.model.1.weight`` ...); by default those inside torchmetrics, version 0.1.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If a file holds something else.
    """

    MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # for [-1, 1]
    WIDTHS = (64, 128, 256, 512, 512)

    def __init__(self, weights: str | None = None, heads: str | None = None) -> None:
        super().__init__()
        self.features = VGGFeatures(weights)
        # LPIPS rounds ImageNet's mean and deviation, and states them for [-1, 1]
        self.features.mean.copy_((torch.tensor(self.MEAN)[:, None, None] + 1) / 2)  # type: ignore[operator]
        self.features.std.copy_(torch.tensor(self.STD)[:, None, None] / 2)  # type: ignore[operator]
        for index, head in enumerate(_heads(heads, self.WIDTHS)):
            self.register_buffer(f"head{index}", head, persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference)
        return self.distances(estimate, reference).mean()

    def distances(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """LPIPS of each pair, ``[B]``."""
        total = estimate.new_zeros(len(estimate))
        for index, (a, b) in enumerate(zip(self.features(estimate), self.features(reference), strict=True)):
            difference = (_unit(a) - _unit(b)).square() * cast(Tensor, getattr(self, f"head{index}"))
            total = total + difference.sum(dim=1).mean(dim=(1, 2))
        return total


def _heads(path: str | None, widths: tuple[int, ...]) -> list[Tensor]:
    """The linear heads, each ``[C, 1, 1]``."""
    if path is None:
        from importlib.util import find_spec

        spec = find_spec("torchmetrics")
        path = str(Path(spec.origin or "").parent / "functional/image/lpips_models/vgg.pth") if spec else ""
    own = {f"lin{i}.model.1.weight": torch.empty(1, width, 1, 1) for i, width in enumerate(widths)}
    found = {k: v for k, v in read_checkpoint(path).items() if k.startswith("lin")}
    return [weight[0] for _, weight in sorted(fit(found, own, "LPIPS heads for VGG16").items())]


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()


def check_pair(estimate: Tensor, reference: Tensor) -> None:
    """Refuse pairs that are not two batches of RGB or grey images of one shape.

    Raises:
        ValueError: Naming both shapes.
    """
    if estimate.shape != reference.shape or estimate.ndim != 4 or estimate.shape[1] not in (1, 3):
        raise ValueError(
            f"expected two batches of images [B, 3, H, W] of one shape, got {list(estimate.shape)} and {list(reference.shape)}"
        )
