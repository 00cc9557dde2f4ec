"""Embedders of new tokens: the mean of the parts, and a cache that changes nothing but the time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tokenizers_mm as tm
from tokenizers_mm.text.embedders import EmbeddingCache, MeanOfParts, parts_of

TOKENS = [bytes([b]) for b in range(97, 109)]


class Counting:
    """Embeddings that differ with each call, to tell a kept one from a new one."""

    def __init__(self, tied: bool) -> None:
        self.tied, self.calls, self.latest = tied, 0, {}

    def __call__(self, tokens: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        self.calls += 1
        rows = torch.tensor([[float(token[0]), float(self.calls)] for token in tokens]).reshape(-1, 2)
        self.latest.update(zip(tokens, rows.tolist(), strict=True))
        return rows, rows if self.tied else -rows


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(TOKENS), max_size=9), max_size=12), st.integers(1, 6), st.booleans())
def test_a_cache_gives_what_was_made_and_keeps_the_running_batch(batches: list, rows: int, tied: bool) -> None:
    maker = Counting(tied)
    cache = EmbeddingCache(maker, rows)
    last_use: dict[bytes, int] = {}
    for turn, batch in enumerate(batches):
        before = {token for token in TOKENS if token in cache}
        calls = maker.calls
        inputs, outputs = cache(batch)
        unique = set(batch)
        assert inputs.tolist() == [
            maker.latest[token] for token in batch
        ]  # of its last miss, if it was there before too
        assert torch.equal(outputs, inputs if tied else -inputs)
        assert (outputs is inputs) == tied
        assert maker.calls - calls <= 1
        assert len(cache) <= rows
        after = {token for token in TOKENS if token in cache}
        if len(unique) > rows:
            assert after == before
            continue
        assert unique <= after
        last_use |= dict.fromkeys(unique, turn)
        gone = before - after
        assert not gone or max(last_use[t] for t in gone) <= min((last_use[t] for t in after & before), default=turn)


def test_what_hits_is_what_missed() -> None:
    cache = EmbeddingCache(lambda tokens: (torch.randn(len(tokens), 3),) * 2, 4)
    first = cache([b"a", b"b"])[0]
    assert torch.equal(cache([b"b", b"c", b"b"])[0][[0, 2]], first[[1, 1]])
    assert (cache.hits, cache.misses) == (1, 3)
    assert cache([b"d", b"e", b"f", b"g", b"a"])[0].shape == (5, 3)  # past it, though one of them is there
    assert torch.equal(cache([b"a"])[0][0], first[0])
    with pytest.raises(ValueError, match="rows"):
        EmbeddingCache(Counting(True), 0)


def test_the_mean_of_the_parts() -> None:
    codec = tm.load("bpe-8k")
    parts = parts_of(codec)
    tokens = [b" governments", b"\xe6\x97", b"qqxz", b" the", "日本語".encode()]
    for token in tokens:
        assert b"".join(codec.vocabulary.tokens[i] for i in parts(token)) == token
    for i in (0, 97, 300, 8000):
        assert codec.vocabulary.tokens[parts(codec.vocabulary.tokens[i])[0]] == codec.vocabulary.tokens[i]
    rows, out = torch.randn(8192, 5), torch.randn(8192, 4)
    inputs, outputs = MeanOfParts(parts, rows, out)(tokens)
    for row, (a, b) in zip(tokens, zip(inputs, outputs, strict=True), strict=True):
        torch.testing.assert_close(a, torch.stack([rows[i] for i in parts(row)]).mean(dim=0))
        torch.testing.assert_close(b, torch.stack([out[i] for i in parts(row)]).mean(dim=0))
    tied = MeanOfParts(parts, rows)(tokens)
    assert tied[0] is tied[1]
    assert MeanOfParts(parts, rows)([])[0].shape == (0, 5)
    with pytest.raises(ValueError, match="at least one part"):
        MeanOfParts(parts, rows)([b""])
