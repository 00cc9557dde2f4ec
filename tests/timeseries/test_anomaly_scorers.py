"""Anomaly scorers: each finds a planted anomaly, takes or refuses odd series alike; likelihoods against plain counting."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tokenizers_mm.timeseries import ChronosBins, TimeRCD
from tokenizers_mm.timeseries.anomaly import (
    AnomalyScorer,
    Bigram,
    CausalModel,
    CodecReconstruction,
    IsolationForest,
    MatrixProfile,
    SubPCA,
    TimeRCDScorer,
    TokenLikelihood,
    ZScore,
)
from tokenizers_mm.timeseries.anomaly.detectors import load

TINY = {"dim": 16, "step_dim": 4, "layers": 1, "heads": 2, "window": 64}


def scorers() -> dict[str, AnomalyScorer]:
    codec = ChronosBins(vocabulary_size=64).eval()
    return {
        "z-score": ZScore(),
        "sub-pca": SubPCA(),
        "isolation forest": IsolationForest(trees=20),
        "matrix profile": MatrixProfile(),
        "timercd": TimeRCDScorer(TimeRCD(**TINY).eval()),
        "reconstruction": CodecReconstruction(codec),
        "likelihood": TokenLikelihood(codec, Bigram()),
    }


COMPILED = pytest.param("matrix profile", marks=pytest.mark.slow)  # stumpy compiles for half a minute
ALL = [COMPILED if name == "matrix profile" else name for name in scorers()]
CLASSICAL = ["sub-pca", "isolation forest", COMPILED]


def series(n: int = 600) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.arange(n) / 5).sin() + 0.05 * torch.randn(n, generator=generator)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "odd",
    [
        torch.full((200,), 5.0),
        torch.ones(1),
        torch.tensor([1.0, 2.0, 4.0]),
        series(30),
        torch.arange(200),
        1e9 + series(200).double(),
        torch.where(torch.arange(200) % 7 == 0, math.nan, series(200)),
        torch.randn(3, 200),
    ],
    ids=["constant", "one step", "three steps", "short", "integers", "offset", "gaps", "variates"],
)
def test_odd_series_get_a_finite_score_for_each_step(name: str, odd: Tensor) -> None:
    scores = scorers()[name].score(odd)
    assert scores.shape == odd.shape[-1:]
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("bad", "kind", "says"),
    [
        (torch.full((50,), math.nan), ValueError, "missing throughout"),
        (torch.tensor([1.0, math.inf, 2.0]), ValueError, "infinity"),
        (torch.zeros(0), ValueError, "at least one step"),
        (torch.zeros(2, 2, 2), ValueError, r"\[N\] or \[C, N\]"),
        (torch.zeros(5, dtype=torch.complex64), TypeError, "real numbers"),
    ],
)
def test_bad_series_are_one_clear_error(name: str, bad: Tensor, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        scorers()[name].score(bad)


@pytest.mark.parametrize("name", ["z-score", "sub-pca", pytest.param("timercd", marks=pytest.mark.slow)])
def test_thousands_of_variates(name: str) -> None:
    assert scorers()[name].score(torch.randn(5000, 40)).shape == (40,)


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_planted_anomaly_scores_highest(name: str) -> None:
    x = series(1500)
    x[700:730] += 3
    found = scorers()[name].score(x)
    assert 660 <= int(found.argmax()) <= 770


def test_scores_do_not_depend_on_scale() -> None:
    for name in ("z-score", "sub-pca", "timercd"):
        scorer, x = scorers()[name], series(300).double()
        torch.testing.assert_close(scorer.score(x), scorer.score(40 * x - 3), atol=1e-3, rtol=1e-3)


def brute_force_profile(x: np.ndarray, window: int) -> np.ndarray:
    """Distance of each z-normalised subsequence to the nearest one that starts more than a quarter of a window away."""
    parts = np.lib.stride_tricks.sliding_window_view(x, window)
    parts = (parts - parts.mean(1, keepdims=True)) / parts.std(1, keepdims=True)
    distance = np.sqrt(np.square(parts[:, None] - parts[None]).sum(-1))
    near = np.abs(np.subtract.outer(np.arange(len(parts)), np.arange(len(parts)))) <= math.ceil(window / 4)
    return np.where(near, np.inf, distance).min(axis=1)


INTERPRETED = """
import sys, numpy as np, torch
from tokenizers_mm.timeseries.anomaly import MatrixProfile
from tokenizers_mm.timeseries.anomaly.classical import _subject
for path in sys.argv[1:]:
    x = torch.from_numpy(np.load(path))
    rows, window = _subject(x)
    np.savez(path + ".npz", scores=MatrixProfile().score(x).numpy(), rows=rows, window=window)
"""


def test_the_matrix_profile_is_the_distance_to_the_nearest_other_subsequence(tmp_path: Path) -> None:
    """In a process where stumpy's functions are interpreted: compiling them would take half a minute."""
    pytest.importorskip("stumpy")
    planted = series(120).double()
    planted[60:64] += 2
    subjects = {"planted": planted, "variates": torch.stack([planted[:70], planted.flip(0)[:70].cumsum(0)])}
    paths = [str(tmp_path / f"{name}.npy") for name in subjects]
    for path, x in zip(paths, subjects.values(), strict=True):
        np.save(path, x.numpy())
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED, *paths], env=environment, check=True)
    for path in paths:
        found = np.load(path + ".npz")
        window, rows = int(found["window"]), found["rows"]
        wanted = np.mean([brute_force_profile(row, window) for row in rows], axis=0)
        np.testing.assert_allclose(found["scores"][window // 2 : window // 2 + len(wanted)], wanted, atol=1e-4)
    first = np.load(paths[0] + ".npz")
    assert abs(int(first["scores"].argmax()) - 62) <= int(first["window"]) // 2 + 2


def test_gaps_are_filled_on_a_line() -> None:
    x = torch.tensor([0.0, math.nan, math.nan, 3.0, 4.0, math.nan])
    torch.testing.assert_close(ZScore().score(x), ZScore().score(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 4.0])))


def test_several_variates_of_a_network_for_one_are_scored_in_turn() -> None:
    scorer, x = TimeRCDScorer(TimeRCD(**TINY).eval()), torch.randn(3, 100)
    torch.testing.assert_close(scorer.score(x), torch.stack([scorer.score(row) for row in x]).mean(dim=0))


def test_reconstruction_error_is_that_of_the_codec() -> None:
    codec, x = ChronosBins(vocabulary_size=32).eval(), series(200)
    standard = (x - x.mean()) / x.std(correction=0)
    wanted = (codec.reconstruct(standard[None, None])[0, 0] - standard).square()
    torch.testing.assert_close(CodecReconstruction(codec).score(x), wanted, atol=1e-5, rtol=1e-3)


def test_bigram_likelihoods_sum_to_one_and_follow_the_counts() -> None:
    ids = torch.tensor([[3, 1, 3, 1, 3, 1, 3]])
    model = Bigram(weight=1.0)
    found = model.log_likelihood(ids, 5)[0].exp()
    assert found[0] == pytest.approx(1 / 5)
    assert found[6] > 0.7  # after 1 there was 3, twice
    for position in range(7):
        total = 0.0
        for value in range(5):
            other = ids.clone()
            other[0, position] = value
            total += float(model.log_likelihood(other, 5)[0, position].exp())
        assert total == pytest.approx(1)


def test_a_rare_token_is_the_most_anomalous() -> None:
    x = torch.tensor([0.0, 1.0]).repeat(150)
    x[201] = -1.0
    scores = TokenLikelihood(ChronosBins(vocabulary_size=64).eval(), Bigram()).score(x)
    assert scores.shape == (300,)
    assert int(scores[20:].argmax()) + 20 == 201


class Follower(nn.Module):
    """Predicts that the next id is the last one plus 1, from the last one alone."""

    def forward(self, ids: Tensor) -> Tensor:
        return 5.0 * nn.functional.one_hot((ids + 1) % 10, 10)


def test_a_causal_network_in_pieces_is_the_network_at_once() -> None:
    ids = torch.randint(10, (2, 50))
    whole, pieces = CausalModel(Follower(), start=9, context=200), CausalModel(Follower(), start=9, context=8)
    torch.testing.assert_close(pieces.log_likelihood(ids, 10), whole.log_likelihood(ids, 10))
    before = torch.cat([torch.full((2, 1), 9), ids[:, :-1]], dim=1)
    wanted = Follower()(before).float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(whole.log_likelihood(ids, 10), wanted)


def test_detectors_by_name(tmp_path: Path) -> None:
    codecs: list[str] = []

    def codec(name: str) -> ChronosBins:
        codecs.append(name)
        return ChronosBins(vocabulary_size=64).eval()

    TimeRCD(**TINY).save_pretrained(tmp_path / "mine")
    kinds = {
        "z-score": ZScore,
        "reconstruction:a": CodecReconstruction,
        "likelihood:b": TokenLikelihood,
        "mine": TimeRCDScorer,
        str(tmp_path / "mine"): TimeRCDScorer,
    }
    for name, kind in kinds.items():
        assert isinstance(load(name, codec=codec, folder=tmp_path), kind)
    assert codecs == ["a", "b"]
    with pytest.raises(ValueError, match="no detector 'z-scores': expected a folder of TimeRCD"):
        load("z-scores", codec=codec, folder=tmp_path)
