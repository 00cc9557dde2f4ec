"""Forecasting: published sizes, hand-computed measures, baselines that are right by construction, paths that are reproducible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tokenizers_mm import cli
from tokenizers_mm.timeseries import TOTEM, files
from tokenizers_mm.timeseries.forecast import (
    BinForecaster,
    BoostedForecaster,
    DLinear,
    LastValue,
    RidgeForecaster,
    SeasonalNaive,
    TokenizedForecaster,
    TOTEMForecaster,
    mase,
    quantiles_of,
    scores,
    totem_loss,
    weighted_quantile_loss,
)
from tokenizers_mm.timeseries.forecast.baselines import carried
from tokenizers_mm.timeseries.forecast.models import find, load
from tokenizers_mm.training.run import train

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


def test_forecast_command_goes_on_with_the_clock(hours: Path, capsys) -> None:
    run_command("forecast", hours, "-m", "seasonal", "-H", 30)
    found = files.load(hours.with_name("x-forecast.csv"))
    assert found.names == ("load", "oil")
    assert str(found.times[0]).startswith("2024-01-11T00:00")
    assert found.values[0].tolist() == [i % 24 for i in range(30)]
    run_command("forecast-eval", hours, "--horizons", 12, "--context", 48, "--models", "last,seasonal")
    assert "seasonal" in capsys.readouterr().out


def test_tokenized_forecaster_comes_back_whole_and_leaves_its_tokenizer_alone(tmp_path) -> None:
    torch.manual_seed(0)
    model = TokenizedForecaster("totem-etth1", horizon=24, context=48)
    before = {key: value.clone() for key, value in model.tokenizer.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    model.train()
    x = torch.randn(4, 2, 72).cumsum(-1)
    losses = []
    for _ in range(8):
        losses.append(model.loss(x))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[key]) for key, value in model.tokenizer.state_dict().items())
    model.save_pretrained(tmp_path / "model")
    back = TokenizedForecaster.from_pretrained(tmp_path / "model")
    assert torch.equal(back.predict(x, 20), model.eval().predict(x, 20))
    with pytest.raises(ValueError, match="horizon of 1 to 24, got 72 and 25"):
        back.predict(x, 25)
    with pytest.raises(ValueError, match="48 \\+ 24 samples, got 71"):
        back.loss(x[..., :71])
    with pytest.raises(ValueError, match="must be a TOTEM"):
        TokenizedForecaster("sax")
    with pytest.raises(ValueError, match="divides context 50"):
        TokenizedForecaster("totem-etth1", context=50)


def test_the_forecasters_recipe_trains(tmp_path) -> None:
    tiny = [
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
    ]
    tiny += ["trainer.enable_progress_bar=false", "data.init_args.batch_size=8", "data.init_args.examples_per_epoch=32"]
    tiny += ["model.init_args.network.init_args.horizon=24", "data.init_args.window=120"]
    run = train("totem-forecaster-small", tiny, output=tmp_path / "run")
    assert isinstance(load(run / "model"), TokenizedForecaster)
    columns = (run / "metrics.csv").read_text().splitlines()[0]
    assert "val/loss" in columns
    assert "val/bits" not in columns  # its loss is no cross-entropy


def run_command(*words: object) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    assert done.value.code in (0, None)


@pytest.fixture
def hours(tmp_path) -> Path:
    lines = [f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00,{i % 24},{100 - i % 24}" for i in range(240)]
    (tmp_path / "x.csv").write_text("\n".join(["date,load,oil", *lines]))
    return tmp_path / "x.csv"


def test_the_table_of_forecasters_is_a_file_that_says_how_it_was_made(hours: Path, tmp_path) -> None:
    for horizon in (4, 6):
        model = BinForecaster(64, context=32, block=horizon, dim=16, layers=1, heads=2)
        model.save_pretrained(tmp_path / f"bins-{horizon}")
    names = f"seasonal,{tmp_path}/bins-{{horizon}}"
    run_command(
        "forecast-eval", hours, "--horizons", "4,6", "--context", 32, "--models", names, "-o", tmp_path / "t.json"
    )
    report = json.loads((tmp_path / "t.json").read_text())
    assert [(row["horizon"], row["model"]) for row in report["rows"]] == [
        (h, n) for h in (4, 6) for n in names.split(",")
    ]
    assert all(row["mse"] == row["mae"] == 0 for row in report["rows"][::2])
    assert all("mase" not in row for row in report["rows"])  # the seasonal error of the past is 0
    assert all(row["wql"] > 0 for row in report["rows"][1::2])
    assert report["data"]["name"] == "x.csv"
    assert {"machine", "versions", "command", "date", "settings"} <= report.keys()


def test_quantiles_become_columns_and_bands(hours: Path, tmp_path) -> None:
    torch.manual_seed(0)
    BinForecaster(64, context=32, block=8, dim=16, layers=1, heads=2).save_pretrained(tmp_path / "bins")
    options = ("-m", tmp_path / "bins", "-H", 6, "-q", "0.1,0.9", "-p", tmp_path / "x.png", "-o", tmp_path / "y.csv")
    run_command("forecast", hours, *options)
    found = files.load(tmp_path / "y.csv")
    assert found.names == ("load", "load-0.1", "load-0.9", "oil", "oil-0.1", "oil-0.9")
    assert (found.values[1::3] <= found.values[0::3]).all()
    assert (found.values[0::3] <= found.values[2::3]).all()
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-q", "0.1"), "--quantiles needs a model that draws paths"),
        (("-q", "10"), "levels between 0 and 1"),
        (("-p", "x.jpeg"), "extension must be one of"),
        (("-m", "prophet"), "model must be one of last"),
        (("-H", "400"), "needs 496 samples"),
    ],
)
def test_wrong_wishes_are_one_line(hours: Path, options: tuple[str, ...], words: str, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["forecast", str(hours), *options])
    assert done.value.code == 1
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "kind"), [("totem-forecaster-etth1", TokenizedForecaster), ("bins-lm-etth1", BinForecaster)]
)
def test_shipped_forecasters_load_by_name(name: str, kind: type, hours: Path) -> None:
    folder = find(name)
    assert folder is not None
    assert isinstance(load(folder), kind)
    run_command("forecast", hours, "-m", name, "-H", 5)
    assert files.load(hours.with_name("x-forecast.csv")).values.shape == (2, 5)
