"""Chronos-Bolt from a tiny random checkpoint: quantiles equal the authors' model and pipeline, and loading is strict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenizers_mm.timeseries.forecast import LEVELS, ChronosBolt, quantiles_of
from tokenizers_mm.timeseries.forecast.models import load

pytest.importorskip("transformers")
SETTINGS = {
    "context_length": 64, "prediction_length": 16, "input_patch_size": 8, "input_patch_stride": 8,
    "quantiles": list(LEVELS), "use_reg_token": True,
}  # fmt: skip
T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "vocab_size": 2,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "model_type": "t5", "feed_forward_proj": "relu",
    "architectures": ["ChronosBoltModelForForecasting"], "dropout_rate": 0.1,
}  # fmt: skip


def checkpoint(folder: Path, **settings: Any) -> Path:
    """Random weights in the published layout, with the tied tensors left out."""
    torch.manual_seed(0)
    config = {**T5, "chronos_config": {**SETTINGS, **settings}}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {key.removeprefix("network."): value for key, value in ChronosBolt(config).state_dict().items()}
    kept = {k: v.clone() + 0.1 * torch.randn(v.shape) for k, v in tensors.items() if "embed_tokens" not in k}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def series() -> torch.Tensor:
    """Longer and shorter than the context, with gaps, constant, and with nothing observed in the first patches."""
    x = 50 + torch.randn(4, 90, generator=torch.Generator().manual_seed(1)).cumsum(-1)
    x[0, 70:75] = float("nan")
    x[1] = 7.0
    x[2, :60] = float("nan")
    return x


@pytest.mark.parametrize("reg", [True, False])
@pytest.mark.parametrize("length", [90, 64, 29, 1])
def test_quantiles_equal_the_authors_model(tmp_path: Path, reg: bool, length: int) -> None:
    bolt = pytest.importorskip("chronos.chronos_bolt")
    folder = checkpoint(tmp_path / "bolt", use_reg_token=reg)
    theirs = bolt.ChronosBoltModelForForecasting.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(series()[:, -length:]).quantile_preds
        found = ChronosBolt.from_pretrained(folder)(series()[:, -length:])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore:We recommend keeping prediction length")
def test_long_horizons_equal_the_authors_pipeline(tmp_path: Path) -> None:
    bolt = pytest.importorskip("chronos.chronos_bolt")
    folder = checkpoint(tmp_path / "bolt")
    pipeline = bolt.ChronosBoltPipeline.from_pretrained(folder)
    expected = pipeline.predict(series(), prediction_length=40)  # n x 9 x 40
    paths = ChronosBolt.from_pretrained(folder).predict(series()[None], 40)
    assert paths.shape == (1, 4, 40, 11)
    ordered = expected.sort(dim=1).values  # random weights cross their quantiles; trained ones need not
    torch.testing.assert_close(quantiles_of(paths)[0].mT, ordered, rtol=1e-4, atol=1e-3)


def test_forecasts_follow_units(tmp_path: Path) -> None:
    model = load(checkpoint(tmp_path / "bolt"))
    assert isinstance(model, ChronosBolt)
    x = torch.randn(1, 2, 50)
    torch.testing.assert_close(model.predict(1000 + 5 * x, 30), 1000 + 5 * model.predict(x, 30), rtol=1e-4, atol=1e-2)
    assert model.predict(torch.full((1, 1, 40), float("nan")), 5).isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "1 missing keys"),
        ("extra", "1 extra keys"),
        ("shape", "wrong shapes"),
        ("settings", "lacks prediction_length"),
        ("quantiles", "expected quantiles"),
        ("t5", "chronos_config"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: str, words: str) -> None:
    folder = checkpoint(tmp_path / "bolt")
    tensors, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    if change == "missing":
        del tensors["output_patch_embedding.hidden_layer.bias"]
    elif change == "extra":
        tensors["surplus"] = torch.ones(3)
    elif change == "shape":
        tensors["shared.weight"] = torch.ones(3, 16)
    elif change == "settings":
        del config["chronos_config"]["prediction_length"]
    elif change == "quantiles":
        config["chronos_config"]["quantiles"] = [0.5]
    else:
        del config["chronos_config"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        ChronosBolt.from_pretrained(folder)
