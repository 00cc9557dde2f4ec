"""N-grams of tokens: smoothing as the formulas say, probabilities of one, the same stepwise and at once, on disk as in memory."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.lm.neighbours import neighbours
from tokenizers_mm.lm.ngram import TokenNGram
from tokenizers_mm.lm.predicts import Predicts
from tokenizers_mm.tokens import Tokens, TokenSpec

AUDIO = TokenSpec("audio", (5, 3), hop=(10,), sample_rate=100.0)
IMAGE = TokenSpec("image", (6,), axes=("height", "width"), hop=(8, 8), channels=3)


def audio(seed: int, lengths: tuple[int, ...] = (9, 4, 0, 7)) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(len(lengths), max(lengths), 2, generator=generator).square() * torch.tensor([5, 3])
    return Tokens(ids.long(), AUDIO, torch.tensor(lengths)[:, None])


def image(seed: int, shapes: tuple[tuple[int, int], ...] = ((3, 4), (2, 5), (3, 4))) -> Tokens:
    """Ids that are mostly the one above, plus one."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for height, width in shapes:
        grid = torch.randint(6, (height, width), generator=generator)
        for y in range(1, height):
            grid[y] = torch.where(torch.rand(width, generator=generator) < 0.9, (grid[y - 1] + 1) % 6, grid[y])
        rows.append(grid.flatten())
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[..., None]
    return Tokens(ids, IMAGE, torch.tensor(shapes))


BATCHES = {"audio": audio(0), "image": image(0)}


def bits(model: TokenNGram, tokens: Tokens) -> float:
    return float(model.nll(tokens).sum() / math.log(2) / (tokens.lengths.sum() * tokens.spec.num_codebooks))


@pytest.mark.parametrize("context", ["sequence", "grid"])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize(("order", "min_count"), [(1, 1), (2, 1), (4, 1), (4, 3)])
def test_stepwise_probabilities_sum_to_one_and_are_those_of_the_whole(
    kind: str, context: str, order: int, min_count: int
) -> None:
    tokens = BATCHES[kind]
    model = TokenNGram.learn([tokens], order=order, context=context, min_count=min_count)
    for heard in (tokens, audio(1) if kind == "audio" else image(1, ((1, 1), (4, 2)))):
        nll = model.nll(heard)
        assert not nll[~heard.mask].any()
        for b, item in enumerate(heard):
            state = model.start(heard.spec, item.shape)
            for t in range(int(item.lengths)):
                for q, size in enumerate(heard.spec.codebook_sizes):
                    p = state.probabilities()
                    assert p.shape == (size,)
                    assert p.min() > 0
                    assert p.sum() == pytest.approx(1, abs=1e-12)
                    assert float(nll[b, t, q]) == -math.log(p[item.ids[0, t, q]])
                    state.push(int(item.ids[0, t, q]))


def kneser_ney(tokens: Tokens, order: int) -> dict[tuple[int, tuple, int], float]:
    """Probability of every id after every context of two columns' sequences, from the formulas, with dictionaries."""
    counts: list[Counter] = [Counter() for _ in range(order)]
    for item in tokens:
        row = [(q, int(code)) for step in item.ids[0] for q, code in enumerate(step)]
        for i, (q, code) in enumerate(row):
            near = tuple(row[i - k] if i >= k else None for k in range(1, order))
            counts[-1][q, near, code] += 1
    for n in reversed(range(order - 1)):
        counts[n] = Counter((q, near[:n], code) for q, near, code in counts[n + 1])
    discounts = [(0.0, *_discounts(count)) for count in counts]

    def probability(q: int, near: tuple, code: int) -> float:
        p = 1 / tokens.spec.codebook_sizes[q]
        for n, (count, off) in enumerate(zip(counts, discounts, strict=True)):
            seen = [c for (q_, near_, _), c in count.items() if (q_, near_) == (q, near[:n])]
            if not seen:
                break
            c = count[q, near[:n], code]
            p = (max(c - off[min(c, 3)], 0) + sum(off[min(c, 3)] for c in seen) * p) / sum(seen)
        return p

    contexts = {(q, near) for q, near, _ in counts[-1]}
    return {
        (q, near, code): probability(q, near, code)
        for q, near in contexts
        for code in range(tokens.spec.codebook_sizes[q])
    }


def _discounts(count: Counter) -> list[float]:
    n = [sum(c == k for c in count.values()) for k in range(5)]
    found = []
    for k, default in ((1, 0.5), (2, 1.0), (3, 1.5)):
        known = n[k] and n[1] + 2 * n[2]
        value = k - (k + 1) * n[1] / (n[1] + 2 * n[2]) * n[k + 1] / n[k] if known else default
        found.append(min(max(value, 0.1), k))
    return found


@pytest.mark.parametrize("order", [1, 2, 3])
def test_smoothing_is_that_of_the_formulas(order: int) -> None:
    tokens = audio(2, (40, 25, 31))
    model = TokenNGram.learn([tokens[:2], tokens[2]], order=order)
    offset = {0: 0, 1: 5}
    for (q, near, code), expected in kneser_ney(tokens, order).items():
        ids = [8 if known is None else offset[known[0]] + known[1] for known in near]
        assert model.predict(q, ids)[code] == pytest.approx(expected, rel=1e-4)  # discounts are rounded


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 3), st.sampled_from(["sequence", "grid"]))
def test_neighbours_are_known_before_and_different(shape: list[int], columns: int, context: str) -> None:
    near = neighbours(context, tuple(shape), columns, 3)
    total = math.prod(shape) * columns
    assert near.shape == (3, total)
    for at in range(total):
        inside = near[:, at][near[:, at] < total]
        assert (inside < at).all()
        assert len(set(inside.tolist())) == len(inside)


def test_neighbours_in_a_grid_are_left_up_up_right_up_left() -> None:
    near = neighbours("grid", (3, 4), 1, 4)
    assert near[:, 5].tolist() == [4, 1, 2, 0]
    assert near[:, 7].tolist() == [6, 3, 12, 2]
    assert near[:, 4].tolist() == [12, 0, 1, 12]


def test_neighbours_in_residual_codes_are_the_column_before_and_the_step_before() -> None:
    assert neighbours("grid", (3,), 2, 3)[:, 3].tolist() == [2, 1, 0]


def test_longer_contexts_and_those_of_the_grid_predict_better() -> None:
    train, heldout = image(3, ((6, 6),) * 40), image(4, ((6, 6),) * 10)
    unigram, plain, grid = (
        bits(TokenNGram.learn([train], order=order, context=context), heldout)
        for order, context in ((1, "sequence"), (3, "sequence"), (3, "grid"))
    )
    assert grid < 1.7 < 2.4 < min(unigram, plain)
    walk = Tokens(torch.arange(60)[None, :, None] % 7 % 5, TokenSpec("audio", (5,), hop=(1,), sample_rate=1.0))
    assert bits(TokenNGram.learn([walk], order=4), walk) < 0.5 < bits(TokenNGram.learn([walk], order=1), walk)


def test_rare_contexts_are_left_out_on_request() -> None:
    whole, small = (TokenNGram.learn([audio(5, (200,))], order=4, min_count=n) for n in (1, 5))
    assert len(small.tables[3].contexts) < len(whole.tables[3].contexts) / 2
    assert len(small.tables[0].contexts) == 2


@pytest.mark.parametrize("context", ["sequence", "grid"])
def test_a_folder_gives_the_same_model(tmp_path: Path, context: str) -> None:
    model = TokenNGram.learn([BATCHES["audio"]], order=3, context=context)
    model.save_pretrained(tmp_path)
    again = TokenNGram.from_pretrained(tmp_path)
    assert again.fingerprint == model.fingerprint
    assert torch.equal(again.nll(audio(1)), model.nll(audio(1)))
    other = TokenNGram.learn([audio(1)], order=3, context=context)
    assert other.fingerprint != model.fingerprint
    assert isinstance(model, Predicts)


def test_contexts_of_huge_codebooks_are_kept(tmp_path: Path) -> None:
    """Their keys need more than 32 bits."""
    spec = TokenSpec("audio", (2**30,), hop=(10,), sample_rate=100.0)
    tokens = Tokens(torch.randint(2**30, (1, 40, 1), generator=torch.Generator().manual_seed(0)), spec)
    model = TokenNGram.learn([tokens], order=3)
    assert model.tables[2].contexts.max() > 2**32
    model.save_pretrained(tmp_path)
    assert torch.equal(TokenNGram.from_pretrained(tmp_path).nll(tokens), model.nll(tokens))


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        TokenNGram.from_pretrained(tmp_path)
    model = TokenNGram.learn([BATCHES["audio"]], order=2)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"class": "Other"}, "class"),
        ({"order": 3}, r"lacks 'contexts\.2'"),
        ({"order": 0}, "order"),
        ({"context": "tree"}, "context"),
        ({"spec": {**config["spec"], "codebook_sizes": [3, 5]}}, "ids of the codebook"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            TokenNGram.from_pretrained(tmp_path)


def test_bad_arguments_are_named() -> None:
    model = TokenNGram.learn([BATCHES["audio"]], order=2)
    with pytest.raises(ValueError, match="expected tokens of TokenSpec"):
        model.nll(BATCHES["image"])
    with pytest.raises(ValueError, match="expected tokens of TokenSpec"):
        model.start(IMAGE, (2, 2))
    with pytest.raises(ValueError, match="at least one id"):
        TokenNGram.learn([audio(0, (0,))])
    with pytest.raises(ValueError, match="one spec"):
        TokenNGram.learn(BATCHES.values())
    with pytest.raises(ValueError, match="order must be at most 7"):
        TokenNGram.learn([BATCHES["image"]], order=9, context="grid")
    with pytest.raises(ValueError, match="order must be at least 1"):
        TokenNGram.learn([BATCHES["image"]], order=0)


def test_every_id_of_a_large_codebook_stays_possible() -> None:
    spec = TokenSpec("audio", (2**18,), hop=(10,), sample_rate=100.0)
    ids = torch.full((1, 50, 1), 77)
    p = TokenNGram.learn([Tokens(ids, spec)], order=3).start(spec, (4,)).probabilities()
    assert p.argmax() == 77
    assert np.unique(p).size == 2
    assert p.min() > 0
