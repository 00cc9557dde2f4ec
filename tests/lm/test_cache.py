"""The cache: what is taken back was never there, rows may differ, copies go their own ways."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizers_mm.lm.backbone import Transformer

SIZES = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 48}


def network(**options: object) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(**SIZES, **options).eval()  # type: ignore[arg-type]
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return made


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 4])
def test_what_is_taken_back_was_never_there(window: int | None) -> None:
    net, x, wrong = network(window=window), torch.randn(3, 12, 32), torch.randn(3, 5, 32)
    cache = net.cache(3, 20)
    net(x[:, :6], None, cache)
    net(wrong, None, cache)
    cache.rollback(5)
    close(net(x[:, 6:], None, cache), net(x)[:, 6:])


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_rows_taken_back_by_different_counts_equal_themselves_alone(data: st.DataObject) -> None:
    """A speculative decoder's pattern: windows are appended, and each row keeps as much as it likes."""
    net, x = network(), torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(1))
    pads = torch.tensor([data.draw(st.integers(0, 2)) for _ in range(3)])
    cache, kept = net.cache(3, 40), [list(range(4)) for _ in range(3)]
    net(x[:, :4], torch.arange(4) >= pads[:, None], cache)
    for begin in (4, 9, 14):
        net(x[:, begin : begin + 5], None, cache)
        back = torch.tensor([data.draw(st.integers(0, 5)) for _ in range(3)])
        cache.rollback(back)
        for row, count in enumerate(back.tolist()):
            kept[row] += range(begin, begin + 5 - count)
    last = net(x[:, 20:22], None, cache)
    assert cache.length == max(map(len, kept)) + 2
    for row, at in enumerate(kept):
        alone = net(x[row : row + 1, [*at[int(pads[row]) :], 20, 21]])
        close(last[row], alone[0, -2:])


def test_copies_go_their_own_ways_and_rows_may_be_chosen() -> None:
    net, x = network(), torch.randn(2, 9, 32)
    cache = net.cache(2, 12)
    net(x[:, :6], torch.tensor([[True] * 6, [False] * 2 + [True] * 4]), cache)
    copy, twice, swapped = cache.fork(), cache.repeat(2), cache.reorder(torch.tensor([1, 0, 1]))
    one = net(x[:, 6:7], None, cache)
    net(torch.randn(2, 3, 32), None, copy)
    cache.rollback(1)
    close(net(x[:, 6:7], None, cache), one)
    close(net(x[:, 6:7].repeat_interleave(2, dim=0), None, twice), one.repeat_interleave(2, dim=0))
    close(net(x[[1, 0, 1], 6:7], None, swapped), one[[1, 0, 1]])
    cache.reset()
    close(net(x, None, cache), net(x))


def test_impossible_moves_are_refused_in_words() -> None:
    net = network()
    cache = net.cache(2, 6)
    net(torch.randn(2, 4, 32), torch.tensor([[False, True, True, True], [True] * 4]), cache)
    for steps in (5, -1, torch.tensor([4, 0]), torch.tensor([0, -1]), torch.tensor([1, 1, 1])):
        with pytest.raises(ValueError, match="steps must be"):
            cache.rollback(steps)
    with pytest.raises(ValueError, match="padding on the left"):
        net(torch.randn(2, 2, 32), torch.tensor([[False, True], [True, True]]), cache)
    with pytest.raises(ValueError, match="padding on the left"):
        net(torch.randn(2, 2, 32), torch.tensor([[True, False], [True, True]]), net.cache(2, 6))
    with pytest.raises(ValueError, match="2 rows of 6 steps, got 3 rows"):
        net(torch.randn(3, 1, 32), None, cache)
