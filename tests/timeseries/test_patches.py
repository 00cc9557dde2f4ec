"""Patches: shapes, units, padding and missing values, and that they can be trained to restore what they embed."""

from __future__ import annotations

import pytest
import torch

from tokenizers_mm.timeseries import PatchTokenizer


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100])
def test_series_of_any_length_come_back_in_their_units(n: int) -> None:
    torch.manual_seed(0)
    model = PatchTokenizer(dim=32, hidden=48).eval()
    x = torch.randn(2, 3, n).cumsum(-1)
    patches = model.encode(x)
    assert patches.shape == (3, -(-n // 16))
    assert patches.features.shape == (2, 3 * -(-n // 16), 32)
    assert model.decode(patches).shape == x.shape
    if n > 1:  # a constant has no deviation to scale with
        torch.testing.assert_close(model(5 * x + 100), 5 * model(x) + 100, atol=1e-2, rtol=1e-3)


def test_missing_patches_are_marked_and_infinity_is_refused() -> None:
    model = PatchTokenizer(patch=4, dim=8, hidden=8)
    x = torch.randn(1, 1, 12)
    x[..., 4:8] = float("nan")
    patches = model.encode(x)
    assert patches.mask.tolist() == [[True, False, True]]
    assert patches.features.isfinite().all()
    with pytest.raises(ValueError, match="infinity"):
        model.encode(x.nan_to_num(nan=float("inf")))


def test_training_restores_the_patches() -> None:
    torch.manual_seed(0)
    model, x = PatchTokenizer(patch=8, dim=16, hidden=32), torch.randn(8, 1, 64).cumsum(-1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(80):
        losses.append((model(x) - x).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 10
