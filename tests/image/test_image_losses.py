"""Image losses: zero for equal images, the published definitions, and no perceptual loss that is not what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from tokenizers_mm.image.losses import (
    LPIPS,
    StructuralLoss,
    VGGFeatureLoss,
    VGGFeatures,
    gradient_distance,
    ms_ssim,
    ssim,
)


def images(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(*shape[:2], 8, 8, generator=generator), shape[2:], mode="bicubic")
    x = x.clamp(0, 1)
    return (x + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1), x


@pytest.mark.parametrize("size", [(11, 40), (48, 33)])
def test_ssim_is_torchmetrics_where_windows_are_whole(size: tuple[int, int]) -> None:
    estimate, reference = images(2, 3, *size)
    _, full = structural_similarity_index_measure(estimate, reference, data_range=1.0, return_full_image=True)
    assert float(ssim(estimate, reference)) == pytest.approx(float(full[..., 5:-5, 5:-5].mean()), abs=2e-5)


def test_ms_ssim_is_torchmetrics() -> None:
    estimate, reference = images(2, 3, 176, 192)
    wanted = multiscale_structural_similarity_index_measure(estimate, reference, data_range=1.0)
    assert float(ms_ssim(estimate, reference)) == pytest.approx(float(wanted), abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_structure_is_zero_for_equal_images_and_positive_otherwise(height: int, width: int, seed: int) -> None:
    estimate, reference = images(1, 3, height, width, seed=seed)
    loss = StructuralLoss()
    assert float(loss(reference, reference)) == pytest.approx(0, abs=1e-6)
    assert float(loss(estimate, reference)) >= 0


def test_structure_has_a_finite_gradient_that_points_home() -> None:
    for size in (24, 176):
        estimate, reference = images(1, 3, size, size)
        estimate.requires_grad_()
        loss = StructuralLoss()
        value = loss(estimate, reference)
        value.backward()
        value = value.detach()
        assert estimate.grad is not None
        assert estimate.grad.isfinite().all()
        step = 0.5 * (reference - estimate).abs().max() / estimate.grad.abs().max()
        assert float(loss(estimate.detach() - 0.1 * step * estimate.grad, reference)) < float(value)


def test_gradients_see_edges_not_levels() -> None:
    x = torch.rand(1, 3, 16, 16)
    assert float(gradient_distance(x + 0.2, x, 3)) == pytest.approx(0, abs=1e-6)
    assert float(gradient_distance(x.flip(-1), x, 3)) > 0.05


def test_lpips_is_torchmetrics_with_the_same_backbone(tmp_path: Path) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    oracle = _LPIPS(pretrained=True, net="vgg", pnet_rand=True).eval()
    parts = [getattr(oracle.net, f"slice{i}") for i in range(1, 6)]
    weights = {f"features.{k}": v for part in parts for k, v in part.state_dict().items()}
    torch.save(weights | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    ours = LPIPS(str(tmp_path / "vgg.pth"))
    estimate, reference = images(1, 3, 32, 48)
    with torch.no_grad():
        wanted = oracle(estimate * 2 - 1, reference * 2 - 1).flatten()
        found = ours.distances(estimate, reference)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-7)
    assert float(ours(reference, reference)) == 0
    estimate.requires_grad_()
    ours(estimate, reference).backward()
    assert estimate.grad is not None
    assert not any(p.requires_grad for p in ours.parameters())
    assert not ours.train().features.training


def test_without_weights_there_is_an_error_and_no_substitute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("xavier_uniform_", "kaiming_normal_", "normal_"):  # a random VGG takes seconds to draw
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
    for loss in (LPIPS, VGGFeatureLoss):
        with pytest.raises(FileNotFoundError, match=r"no VGG16 weights .*StructuralLoss"):
            loss(str(tmp_path / "nothing.pth"))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="VGG16"):
        VGGFeatures(str(tmp_path / "other.pth"))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[1, 3, 8, 8\] and \[1, 3, 8, 9\]"):
        StructuralLoss()(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
