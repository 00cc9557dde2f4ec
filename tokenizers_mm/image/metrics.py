"""Reconstruction metrics of images, all on 8-bit values in [0, 1], the data range always stated.

The reconstruction is clipped and rounded half up to 8 bits, as a file would hold it; both images must have one size: nothing is
cropped or scaled. Means are of the images' values (PSNR: the mean of decibels, not the decibels of the mean error). What needs
weights is null without them; the Frechet distance that needs none has a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
    universal_image_quality_index,
    visual_information_fidelity,
)

from tokenizers_mm.evaluation.frechet import frechet_distance
from tokenizers_mm.evaluation.metric import Metric, Scores, Unmeasurable, measure, select
from tokenizers_mm.image.files import to_uint8
from tokenizers_mm.image.losses import SCALE_WEIGHTS, WINDOW, gradient_distance
from tokenizers_mm.image.model_metrics import LOADERS, MODEL_METRICS, MODELS
from tokenizers_mm.tokens import TokenSpec

__all__ = ["LOADERS", "METRICS", "MODELS", "Pair", "compute"]

MS_SSIM_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1)  # both sides must exceed it: 160 pixels


class Pair:
    """An image and its reconstruction, ``[1, C, H, W]`` in [0, 1], in steps of 1/255.

    Args:
        reference: ``[C, H, W]``.
        estimate: ``[C, H, W]``, any values.
        about: What the data's manifest says of the image, by column.
    """

    def __init__(self, reference: Tensor, estimate: Tensor, about: Mapping[str, str] | None = None) -> None:
        self.reference, self.estimate = (to_uint8(x.float().cpu())[None].float() / 255 for x in (reference, estimate))
        self.unrounded = estimate[None].detach().float().cpu().clamp(0, 1), reference[None].detach().float().cpu()
        self.about = about or {}

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """Estimate and reference, in torchmetrics' order."""
        return self.estimate, self.reference

    @cached_property
    def rgb(self) -> tuple[Tensor, Tensor]:
        """Both with three channels, reference first."""
        return self.reference.expand(1, 3, -1, -1), self.estimate.expand(1, 3, -1, -1)


def _psnr(images: tuple[Tensor, Tensor]) -> float:
    if torch.equal(*images):
        raise Unmeasurable("the images are identical: infinite")
    return float(peak_signal_noise_ratio(*images, data_range=1.0))


def _torchmetrics(function: Callable[..., Any], least: int, **options: Any) -> Callable[[Pair], float]:
    def value(pair: Pair) -> float:
        if min(pair.reference.shape[-2:]) < least:
            raise Unmeasurable(f"a side is shorter than {least} pixels")
        return float(function(*pair.images, **options))

    return value


@lru_cache(maxsize=1)
def _random_features() -> nn.Sequential:
    """Four strided convolutions to 64 features, weights drawn once and for all from seed 0 (He et al., 2015)."""
    generator = torch.Generator().manual_seed(0)
    widths, layers = (3, 32, 64, 64, 64), list[nn.Module]()
    for narrow, wide in pairwise(widths):
        conv = nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False)
        conv.weight.data = torch.randn(conv.weight.shape, generator=generator) * (2 / (9 * narrow)) ** 0.5
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers).requires_grad_(False)


def _proxy(pair: Pair) -> tuple[Tensor, Tensor]:
    network = _random_features()
    reference, estimate = (network((x - 0.5) / 0.25).mean(dim=(2, 3)) for x in pair.rgb)
    return reference, estimate


def _gradients(pair: Pair) -> float:
    return float(gradient_distance(*pair.images, scales=1))


METRICS: dict[str, Metric] = {
    "psnr": Metric(
        "PSNR", "dB", "higher", 2, lambda pair: _psnr(pair.images),
        "10 log10(1 / MSE) over 3 x H x W of 8-bit values in [0, 1], per image; undefined for identical images.",
    ),
    "psnr_float": Metric(
        "PSNR float", "dB", "higher", 2, lambda pair: _psnr(pair.unrounded),
        "The same without rounding to 8 bits (clipped to [0, 1]).",
    ),
    "ssim": Metric(
        "SSIM", "", "higher", 4, _torchmetrics(structural_similarity_index_measure, WINDOW, data_range=1.0),
        "Wang et al. 2004 on RGB: Gaussian 11 x 11, sigma 1.5, K 0.01 and 0.03, data range 1 (torchmetrics).",
    ),
    "ms_ssim": Metric(
        "MS-SSIM", "", "higher", 4,
        _torchmetrics(multiscale_structural_similarity_index_measure, MS_SSIM_SIDE + 1, data_range=1.0),
        "Wang et al. 2003: five scales, weights .0448 .2856 .3001 .2363 .1333, data range 1 (torchmetrics).",
    ),
    "l1": Metric(
        "L1", "", "lower", 4, lambda pair: float(F.l1_loss(*pair.images)), "Mean absolute difference of values in [0, 1]."
    ),
    "gradient": Metric(
        "gradient L1", "", "lower", 4, _gradients, "Mean absolute difference of horizontal and vertical derivatives."
    ),
    "uqi": Metric(
        "UQI", "", "higher", 4, _torchmetrics(universal_image_quality_index, 11),
        "Wang and Bovik 2002, Gaussian 11 x 11 (torchmetrics).",
    ),
    "vif": Metric(
        "VIF-p", "", "higher", 4, _torchmetrics(visual_information_fidelity, 41),
        "Sheikh and Bovik 2006, pixel domain (torchmetrics).",
    ),
    "proxy_fd": Metric(
        "proxy FD", "", "lower", 4, _proxy,
        "Frechet distance of 64 spatial means of a random, fixed network (randconv64, seed 0); not FID, for comparisons within "
        "one set only.", combine=frechet_distance,
    ),
    **MODEL_METRICS,
}  # fmt: skip


def compute(
    reference: Tensor,
    estimate: Tensor,
    spec: TokenSpec,
    names: Iterable[str] | None = None,
    *,
    models: Mapping[str, Callable[..., Any]] | None = None,
    about: Mapping[str, str] | None = None,
) -> Scores:
    """Metrics of one reconstruction.

    Args:
        reference: Original image ``[C, H, W]`` in [0, 1].
        estimate: Its reconstruction, of the same shape.
        spec: The codec's.
        names: Keys of :data:`METRICS`; by default all that need no model.
        models: Callables by role (see :data:`MODELS`), for the metrics that need one.
        about: What is known of the image besides its pixels.

    Returns:
        A float per name, or None where the metric is not defined for these images; ``.reasons`` says why.

    Raises:
        ValueError: If a name is unknown, shapes do not fit, or the reference is not in [0, 1].
    """
    metrics = select(METRICS, [key for key, metric in METRICS.items() if not metric.model] if names is None else names)
    if (
        reference.ndim != 3
        or reference.shape != estimate.shape
        or len(reference) not in (1, 3)
        or not reference.numel()
    ):
        raise ValueError(
            f"expected two images [3, H, W] of one size, got {list(reference.shape)} and {list(estimate.shape)}"
        )
    for name, image in (("reference", reference), ("reconstruction", estimate)):
        if not image.isfinite().all():
            return Scores.failed(metrics, f"the {name} holds NaN or infinity")
    low, high = float(reference.min()), float(reference.max())
    if low < -0.01 or high > 1.01:
        raise ValueError(
            f"reference must be in [0, 1], got values from {low:g} to {high:g} (map [-1, 1] by (x + 1) / 2)"
        )
    return measure(metrics, Pair(reference, estimate, about), models)
