"""Metrics, baselines, pictures, samples and recipes of series: what they measure, cost, show, and that recipes train."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from tokenizers_mm import registry
from tokenizers_mm.timeseries import TOTEM
from tokenizers_mm.timeseries.baselines import BASELINES
from tokenizers_mm.timeseries.data import SeriesDataModule, SeriesSource, Windows, scaled_splits
from tokenizers_mm.timeseries.losses import RevINLoss
from tokenizers_mm.timeseries.metrics import compute
from tokenizers_mm.timeseries.scaling import mean_scale, revin_scale
from tokenizers_mm.timeseries.show import forecast_panels, render

SPEC = TOTEM().spec
FOLDER = registry.data_path("eval") / "samples" / "timeseries"
NAN = float("nan")


def test_metrics_are_what_they_say() -> None:
    x = torch.randn(2, 96).cumsum(-1)
    y = x + 0.5
    found = compute(x, y, SPEC)
    assert found["mse"] == pytest.approx(0.25, rel=1e-5)
    assert found["mae"] == pytest.approx(0.5, rel=1e-5)
    expected = float((0.25 / (x.double().var(-1, correction=0) + 1e-5)).mean())
    assert found["revin_mse"] == pytest.approx(expected, rel=1e-5)
    assert found["correlation"] == pytest.approx(1)
    x[0, 3] = NAN
    y[0, 3] = 1e9  # what is missing counts nowhere
    assert compute(x, y, SPEC)["mse"] == pytest.approx(0.25, rel=1e-5)
    assert compute(torch.full((1, 5), NAN), torch.zeros(1, 5), SPEC)["mse"] is None
    assert compute(torch.ones(1, 20), torch.ones(1, 20), SPEC).reasons["correlation"] == "every channel is constant"


@pytest.mark.parametrize("n", [5, 96, 200])
def test_baselines_keep_sizes_gaps_and_more_with_more_bits(n: int) -> None:
    x = 100 + torch.randn(3, n, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    x[1, 2] = NAN
    errors = {}
    for name, baseline in BASELINES.items():
        y = baseline(x, SPEC)[1]
        assert y.shape == x.shape, name
        assert torch.equal(y.isnan(), x.isnan()), name
        errors[name] = compute(x, y, SPEC)["revin_mse"]
    assert errors["float32"] == 0
    assert errors["uniform-8"] < errors["uniform-4"] < errors["uniform-2"] < errors["uniform-1"]
    assert errors["means-4"] <= errors["means-8"]


def test_scales_leave_out_what_is_missing() -> None:
    x = torch.tensor([[1.0, NAN, -3.0], [NAN, NAN, NAN], [0.0, 0.0, 0.0]])
    assert mean_scale(x).tolist() == [2.0, 1.0, 1.0]
    mean, deviation = revin_scale(x)
    assert mean.tolist() == [-1.0, 0.0, 0.0]
    assert deviation.tolist() == pytest.approx([2.0000025, 1e-5**0.5, 1e-5**0.5])


def test_ett_splits_and_standardisation(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(5, 3, (14_500, 1))
    pd.DataFrame(values, columns=["OT"]).to_csv(tmp_path / "x.csv", index=False)
    source = SeriesSource(str(tmp_path / "x.csv"), protocol="etth")
    train, valid, test = (scaled_splits(source, split, 96)[0] for split in ("train", "valid", "test"))
    assert [x.shape[1] for x in (train, valid, test)] == [8640, 2880 + 96, 2880 + 96]
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="needs 57600 rows"):
        scaled_splits(SeriesSource(str(tmp_path / "x.csv"), protocol="ettm"), "train")


def test_a_pass_shows_every_window_once_and_depends_on_the_seed_alone() -> None:
    signals = [torch.arange(10.0)[None], torch.arange(100.0, 108.0)[None], torch.zeros(1, 2)]
    data = Windows(signals, 4, seed=1)
    assert len(data) == 7 + 5
    starts = [float(data[i][0]) for i in range(12)]
    assert sorted(starts) == [*range(7), *range(100, 105)]
    again = Windows(signals, 4, seed=1)
    assert [float(again[i][0]) for i in (23, 5)] == [float(data[23][0]), starts[5]]
    with pytest.raises(ValueError, match="as long as a window"):
        Windows(signals, 11)


def test_several_sources_train_one_tokenizer() -> None:
    data = SeriesDataModule(
        [SeriesSource(str(FOLDER / f"{name}.csv")) for name in ("walk", "substation")], batch_size=8
    )
    data.setup("fit")
    assert len(data.signals["train"]) == 2
    assert next(iter(data.train_dataloader()))["signal"].shape == (8, 1, 96)


def test_loss_is_the_error_in_revin_space() -> None:
    x = torch.randn(4, 1, 96) * torch.tensor([1.0, 10, 100, 1000])[:, None, None]
    _, deviation = revin_scale(x)
    assert float(RevINLoss()(x + 0.3 * deviation[..., None], x)) == pytest.approx(0.09, rel=1e-4)
    hidden = x.clone()
    hidden[..., 5] = NAN
    assert RevINLoss()(x, hidden) == 0


def test_pictures_are_made_with_and_without_an_original() -> None:
    alone = render(FOLDER / "sensor.csv", SPEC)
    both = render(FOLDER / "substation.csv", SPEC, FOLDER / "substation.csv")
    assert alone.image[:4] == both.image[:4] == b"RIFF"
    assert "3 of 3 channels" in both.caption
    quantiles = torch.randn(2, 12, 3).sort(dim=-1).values
    assert forecast_panels(torch.randn(2, 40), torch.randn(2, 12), quantiles, (0.1, 0.5, 0.9))[:4] == b"RIFF"


def test_samples_come_out_the_same() -> None:
    spec = importlib.util.spec_from_file_location("make_series", FOLDER / "make_series.py")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__file__"] = str(FOLDER / "make_series.py")
    exec(compile((FOLDER / "make_series.py").read_text(), "make_series.py", "exec"), module.__dict__)
    listed = pd.read_csv(FOLDER / "manifest.csv")
    made = module.tables()
    assert [f"{name}.csv" for name in made] == list(listed["path"])
    for name, table in made.items():
        kept = pd.read_csv(FOLDER / f"{name}.csv", index_col="time", parse_dates=True)
        np.testing.assert_allclose(kept.to_numpy(), table.to_numpy(), atol=1e-4)
        assert (kept.index == table.index).all()


@pytest.mark.parametrize("name", ["totem", "totem-small"])
def test_recipes_train(name: str, tmp_path: Path) -> None:
    from tokenizers_mm.training.run import train

    recipe = yaml.safe_load((registry.data_path("recipes") / "timeseries" / f"{name}.yaml").read_text())
    assert recipe["model"]["init_args"]["codec"]["init_args"]["quantizer"]["kind"] == "vq"
    tiny = [
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "data.init_args.batch_size=64",
        "data.init_args.examples_per_epoch=256",
        "model.init_args.codec.init_args.hidden=16",
        "model.init_args.codec.init_args.quantizer.codebook_size=16",
    ]
    folder = train(name, tiny, output=tmp_path / "run")
    assert list((folder / "series").glob("step-*.webp"))
    assert registry.load(folder / "codec").spec.codebook_sizes == (16,)
