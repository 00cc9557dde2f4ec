"""Forecasting: published sizes, hand-computed measures, baselines that are right by construction, paths that are reproducible."""

from __future__ import annotations

import pytest
import torch

from tokenizers_mm.timeseries import TOTEM, files
from tokenizers_mm.timeseries.forecast import (
    BinForecaster,
    BoostedForecaster,
    DLinear,
    LastValue,
    RidgeForecaster,
    SeasonalNaive,
    TOTEMForecaster,
    mase,
    quantiles_of,
    scores,
    totem_loss,
    weighted_quantile_loss,
)
from tokenizers_mm.timeseries.forecast.baselines import carried

NAN = float("nan")


@pytest.mark.parametrize(("horizon", "count"), [(96, 347_488), (192, 495_040), (336, 716_368), (720, 1_306_576)])
def test_totem_forecaster_has_the_published_size(horizon: int, count: int) -> None:
    model = TOTEMForecaster(horizon=horizon)
    shift = sum(p.numel() for p in model.shift.parameters())
    assert shift == 314_370
    assert sum(p.numel() for p in model.parameters()) - shift == count


def test_totem_forecaster_learns_and_leaves_the_tokenizer_alone() -> None:
    torch.manual_seed(0)
    tokenizer, model = TOTEM().eval(), TOTEMForecaster(horizon=24)
    past, future = torch.randn(4, 2, 120).cumsum(-1).split([96, 24], dim=-1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        found = model(past, tokenizer)
        losses.append(totem_loss(found, future))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert found.forecast.shape == future.shape
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in tokenizer.parameters())


def test_a_series_of_one_period_is_forecast_exactly_by_its_season() -> None:
    x = torch.arange(5.0).repeat(8)[None, None]
    assert torch.equal(SeasonalNaive(5)(x[..., :23], 17)[..., 0], x[..., 23:])
    assert torch.equal(LastValue()(x, 3)[..., 0], torch.full((1, 1, 3), 4.0))
    assert mase(x[..., :23], x[..., 23:], SeasonalNaive(5)(x[..., :23], 17)[..., 0]) == 0


def test_missing_values_are_carried_forward() -> None:
    x = torch.tensor([[NAN, 1, NAN, 3, NAN], [NAN] * 5])
    assert torch.equal(carried(x), torch.tensor([[1.0, 1, 1, 3, 3], [0] * 5]))


def test_dlinear_starts_with_the_mean_and_refuses_other_horizons() -> None:
    model = DLinear(96, 24)
    torch.nn.init.zeros_(model.trend.bias)
    torch.nn.init.zeros_(model.rest.bias)
    x = torch.randn(2, 3, 96)
    torch.testing.assert_close(model(x)[..., 0], x.mean(-1, keepdim=True).expand(2, 3, 24), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="horizon 24"):
        model(x, 25)


def test_quantile_loss_equals_a_sum_by_hand_and_is_least_at_the_truth() -> None:
    target, quantiles = torch.tensor([2.0, NAN, -4.0]), torch.tensor([[1.0, 3.0], [0, 0], [-5.0, -2.0]])
    # pinball at .1: .1 * 1 and .1 * 1; at .9: .1 * 1 (above by 1) and .1 * 2
    assert weighted_quantile_loss(target, quantiles, (0.1, 0.9)) == pytest.approx(2 * (0.2 + 0.3) / 2 / 6)
    assert weighted_quantile_loss(target, target[:, None].expand(3, 2), (0.1, 0.9)) == 0


def test_mase_is_one_for_the_naive_error() -> None:
    past = torch.tensor([[0.0, 1, 0, 1, 0, 1]])
    assert mase(past, torch.tensor([[0.0, 1]]), torch.tensor([[1.0, 2]])) == 1
    with pytest.raises(ValueError, match="longer than a season"):
        mase(past, past, past, season=6)


def test_bin_forecaster_learns_a_square_wave_and_samples_its_quantiles() -> None:
    torch.manual_seed(0)
    model = BinForecaster(64, low=-3, high=3, context=16, block=8, dim=32, layers=2, heads=2)
    wave = torch.tensor([1.0, 1, -1, -1]).repeat(16)[None, None] * torch.tensor([2.0, 50.0])[None, :, None]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(220):
        start = int(torch.randint(4, ()))
        loss = model(wave[..., start : start + 16], wave[..., start + 16 : start + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    past, future = wave[..., :32], wave[..., 32:52]  # beyond one block
    paths = [model.predict(past, 20, samples=5, generator=torch.Generator().manual_seed(1)) for _ in "ab"]
    assert paths[0].shape == (1, 2, 20, 5)
    assert torch.equal(*paths)
    found = scores(past, future, paths[0], season=4)
    assert found["wql"] < 0.2
    assert quantiles_of(paths[0]).diff(dim=-1).min() >= 0


def test_missing_futures_do_not_count() -> None:
    torch.manual_seed(0)
    model = BinForecaster(64, context=16, dim=16, layers=1, heads=2)
    x = torch.randn(1, 1, 20)
    hidden = x.clone()
    hidden[..., 18:] = NAN
    torch.testing.assert_close(model(x[..., :16], hidden[..., 16:]), model(x[..., :16], x[..., 16:18]))


def test_ridge_finds_a_linear_recurrence_and_boosting_a_pattern() -> None:
    t = torch.arange(400.0)
    x = torch.stack([torch.sin(t / 5), 100 + 7 * torch.sin(t / 9)])
    ridge = RidgeForecaster(32, penalty=1e-9).fit(x[:, :300], 40)
    assert (ridge(x[None, :, :300], 40)[0, ..., 0] - x[:, 300:340]).abs().max() < 0.05
    pytest.importorskip("sklearn")
    wave = torch.tensor([0.0, 1, 3, 1]).repeat(100)[None]
    trees = BoostedForecaster(8).fit(wave[:, :300], 8)
    assert (trees(wave[None, :, :300], 8)[0, ..., 0] - wave[:, 300:308]).abs().max() < 0.2
    with pytest.raises(ValueError, match="needs 72 samples"):
        RidgeForecaster(32).fit(x[:, :50], 40)


def test_forecast_command_goes_on_with_the_clock(tmp_path, capsys) -> None:
    from tokenizers_mm.cli import main

    lines = [f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00,{i % 24}" for i in range(240)]
    (tmp_path / "x.csv").write_text("\n".join(["date,load", *lines]))
    with pytest.raises(SystemExit) as done:
        main(["forecast", str(tmp_path / "x.csv"), "-m", "seasonal", "-H", "30"])
    assert done.value.code in (0, None)
    found = files.load(tmp_path / "x-forecast.csv")
    assert found.names == ("load",)
    assert str(found.times[0]).startswith("2024-01-11T00:00")
    assert found.values[0].tolist() == [i % 24 for i in range(30)]
    with pytest.raises(SystemExit) as done:
        main(
            [
                "forecast-eval",
                str(tmp_path / "x.csv"),
                "--horizons",
                "12",
                "--context",
                "48",
                "--models",
                "last,seasonal",
            ]
        )
    assert done.value.code in (0, None)
    assert "seasonal" in capsys.readouterr().out
