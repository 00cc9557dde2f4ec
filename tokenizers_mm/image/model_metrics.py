"""Image metrics that need weights of others: LPIPS (VGG16's) and rFID (Inception's). Without them they are null."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenizers_mm.evaluation.frechet import frechet_distance
from tokenizers_mm.evaluation.metric import Metric

if TYPE_CHECKING:
    from tokenizers_mm.image.metrics import Pair

Model = Callable[..., Any]

MODELS: dict[str, str] = {
    "lpips": "torchvision's VGG16 weights (vgg16-397923af.pth or .safetensors), or a callable of two images [3, H, W] in [0, 1] "
    "that returns their distance",
    "inception": "takes an image [3, H, W] in [0, 1] and 0 (images have no rate), returns features [2048]; FID as published "
    "wants the weights pt_inception-2015-12-05 and their resizing inside",
}


def _load_lpips(path: Path) -> Model:
    from tokenizers_mm.image.losses import LPIPS

    network = LPIPS(str(path))

    def distance(reference: Tensor, estimate: Tensor) -> float:
        with torch.no_grad():
            return float(network(estimate[None], reference[None]))

    return distance


LOADERS: dict[str, Callable[[Path], Model]] = {"lpips": _load_lpips}
"""How files that fill a role are read, where they are weights and not a model that runs by itself."""


def _lpips(pair: Pair, model: Model) -> float:
    reference, estimate = pair.rgb
    return float(model(reference[0], estimate[0]))


def _inception(pair: Pair, model: Model) -> tuple[Tensor, Tensor]:
    reference, estimate = (torch.as_tensor(model(x[0], 0)).reshape(1, -1) for x in pair.rgb)
    return reference, estimate


MODEL_METRICS: dict[str, Metric] = {
    "lpips": Metric(
        "LPIPS", "", "lower", 4, _lpips, "Zhang et al. 2018 on VGG16, linear heads of version 0.1.", model="lpips"
    ),
    "rfid": Metric(
        "rFID", "", "lower", 2, _inception,
        "Frechet distance of the given Inception's features of all reconstructions to those of the same originals; biased "
        "upwards for few images.", model="inception", combine=frechet_distance,
    ),
}  # fmt: skip
