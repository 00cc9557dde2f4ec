"""Token health: numbers that follow from the definitions, and laws of entropy on random tokens."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm import bitstream
from tokenizers_mm.evaluation.health import token_health
from tokenizers_mm.tokens import Tokens, TokenSpec

AUDIO = TokenSpec("audio", (64,), hop=(320,), sample_rate=16000)


def audio(ids: torch.Tensor, size: int = 64) -> Tokens:
    return Tokens(ids.reshape(1, -1, 1), TokenSpec("audio", (size,), hop=(320,), sample_rate=16000))


def test_uniform_codes_use_everything():
    book = token_health(audio(torch.arange(64).repeat(10))).codebooks[0]
    assert (book.utilisation, book.dead_fraction) == (1, 0)
    assert book.entropy == pytest.approx(6) == book.entropy_corrected
    assert book.perplexity == pytest.approx(64)
    assert book.normalised_perplexity == pytest.approx(1)
    assert book.counts == (10,) * 64


def test_a_constant_code_uses_one_entry():
    book = token_health(audio(torch.full((100,), 7))).codebooks[0]
    assert book.utilisation == pytest.approx(1 / 64)
    assert (book.entropy, book.perplexity, book.repetition) == (0, 1, 1)
    assert book.normalised_perplexity == pytest.approx(1 / 64)


def test_two_disjoint_halves_add_one_bit():
    g = torch.Generator().manual_seed(0)
    low = torch.randint(0, 32, (500,), generator=g)
    high = torch.randint(32, 64, (500,), generator=g)
    parts = [token_health(audio(x)).codebooks[0].entropy for x in (low, high)]
    both = token_health(audio(torch.cat([low, high]))).codebooks[0].entropy
    assert both == pytest.approx(sum(parts) / 2 + 1)


def test_a_cycle_is_predictable_and_independent_ids_are_not():
    cycle = token_health(audio(torch.arange(8).repeat(500), 8)).codebooks[0]
    assert cycle.entropy == pytest.approx(3)
    assert cycle.conditional_entropy == pytest.approx(0, abs=1e-3)
    ids = torch.randint(0, 8, (20000,), generator=torch.Generator().manual_seed(1))
    assert token_health(audio(ids, 8)).codebooks[0].conditional_entropy == pytest.approx(3, abs=0.01)


def test_miller_madow_reduces_the_bias_of_a_small_sample():
    ids = torch.randint(0, 64, (200,), generator=torch.Generator().manual_seed(0))
    book = token_health(audio(ids)).codebooks[0]
    assert abs(book.entropy_corrected - 6) < abs(book.entropy - 6) / 2


def test_padding_and_item_borders_do_not_count():
    ids = torch.zeros(2, 5, 1, dtype=torch.long)
    ids[0, :, 0] = torch.tensor([1, 2, 1, 2, 1])
    ids[1, :2, 0] = torch.tensor([3, 4])
    health = token_health(Tokens(ids, AUDIO, shapes=torch.tensor([[5], [2]])))
    book = health.codebooks[0]
    assert (health.items, health.steps, book.used, book.counts) == (2, 7, 4, (3, 2, 1, 1))
    assert book.conditional_entropy == pytest.approx(0, abs=1e-9)  # 1>2, 2>1 and 3>4, but never 1>3 over the border


def test_rows_of_a_grid_are_not_neighbours():
    spec = TokenSpec("eeg", (16,), axes=("channel", "time"), hop=(1, 200), sample_rate=200, channels=0)
    grid = torch.tensor([[1, 1, 1], [2, 2, 2]])
    book = token_health(Tokens(grid.reshape(1, 6, 1), spec, shapes=torch.tensor([[2, 3]]))).codebooks[0]
    assert book.repetition == 1
    assert book.conditional_entropy == 0


def test_a_single_step_has_no_neighbours():
    book = token_health(audio(torch.tensor([3]))).codebooks[0]
    assert book.conditional_entropy is None
    assert book.repetition is None


def test_coverage_is_the_share_of_entries_seen_as_ids_pass():
    book = token_health(audio(torch.tensor([3, 3, 5, 1, 5, 2]), 8)).codebooks[0]
    assert book.coverage == ((1, 1 / 8), (2, 1 / 8), (4, 3 / 8), (6, 4 / 8))
    everything = token_health(audio(torch.arange(64).repeat(3))).codebooks[0].coverage
    assert everything[-3:] == ((64, 1), (128, 1), (192, 1))
    assert everything[3] == (8, 8 / 64)


def test_codebooks_that_repeat_each_other_share_their_bits():
    g = torch.Generator().manual_seed(0)
    first, other = (torch.randint(0, 16, (20000,), generator=g) for _ in range(2))
    spec = TokenSpec("audio", (16, 16, 16), hop=(320,), sample_rate=16000)
    ids = torch.stack([first, (first + 3) % 16, other], dim=-1)[None]
    books = token_health(Tokens(ids, spec)).codebooks
    assert books[0].mutual_information is None
    assert books[1].mutual_information == pytest.approx(4, abs=0.01)
    assert books[2].mutual_information == pytest.approx(0, abs=0.02)


def test_codebooks_beyond_any_table_are_counted():
    size = 2**62
    ids = torch.tensor([0, size - 1, size // 2, 0]).reshape(1, 4, 1)
    book = token_health(Tokens(ids, TokenSpec("image", (size,), axes=("rank",)))).codebooks[0]
    assert book.used == 3
    assert book.entropy == pytest.approx(1.5)


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        token_health(Tokens(torch.zeros(1, 0, 1, dtype=torch.long), AUDIO))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([2, 5, 64, 4096]), min_size=1, max_size=3),
    steps=st.integers(1, 60),
    items=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_laws_of_entropy(sizes: list[int], steps: int, items: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(0, size, (items, steps), generator=g) for size in sizes], dim=-1)
    tokens = Tokens(ids, TokenSpec("audio", tuple(sizes), hop=(320,), sample_rate=16000))
    health = token_health(tokens)
    assert health.nominal_bits == pytest.approx(items * steps * sum(math.log2(s) for s in sizes))
    assert health.ideal_bits <= health.nominal_bits + 1e-6
    assert health.real_bytes == len(bitstream.dumps(tokens))
    for q, book in enumerate(health.codebooks):
        assert sum(book.counts) == book.count == items * steps
        assert book.used == len(set(ids[..., q].flatten().tolist()))
        assert 0 <= book.entropy <= math.log2(book.used) + 1e-9
        assert book.entropy <= book.entropy_corrected + 1e-9
        assert book.coverage[-1] == (book.count, book.utilisation)
        assert list(book.coverage) == sorted(book.coverage)
        assert (book.mutual_information is None) == (q == 0)
        if q:
            assert 0 <= book.mutual_information <= min(book.entropy, health.codebooks[q - 1].entropy) + 1e-9
        if book.conditional_entropy is not None:
            assert 0 <= book.conditional_entropy <= math.log2(book.used) + 1e-9
