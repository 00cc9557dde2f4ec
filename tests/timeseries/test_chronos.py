"""Chronos-T5 from a tiny random checkpoint: what the encoder reads and the paths that it draws equal the authors' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenizers_mm.timeseries.forecast.chronos import ChronosT5

transformers = pytest.importorskip("transformers")
SETTINGS = {
    "tokenizer_class": "MeanScaleUniformBins", "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
    "context_length": 32, "prediction_length": 8, "n_tokens": 128, "n_special_tokens": 2, "pad_token_id": 0,
    "eos_token_id": 1, "use_eos_token": True, "model_type": "seq2seq", "num_samples": 3, "temperature": 1.0, "top_k": 50,
    "top_p": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("chronos")
    config = transformers.T5Config(
        vocab_size=128, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chronos_config": SETTINGS}))
    return path


def test_paths_are_reproducible_and_go_beyond_one_block(folder: Path) -> None:
    model = ChronosT5.from_pretrained(folder)
    past = 50 + torch.randn(2, 3, 40).cumsum(-1)
    past[0, 0, 35] = float("nan")
    paths = []
    for _ in "ab":
        torch.manual_seed(1)
        paths.append(model.predict(past, 20))
    assert paths[0].shape == (2, 3, 20, 3)
    assert paths[0].isfinite().all()
    assert torch.equal(*paths)


def test_the_encoder_reads_what_the_authors_tokenizer_writes(folder: Path) -> None:
    chronos = pytest.importorskip("chronos.chronos")
    theirs = chronos.MeanScaleUniformBins(-15.0, 15.0, chronos.ChronosConfig(**SETTINGS))
    past = torch.randn(5, 50)
    past[0, 45:47] = float("nan")
    for mine, other in zip(
        ChronosT5.from_pretrained(folder).context(past), theirs.context_input_transform(past), strict=True
    ):
        assert torch.equal(mine, other)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the pipeline's advice on horizons
def test_paths_equal_those_of_the_authors_pipeline(folder: Path) -> None:
    chronos = pytest.importorskip("chronos")
    pipeline = chronos.ChronosPipeline.from_pretrained(folder)
    past = 50 + torch.randn(2, 40).cumsum(-1)
    past[0, 35] = float("nan")
    torch.manual_seed(3)
    theirs = pipeline.predict(past, prediction_length=20, num_samples=4)
    torch.manual_seed(3)
    mine = ChronosT5.from_pretrained(folder).predict(past[:, None], 20, samples=4)
    torch.testing.assert_close(mine[:, 0].mT, theirs)


def test_a_generator_decides_the_draws_and_leaves_torchs_alone(folder: Path) -> None:
    model, past = ChronosT5.from_pretrained(folder), torch.randn(1, 1, 30)
    before = torch.get_rng_state()
    paths = [model.predict(past, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(paths[0], paths[1])
    assert not torch.equal(paths[0], paths[2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_must_fit_exactly(folder: Path, tmp_path: Path, change: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    key = "encoder.final_layer_norm.weight"
    if change == "missing":
        del tensors[key]
    else:
        tensors["surplus.weight" if change == "extra" else key] = torch.ones(3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        ChronosT5.from_pretrained(tmp_path)


def test_other_checkpoints_are_refused_in_words(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        ChronosT5.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="got 'causal'"):
        ChronosT5(None, {**SETTINGS, "model_type": "causal"})
    with pytest.raises(ValueError, match="lacks n_tokens"):
        ChronosT5(None, {k: v for k, v in SETTINGS.items() if k != "n_tokens"})
