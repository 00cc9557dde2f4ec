"""Lexinvariant models: permuting symbols with their rows changes nothing; tasks; learning within a sequence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.lm.lexinvariant import PADDING, Documents, LexinvariantLM
from tokenizers_mm.lm.regularized import RegularizedLM
from tokenizers_mm.lm.symbol_study import invariance_error, loss_by_position
from tokenizers_mm.lm.symbols import ALPHABET, KeyProbe, cipher, lookup, permute, plain_ids, repeated_words

SIZES = {"symbols": 7, "dim": 32, "layers": 2, "heads": 4}


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
    assert abs(float(lm.rows(64, 64).std()) - 1) < 0.02


def test_padding_is_zero_and_changes_nothing_before_it(lm: LexinvariantLM) -> None:
    ids, rows = torch.randint(7, (2, 8)), lm.rows(2, 7, seed())
    padded = ids.clone()
    padded[0, 5:] = PADDING
    torch.testing.assert_close(lm(padded, rows)[0, :6], lm(ids, rows)[0, :6])
    assert float(lm.loss(padded, seed()).detach()) > 0


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


def test_documents_of_a_row_are_apart(lm: LexinvariantLM) -> None:
    """Packed, a document has the logits that it has alone, with its rows."""
    first, second, third = (torch.randint(7, (n,), generator=seed(n)) for n in (5, 3, 4))
    gap, end = torch.tensor([PADDING]), torch.tensor([PADDING, PADDING])
    ids = torch.stack([torch.cat([first, gap, second, gap, end]), torch.cat([gap, third, gap, gap, second, end])])
    rows = lm.rows(4, 7, seed()).view(2, 2, 7, 32)
    found = lm(ids, rows)
    places = ((0, 0, 0, first), (0, 1, 6, second), (1, 0, 1, third), (1, 1, 7, second))
    for row, document, start, alone in places:
        expected = lm(alone[None], rows[row, document][None])[0]
        torch.testing.assert_close(found[row, start : start + len(alone)], expected, atol=1e-5, rtol=1e-5)
    assert Documents.of(ids).number.tolist()[0][:5] == [0] * 5
    torch.testing.assert_close(
        lm.loss(ids, seed()), F.cross_entropy(found.flatten(0, 1), ids.flatten(), ignore_index=PADDING)
    )
    with pytest.raises(ValueError, match="2 documents a row"):
        lm(ids, rows[:, 0])


def test_saved_and_loaded_it_is_the_same(lm: LexinvariantLM, tmp_path: Path) -> None:
    lm.save_pretrained(tmp_path)
    again = LexinvariantLM.from_pretrained(tmp_path)
    ids, rows = torch.randint(7, (2, 6)), lm.rows(2, generator=seed())
    assert again.config == lm.config
    assert again.config["symbols"] == 7
    assert torch.equal(again(ids, rows), lm(ids, rows))
    assert not [name for name, tensor in lm.state_dict().items() if 7 in tensor.shape]


def test_a_regularised_model_comes_to_be_lexinvariant(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = RegularizedLM(share=0.5, **SIZES), torch.randint(7, (2, 6))
    assert torch.equal(model.eval().rows(2), model.own.expand(2, -1, -1))
    own = (model.train().rows(300, generator=seed()) == model.own).all(dim=-1)
    assert 0.45 < float(own.double().mean()) < 0.55
    assert not torch.equal(own[0], own[1])
    model.anneal(0.0)
    assert torch.equal(model.rows(2), model.own.expand(2, -1, -1))
    model.anneal(1.0)
    plain = model.eval().lexinvariant()
    assert type(plain) is LexinvariantLM
    assert not plain.training
    model.save_pretrained(tmp_path)
    again = RegularizedLM.from_pretrained(tmp_path)
    for other in (plain, again):  # the share is kept, and leaves nothing of the rows of its own
        assert torch.equal(other.loss(ids, seed()), model.loss(ids, seed()))
    for wrong in (lambda: RegularizedLM(share=1.5, **SIZES), lambda: model.rows(2, 8), lambda: model.anneal(2.0)):
        with pytest.raises(ValueError, match=r"share|symbols must be 7"):
            wrong()


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
    assert loss_by_position(flat, ids, (0, 8, 16, 64, 99)) == pytest.approx([math.log(16)] * 3)


def test_bad_rows_are_refused(lm: LexinvariantLM) -> None:
    ids = torch.randint(5, (2, 6))
    with pytest.raises(ValueError, match=r"rows must be \[2, V, 32\]"):
        lm(ids, lm.rows(1, 5))
    with pytest.raises(ValueError, match="below 3"):
        lm(ids.clamp(min=4), lm.rows(2, 3))


def repetitions(symbols: range, generator: torch.Generator) -> Tensor:
    """Eight random symbols three times, ``[32, 24]``."""
    return torch.randint(symbols.start, symbols.stop, (32, 8), generator=generator).repeat(1, 3)


@pytest.fixture(scope="module")
def trained() -> tuple[LexinvariantLM, RegularizedLM]:
    """Two layers that saw repetitions of 16 symbols: a lexinvariant model, and an ordinary one with embeddings for 24."""
    found = []
    for kind, options in ((LexinvariantLM, {}), (RegularizedLM, {"share": 0.0})):
        torch.manual_seed(0)
        generator = seed(1)
        model = kind(24, dim=32, layers=2, heads=2, **options)
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
        for _ in range(200):
            optimizer.zero_grad()
            model.loss(repetitions(range(16), generator), generator).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        found.append(model.eval())
    return found[0], found[1]


def copied(model: LexinvariantLM, symbols: range) -> float:
    """Share of what comes again that is the likeliest."""
    ids = repetitions(symbols, seed(2))
    return float((model(ids, model.rows(32, generator=seed(3))).argmax(dim=-1) == ids)[:, 10:].double().mean())


def test_it_copies_symbols_that_it_never_saw(trained: tuple[LexinvariantLM, RegularizedLM]) -> None:
    """An ordinary model copies those of its training, and no others."""
    lexinvariant, ordinary = trained
    assert min(copied(lexinvariant, range(16)), copied(lexinvariant, range(16, 24))) > 0.95
    assert copied(ordinary, range(16)) > 0.9
    assert copied(ordinary, range(16, 24)) < 0.5


def test_its_loss_falls_from_chance_along_a_repetition(trained: tuple[LexinvariantLM, RegularizedLM]) -> None:
    model, ids = trained[0], torch.cat([repetitions(range(24), seed(i)) for i in range(20)])
    logits = model(ids, model.rows(len(ids), generator=seed())).detach()
    first, *_ = loss_by_position(logits, ids, (0, 1))
    assert first == pytest.approx(math.log(24), abs=0.15)
    new, again, later = loss_by_position(logits, ids, (0, 8, 12, 24))
    assert first + 0.3 > new
    assert max(again, later) < 0.2 * new
