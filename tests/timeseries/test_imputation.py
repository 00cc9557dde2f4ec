"""Imputation: what was observed stays, gaps get finite values in the units of the series, and training for it helps."""

from __future__ import annotations

import pytest
import torch

import tokenizers_mm as tm
from tokenizers_mm.timeseries import TOTEM
from tokenizers_mm.timeseries.imputation import imputation_errors, impute


def waves(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    period = 12 + 20 * torch.rand(count, 1, 1, generator=generator)
    phase = 6.3 * torch.rand(count, 1, 1, generator=generator)
    return (6.3 * torch.arange(96) / period + phase).sin()


def test_observed_samples_stay_and_gaps_are_filled() -> None:
    x = 1000 + 50 * torch.randn(2, 3, 130).cumsum(-1)
    seen = x.clone()
    seen[0, 1, 20:40] = seen[1, 0] = float("nan")
    found = impute(tm.load("totem-etth1"), seen)
    assert torch.equal(found[~seen.isnan()], seen[~seen.isnan()])
    assert found.isfinite().all()
    assert found[0, 1, 20:40].min() > x[0, 1].min() - 3 * x[0, 1].std()
    torch.testing.assert_close(impute(tm.load("totem-etth1"), x), x)


def test_training_with_hidden_samples_teaches_to_fill_them() -> None:
    torch.manual_seed(0)
    codec = TOTEM(
        hidden=32, residual_width=16, mask_ratio=0.5, quantizer={"kind": "vq", "codebook_size": 64, "kmeans_iters": 5}
    )
    before = imputation_errors(codec, waves(64, 1), 0.25, torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(codec.parameters(), 2e-3)
    codec.train()
    for step in range(60):
        x = waves(64, 100 + step)
        output = codec(x)
        loss = (output.reconstruction - x).square().mean() + output.quantizer_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = imputation_errors(codec.eval(), waves(64, 1), 0.25, torch.Generator().manual_seed(2))
    assert after["mse"] < 0.6 * before["mse"]
    assert after["carried_mse"] == before["carried_mse"]


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        imputation_errors(TOTEM(), torch.randn(1, 1, 96), 1, torch.Generator())
