"""What reports, monitors and the shipped samples show: pictures of the right stretch, a vocabulary that tells tokens apart."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.eeg import files, monitor, show
from tokenizers_mm.eeg.spectra import BANDS, band_power, density
from tokenizers_mm.tokens import Tokens, TokenSpec

FOLDER = registry.data_path("eval") / "samples" / "eeg"
SPEC = TokenSpec("eeg", (8,), axes=("channel", "time"), hop=(1, 100), sample_rate=200, channels=0)
with (FOLDER / "manifest.csv").open(encoding="utf-8", newline="") as _file:
    ROWS = list(csv.DictReader(_file))


def test_a_reconstruction_is_drawn_over_its_original(tmp_path: Path) -> None:
    x = 30 * torch.randn(19, 200 * 20)
    files.write(tmp_path / "a.edf", x, SPEC)
    files.write(tmp_path / "b.edf", x / 2, SPEC)
    alone, over = show.render(tmp_path / "a.edf", SPEC), show.render(tmp_path / "b.edf", SPEC, tmp_path / "a.edf")
    assert (alone.seconds, alone.share) == (12.0, 0.6)
    assert "over the original" in over.caption
    pictures = [np.asarray(Image.open(io.BytesIO(e.image or b""))).astype(int) for e in (alone, over)]
    red = [int(((p[..., 0] - p[..., 1:].max(axis=-1)) > 60)[: p.shape[0] // 2].sum()) for p in pictures]
    assert red[0] == 0
    assert red[1] > 100


def test_one_channel_a_flat_one_and_a_short_one_can_be_drawn(tmp_path: Path) -> None:
    for name, x in (("one", torch.randn(1, 400)), ("flat", torch.zeros(3, 400)), ("short", torch.randn(2, 30))):
        files.write(tmp_path / f"{name}.edf", x, SPEC)
        assert show.render(tmp_path / f"{name}.edf", SPEC).image


def test_the_vocabulary_shows_what_each_token_stands_for(tmp_path: Path) -> None:
    """Token 1 stands where there is a rhythm of 10 Hz, token 2 where there is one of 30 Hz."""
    time = torch.arange(200 * 20) / 200
    first = time < 10
    x = torch.where(first, torch.sin(2 * torch.pi * 10 * time), torch.sin(2 * torch.pi * 30 * time))
    x = 30 * x.repeat(2, 1) + torch.randn(2, 4000)
    ids = torch.where(torch.arange(40) < 20, 1, 2).repeat(1, 2)[..., None]
    files.write(tmp_path / "x.edf", x, SPEC)
    Tokens(ids, SPEC, shapes=torch.tensor([[2, 40]])).save(tmp_path / "x.mmt")
    found = show._token_spectra(tmp_path / "x.edf", tmp_path / "x.mmt", SPEC)
    assert found is not None
    tokens, levels, frequencies = found
    assert frequencies[levels[tokens == 1].mean(dim=0).argmax()] == 10
    assert frequencies[levels[tokens == 2].mean(dim=0).argmax()] == 30
    exhibit = show.overview([(tmp_path / "x.edf", tmp_path / "x.mmt")], SPEC)
    assert exhibit is not None
    assert "2 most frequent of 2 tokens (100% of all)" in exhibit.caption
    assert show.overview([], SPEC) is None


def test_the_monitor_measures_and_refuses_unknown_metrics() -> None:
    x = torch.randn(3, 2000)
    values = monitor.mean_metrics([(x, x / 2), (x, x)], SPEC, ("correlation", "snr"))
    assert values == pytest.approx({"correlation": 1.0, "snr": 20 * np.log10(2)})
    assert monitor.comparison(x, x / 2, 200).axes
    with pytest.raises(ValueError, match="unknown metrics"):
        monitor.EEGMonitor(metrics=("psnr",))
    with pytest.raises(ValueError, match="at least 1"):
        monitor.EEGMonitor(windows=0)


# -- samples -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_eeg", FOLDER / "make_eeg.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["make_eeg"] = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is packed into the wheel as it is
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def power(signal: Tensor, rate: float, low: float, high: float) -> Tensor:
    """Power of each channel in a band."""
    return band_power(*density(signal.double(), rate, 1.0), low, high).mean(dim=1)


@pytest.mark.parametrize("row", ROWS, ids=[row["path"] for row in ROWS])
def test_samples_are_what_the_manifest_says(row: dict[str, str]) -> None:
    path = FOLDER / row["path"]
    info = files.info(path)
    assert (len(info.names), info.sample_rate, info.seconds) == (
        int(row["channels"]),
        float(row["sfreq"]),
        float(row["seconds"]),
    )
    spec = TokenSpec("eeg", (1,), sample_rate=info.sample_rate, channels=0)
    x, mains = files.read(path, spec), float(row["mains"])
    assert 5 < float(x.std()) < 80
    if mains < info.sample_rate / 2 - 5:
        assert float(power(x, info.sample_rate, mains - 1, mains + 1).sum()) > float(
            power(x, info.sample_rate, mains - 4, mains - 2).sum()
        )
    if row["label"] == "eyes_closed":
        back = x[[i for i, name in enumerate(info.names) if "O1" in name or "O2" in name]]
        shares = [float(power(back, info.sample_rate, *BANDS[band]).mean()) for band in ("alpha", "beta")]
        assert shares[0] > 5 * shares[1]
    assert any(event.code == "blink" for event in info.events) == (row["label"] in ("eyes_open", "both"))


def test_samples_come_out_the_same_are_small_and_complete(script: ModuleType, tmp_path: Path) -> None:
    script.write(tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in FOLDER.iterdir()} - {"make_eeg.py"}
    assert (tmp_path / "manifest.csv").read_bytes() == (FOLDER / "manifest.csv").read_bytes()
    for row in ROWS:
        spec = TokenSpec("eeg", (1,), sample_rate=float(row["sfreq"]), channels=0)
        again, kept = (files.read(folder / row["path"], spec) for folder in (tmp_path, FOLDER))
        torch.testing.assert_close(again, kept, atol=0.05, rtol=0)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 400_000
    assert {row["split"] for row in ROWS} == {"train", "valid", "test"}
