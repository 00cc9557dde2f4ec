"""Lexinvariant models: permuting symbols with their rows changes nothing; tasks; learning within a sequence."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import DecoderLM
from tokenizers_mm.lm.lexinvariant import (
    PADDING,
    LexinvariantLM,
    RegularizedLM,
    invariance_error,
    loss_by_position,
    random_rows,
)
from tokenizers_mm.lm.symbols import ALPHABET, KeyProbe, cipher, lookup, permute, plain_ids, repeated_words

SIZES = {"dim": 32, "layers": 2, "heads": 4}


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


@pytest.fixture
def lm() -> LexinvariantLM:
    torch.manual_seed(0)
    lm = LexinvariantLM(**SIZES).eval()
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return lm


def test_permuting_ids_with_their_rows_permutes_logits(lm: LexinvariantLM) -> None:
    ids, rows = torch.randint(11, (3, 9)), lm.rows(3, 11, seed())
    order = torch.randperm(11)
    moved = torch.empty_like(rows)
    moved[:, order] = rows
    torch.testing.assert_close(lm(order[ids], moved)[..., order], lm(ids, rows), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(lm(ids, rows), lm(ids, lm.rows(3, 11, seed(1))), atol=1e-3)


def test_no_parameter_knows_the_number_of_symbols(lm: LexinvariantLM) -> None:
    ids = torch.randint(5, (2, 6))
    for symbols in (5, 97):
        assert lm(ids, lm.rows(2, symbols)).shape == (2, 6, symbols)
        assert not any(symbols in p.shape for p in lm.parameters())
    assert not any("rows" in name for name in lm.state_dict())


def test_rows_are_the_sequences_and_the_seeds(lm: LexinvariantLM) -> None:
    rows = lm.rows(3, 7, seed(4))
    assert torch.equal(rows, lm.rows(3, 7, seed(4)))
    assert not torch.equal(rows[0], rows[1])
    assert abs(float(random_rows(8, 64, 256).std()) - 1) < 0.01


def test_padding_is_zero_and_changes_nothing_before_it(lm: LexinvariantLM) -> None:
    ids, rows = torch.randint(7, (2, 8)), lm.rows(2, 7, seed())
    padded = ids.clone()
    padded[0, 5:] = PADDING
    torch.testing.assert_close(lm(padded, rows)[0, :6], lm(ids, rows)[0, :6])
    assert float(lm.loss(padded, 7, seed()).detach()) > 0


def test_nothing_to_go_on_at_the_start(lm: LexinvariantLM) -> None:
    """Averaged over rows, the first symbol is any symbol."""
    p = lm.probabilities(torch.zeros(64, 1, dtype=torch.int64), 9, 200, seed())
    torch.testing.assert_close(p.mean(dim=0)[0], torch.full((9,), 1 / 9), atol=5e-3, rtol=0)
    assert float(-(p.mean(dim=0)[0, 0]).log()) == pytest.approx(math.log(9), abs=0.05)


def test_the_error_shrinks_with_draws(lm: LexinvariantLM) -> None:
    ids = torch.randint(6, (16, 10), generator=seed())
    few, many = (invariance_error(lm, ids, 6, draws) for draws in (1, 64))
    assert many < few / 3


def test_generation_keeps_its_rows(lm: LexinvariantLM) -> None:
    ids, rows = torch.randint(7, (2, 4)), lm.rows(2, 7, seed())
    found = lm.generate(ids, rows, 5, temperature=0)
    so_far = ids
    for step in range(5):
        following = lm(torch.cat([so_far, so_far[:, :1]], dim=1), rows)[:, -1].argmax(dim=-1)
        assert torch.equal(found[:, step], following)
        so_far = torch.cat([so_far, following[:, None]], dim=1)


def test_the_regularised_model_is_plain_in_evaluation() -> None:
    torch.manual_seed(0)
    model, ids = RegularizedLM(20, share=1.0, **SIZES), torch.randint(20, (2, 6))
    plain = DecoderLM(20, **SIZES)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(ids).logits, plain.eval()(ids).logits)
    model.train()
    assert not torch.allclose(model(ids).logits, model(ids).logits)
    model.anneal(0.0)
    torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    model.anneal(0.5)
    assert model.share == 0.5
    with pytest.raises(ValueError, match="share"):
        RegularizedLM(20, share=1.5, **SIZES)


def test_tasks_are_what_a_reader_solves() -> None:
    task = lookup(20, 5, 7, 16, seed())
    for row, asked in zip(task.ids.tolist(), task.answers, strict=True):
        table = dict(zip(row[:10:2], row[1:10:2], strict=True))
        assert len(table) == 5
        assert [table[key] for key in row[10::2]] == [row[i] for i in asked.nonzero()[:, 0]]
    task = permute(20, 4, 3, 16, seed())
    for row, asked in zip(task.ids.tolist(), task.answers, strict=True):
        words = [row[at : at + 4] for at in range(0, 24, 4)]
        order = [words[0].index(symbol) for symbol in words[1]]
        assert [[words[k][i] for i in order] for k in (2, 4)] == [words[3], words[5]]
        assert asked.nonzero()[:, 0].tolist() == [*range(12, 16), *range(20, 24)]
    perfect = F.one_hot(task.ids, 16).float()
    assert task.accuracy(perfect) == 1.0
    for call in (lambda: lookup(1, 9, 1, 8, seed()), lambda: permute(1, 9, 2, 8, seed())):
        with pytest.raises(ValueError, match="to 8"):
            call()


def test_the_probe_reads_keys_that_states_hold() -> None:
    text = plain_ids("It was the best of times, it was the worst of times; it was the age of wisdom. " * 12)
    assert "".join(ALPHABET[i] for i in text[:16].tolist()) == "it was the best "
    plain = text[: 6 * 120].view(6, 120)
    ids, keys = cipher(plain, 27, seed())
    assert torch.equal(keys.gather(1, ids), plain)
    directions = torch.randn(27, 40, generator=seed())
    states = directions[plain] + 0.5 * torch.randn(6, 120, 40, generator=seed(1))
    probe = KeyProbe(states[:4], plain[:4], 27)
    assert probe.accuracy(states[4:], ids[4:], keys[4:]) > 0.9
    noise = torch.randn(6, 120, 40, generator=seed(2))
    assert KeyProbe(noise[:4], plain[:4], 27).accuracy(noise[4:], ids[4:], keys[4:]) < 0.4
    assert (probe.keys(states, ids) == -1).any()


def test_words_come_back() -> None:
    ids = repeated_words(5, 2, 4, 6, 16, seed())
    for row in ids.view(5, 6, 4):
        assert len({tuple(word) for word in row.tolist()}) <= 2
    flat = torch.zeros(5, 24, 16)
    assert loss_by_position(lambda x: flat, ids, (0, 8, 16, 64, 99)) == pytest.approx([math.log(16)] * 3)


def test_bad_rows_are_refused(lm: LexinvariantLM) -> None:
    ids = torch.randint(5, (2, 6))
    with pytest.raises(ValueError, match=r"rows must be \[2, V, 32\]"):
        lm(ids, lm.rows(1, 5))
    with pytest.raises(ValueError, match="below 3"):
        lm(ids.clamp(min=4), lm.rows(2, 3))


@pytest.mark.slow
def test_it_learns_to_repeat_symbols_that_it_never_saw() -> None:
    """Two layers, words of random symbols: the loss falls along a sequence, on symbols beyond those of training too."""
    torch.manual_seed(0)
    generator = seed(1)
    model = LexinvariantLM(dim=64, layers=2, heads=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(1500):
        half = torch.randint(16, (32, 24), generator=generator)
        optimizer.zero_grad()
        model.loss(torch.cat([half, half], dim=1), 16, generator).backward()
        optimizer.step()
    model.eval()
    half = torch.randint(40, (64, 24), generator=generator)
    ids, rows = torch.cat([half, half], dim=1), model.rows(64, 40, generator)
    right = (model(ids, rows).argmax(dim=-1) == ids)[:, 28:]
    assert float(right.double().mean()) > 0.95
    first, _, repeated = loss_by_position(lambda x: model(x, rows), ids, (0, 24, 28, 48))
    assert repeated < first / 5
