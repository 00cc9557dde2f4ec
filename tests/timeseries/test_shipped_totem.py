"""The tokenizer that ships beats block means on ETTh1's test rows and uses its codes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import tokenizers_mm as tm
from tokenizers_mm.evaluation.health import token_health
from tokenizers_mm.timeseries.baselines import BASELINES
from tokenizers_mm.timeseries.data import SeriesSource, scaled_splits
from tokenizers_mm.timeseries.metrics import compute

DATA = Path(os.environ.get("TOKENIZERS_MM_DATA", "")) / "timeseries" / "ETTh1.csv.gz"


@pytest.mark.skipif(not DATA.is_file(), reason="needs ETTh1 in TOKENIZERS_MM_DATA")
def test_it_beats_block_means_and_uses_its_codes() -> None:
    codec = tm.load("totem-etth1")
    test = scaled_splits(SeriesSource(str(DATA), protocol="etth"), "test", 96)[0]
    tokens = codec.encode(test[None])
    ours = compute(test, codec.decode(tokens)[0], codec.spec)["revin_mse"]
    means = compute(test, BASELINES["means-4"](test, codec.spec)[1], codec.spec)["revin_mse"]
    assert ours < 0.5 * means
    assert token_health(tokens).codebooks[0].perplexity > 100
    assert torch.equal(codec.encode(test[None]).ids, tokens.ids)
