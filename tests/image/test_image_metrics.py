"""Image metrics: exact values where theory gives them, null with a reason where they are not defined, never another's name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import features

from tokenizers_mm.evaluation.bd_rate import bd_quality, bd_rate
from tokenizers_mm.evaluation.models import find_models
from tokenizers_mm.image.baselines import BASELINES
from tokenizers_mm.image.metrics import LOADERS, METRICS, MODELS, compute
from tokenizers_mm.tokens import TokenSpec

SPEC = TokenSpec("image", (16,), axes=("height", "width"), hop=(8, 8), channels=3)
WEIGHTLESS = [key for key, metric in METRICS.items() if not metric.model]


def smooth(height: int = 176, width: int = 192, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0.02, 0.98)
    return (x * 255).round() / 255


def test_a_shift_of_one_step_is_48_decibels() -> None:
    x = smooth()
    assert compute(x, x + 1 / 255, SPEC, ["psnr"])["psnr"] == pytest.approx(20 * math.log10(255), abs=1e-3)


def test_identical_images_have_no_psnr_and_perfect_similarity() -> None:
    x = smooth()
    scores = compute(x, x, SPEC)
    assert scores["psnr"] is None
    assert "identical" in scores.reasons["psnr"]
    assert scores["ssim"] == pytest.approx(1, abs=1e-4)  # float32
    assert scores["ms_ssim"] == pytest.approx(1, abs=1e-4)
    assert scores["l1"] == 0
    assert scores["gradient"] == 0


def test_rounding_is_half_up_and_out_of_range_is_clipped() -> None:
    x = torch.full((3, 32, 32), 100 / 255)
    up, down = compute(x, x + 0.499 / 255, SPEC, ["psnr"]), compute(x, x + 0.501 / 255, SPEC, ["psnr"])
    assert up["psnr"] is None
    assert down["psnr"] == pytest.approx(48.13, abs=0.01)
    white = torch.ones(3, 32, 32)
    assert compute(white, white + 3, SPEC, ["psnr", "psnr_float"]).reasons.keys() == {"psnr", "psnr_float"}


def test_quality_falls_with_noise() -> None:
    x, noise = smooth(), torch.randn(3, 176, 192, generator=torch.Generator().manual_seed(1))
    little, much = (compute(x, x + level * noise, SPEC, ["psnr", "ssim", "ms_ssim", "vif"]) for level in (0.02, 0.1))
    assert all(little[key] > much[key] for key in little)  # type: ignore[operator]


def test_images_too_small_are_unmeasurable_not_wrong() -> None:
    scores = compute(smooth(100, 5), 1 - smooth(100, 5), SPEC, ["psnr", "ssim", "ms_ssim", "vif"])
    assert scores["psnr"] is not None
    assert all(scores[key] is None and "shorter" in scores.reasons[key] for key in ("ssim", "ms_ssim", "vif"))


def test_wrong_ranges_and_sizes_are_named() -> None:
    x = smooth(32, 32)
    with pytest.raises(ValueError, match=r"reference must be in \[0, 1\], got values from -"):
        compute(x * 2 - 1, x, SPEC)
    with pytest.raises(ValueError, match=r"\[3, 32, 32\] and \[3, 32, 31\]"):
        compute(x, x[..., 1:], SPEC)
    broken = compute(x, x * torch.nan, SPEC, ["psnr"])
    assert broken["psnr"] is None
    assert "NaN" in broken.reasons["psnr"]


def test_what_needs_weights_is_null_without_them() -> None:
    scores = compute(smooth(), smooth(seed=1), SPEC, ["lpips", "rfid"])
    assert scores == {"lpips": None, "rfid": None}
    assert scores.reasons == {"lpips": "no model 'lpips' given", "rfid": "no model 'inception' given"}
    assert not set(WEIGHTLESS) & {"lpips", "rfid"}


def test_given_models_fill_their_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers_mm.image import losses

    class Fake(torch.nn.Module):
        def __init__(self, weights: str) -> None:
            super().__init__()
            assert weights.endswith("vgg.pth")

        def forward(self, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            return (estimate - reference).abs().mean()

    monkeypatch.setattr(losses, "LPIPS", Fake)
    (tmp_path / "vgg.pth").write_bytes(b"weights")
    given = {"lpips": tmp_path / "vgg.pth", "inception": lambda image, rate: image.mean(dim=(1, 2))}
    models = {role: model.call for role, model in find_models(MODELS, given, LOADERS).items()}
    x, y = smooth(), smooth(seed=1)
    scores = compute(x, y, SPEC, ["lpips", "rfid", "l1"], models=models)
    assert scores["lpips"] == pytest.approx(scores["l1"])
    assert scores.features["rfid"][0].shape == (1, 3)


def test_the_weightless_frechet_distance_ranks_damage_and_is_reproducible() -> None:
    def distance(level: float) -> float:
        sets = []
        for seed in range(80):
            x = smooth(48, 48, seed)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
            sets.append(compute(x, (x + level * noise).clamp(0, 1), SPEC, ["proxy_fd"]).features["proxy_fd"])
        combine = METRICS["proxy_fd"].combine
        assert combine is not None
        return combine(*(torch.cat(part) for part in zip(*sets, strict=True)))

    values = [distance(level) for level in (0, 0.05, 0.2)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2]
    assert METRICS["proxy_fd"].name != "FID"


# -- classical coders


@pytest.mark.parametrize("key", [key for key in BASELINES if not BASELINES[key].unavailable(SPEC)])
def test_coders_decode_what_they_wrote_and_count_its_bytes(key: str) -> None:
    x, coder = smooth(), BASELINES[key]
    data, y = coder(x, SPEC)
    assert y.shape == x.shape
    assert 0 < coder.payload(data) <= len(data)
    if key == "png":
        assert torch.equal(x, y)
    else:
        assert coder.payload(data) < len(data)
        assert float((x - y).square().mean()) < 0.01


@pytest.mark.parametrize("family", ["jpeg", "webp", "avif"])
def test_quality_buys_psnr_with_bytes(family: str) -> None:
    if family == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    noise = 0.1 * torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(0))
    x = (smooth(96, 96) + noise).clamp(0, 1)
    points = []
    for quality in (10, 50, 90):
        data, y = BASELINES[f"{family}-{quality}"](x, SPEC)
        points.append((len(data), compute(x, y, SPEC, ["psnr"])["psnr"]))
    assert points == sorted(points)
    assert [p[1] for p in points] == sorted(p[1] for p in points)  # type: ignore[type-var]


# -- Bjontegaard


def test_half_the_rate_is_minus_fifty_per_cent() -> None:
    anchor = [(0.1, 25.0), (0.2, 28.0), (0.4, 31.0), (0.8, 34.0)]
    found = bd_rate(anchor, [(rate / 2, quality) for rate, quality in anchor])
    assert found.value == pytest.approx(-50)
    assert found.overlap == (25, 34)
    assert bd_rate(anchor, anchor).value == pytest.approx(0)
    better = bd_quality(anchor, [(rate, quality + 1.5) for rate, quality in anchor])
    assert better.value == pytest.approx(1.5)
    assert better.overlap == pytest.approx((0.1, 0.8))


def test_curves_that_share_nothing_are_refused() -> None:
    anchor = [(0.1, 25.0), (0.2, 28.0)]
    for points, match in (
        ([(0.1, 30.0), (0.2, 31.0)], "no quality in common: 25 to 28 and 30 to 31"),
        ([(0.1, 30.0)], "at least two points"),
        ([(0.1, 30.0), (0.2, 29.0)], "grows with rate"),
    ):
        with pytest.raises(ValueError, match=match):
            bd_rate(anchor, points)
