"""A language model of bins: its recipe trains, its folder comes back as it was, and the forecasting commands take it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tokenizers_mm import cli
from tokenizers_mm.timeseries import files
from tokenizers_mm.timeseries.forecast import BinForecaster
from tokenizers_mm.timeseries.forecast.protocol import build
from tokenizers_mm.training.language_model import LanguageModelModule
from tokenizers_mm.training.run import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    BinForecaster(64, context=32, block=8, dim=16, layers=1, heads=2).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_recipe_trains_and_leaves_a_forecaster(tmp_path: Path) -> None:
    tiny = [
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "data.init_args.batch_size=8",
        "data.init_args.examples_per_epoch=32",
        "model.init_args.network.init_args.dim=16",
        "model.init_args.network.init_args.layers=1",
    ]
    run = train("bins-lm-small", tiny, output=tmp_path / "run")
    model = BinForecaster.from_pretrained(run / "model")
    assert model.predict(torch.randn(1, 2, 96), 5, samples=3).shape == (1, 2, 5, 3)
    assert "val/bits" in (run / "metrics.csv").read_text().splitlines()[0]


def test_folders_give_the_same_forecasts(folder: Path) -> None:
    first, second = BinForecaster.from_pretrained(folder), BinForecaster.from_pretrained(folder)
    x = torch.randn(1, 1, 40)
    paths = [m.predict(x, 10, samples=2, generator=torch.Generator().manual_seed(0)) for m in (first, second)]
    assert torch.equal(*paths)
    (folder / "config.json").write_text('{"class": "TimeRCD"}')
    with pytest.raises(ValueError, match="not 'BinForecaster'"):
        BinForecaster.from_pretrained(folder)


def test_forecasts_of_trained_models_follow_units(folder: Path) -> None:
    x = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    found = [build(str(folder), y, context=32, horizon=12, season=24)(y[None], 12) for y in (x, 1000 + 5 * x)]
    torch.testing.assert_close(1000 + 5 * found[0], found[1], rtol=1e-4, atol=0.5)


def test_commands_take_a_trained_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = pd.date_range("2024-01-01", periods=200, freq="h")
    frame = pd.DataFrame({"date": stamps, "load": np.sin(np.arange(200) / 4)})
    frame.loc[5, "load"] = np.nan
    frame.to_csv(tmp_path / "load.csv", index=False)
    for words in (
        ["forecast", tmp_path / "load.csv", "--model", folder, "--horizon", 10],
        ["forecast-eval", tmp_path / "load.csv", "--models", f"last,{folder}", "--horizons", 8, "--context", 32],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        assert stop.value.code in (0, None), capsys.readouterr().err
    series = files.load(tmp_path / "load-forecast.csv")
    assert series.values.shape == (1, 10)
    assert series.times is not None
    assert series.times[0] == np.datetime64(stamps[-1]) + np.timedelta64(1, "h")
    assert np.isfinite(series.values).all()


def test_a_network_without_a_loss_is_refused() -> None:
    with pytest.raises(TypeError, match="must have a loss"):
        LanguageModelModule(torch.nn.Linear(1, 1))
