"""Merging within a batch: against counting all pairs anew each time, on thousands of batches; what is never merged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

import pytest

import tokenizers_mm as tm
from tokenizers_mm.text.byte_exact import canonical
from tokenizers_mm.text.merging import Rule, merge

TOKENS = [bytes([b]) for b in b"ab -.\n\t"] + [
    b" a",
    b"ab",
    b" ",
    b"  ",
    b"\n",
    "é".encode()[:1],
    "é".encode()[1:],
    b"<s>",
]
SPECIAL = len(TOKENS) - 1


def naive(
    rows: Sequence[Sequence[int]], tokens: Sequence[bytes], rule: Rule, max_merges: int, special: Collection[int]
) -> list[list[tuple[bytes, bool]]]:
    """As the paper's text has it: count, take the most frequent pair that may merge, the first one of equals, replace."""
    batch = [[(tokens[i], i in special) for i in row] for row in rows]
    for _ in range(max_merges):
        counts: Counter[tuple] = Counter()
        for row in batch:
            for (a, s), (b, t) in pairwise(row):
                if not s and not t and rule.allows(a, b):
                    counts[a, b] += 1  # keeps the order in which pairs first occur
        if not counts:
            break
        best = max(counts.values())
        a, b = next(pair for pair, count in counts.items() if count == best)
        for row in batch:
            at = 0
            while at + 1 < len(row):
                if row[at] == (a, False) and row[at + 1] == (b, False):
                    row[at : at + 2] = [(a + b, False)]
                at += 1
    return batch


def pieces(text: str) -> int:
    """A tokenizer that cuts between letters and marks."""
    kinds = [c.isalpha() or c in " -" for c in text]
    return 1 + sum(x != y for x, y in pairwise(kinds))


def strings(rows: Sequence[Sequence[int]], added: Sequence[bytes]) -> list[list[tuple[bytes, bool]]]:
    names = [*TOKENS, *added]
    return [[(names[i], i == SPECIAL) for i in row] for row in rows]


@pytest.mark.parametrize("boundary", ["pretokens", "word", "word_hyphen", "sentence"])
def test_equal_to_counting_anew_ties_included(boundary: str) -> None:
    chance = random.Random(boundary)
    for _ in range(400):
        rule = Rule(boundary, pieces, chance.choice([None, None, 4]))
        few = chance.sample(range(len(TOKENS)), chance.randint(1, 5))
        rows = [[chance.choice(few) for _ in range(chance.randint(0, 14))] for _ in range(chance.randint(0, 4))]
        budget = chance.choice([0, 1, 2, 3, 5, 100])
        found = merge(rows, TOKENS, rule, budget, [SPECIAL])
        assert strings(found.rows, found.added) == naive(rows, TOKENS, rule, budget, [SPECIAL])


def test_many_at_once_is_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizers_mm.text.merging._MANY", 1)
    test_equal_to_counting_anew_ties_included("sentence")
    test_equal_to_counting_anew_ties_included("word")


def test_what_never_changes_and_never_merges() -> None:
    codec = tm.load("bpe-8k")
    lines = (
        "The theory of things: the thing is, they thought\n\n of\tthe other thing... déjà vu 日本語 a - b\n".splitlines(
            True
        )
        * 3
    )
    rows = [codec.vocabulary.encode(line).tolist() for line in lines]
    tokens = codec.vocabulary.tokens
    tokenizer = canonical(codec)
    assert merge(rows, tokens, Rule("word"), 0).rows == rows
    for boundary in ("pretokens", "word", "word_hyphen", "sentence"):
        found = merge(rows, tokens, Rule(boundary, tokenizer.pieces))
        names = [*tokens, *found.added]
        assert found.lengths == sorted(found.lengths, reverse=True)
        assert found.lengths[-1] == sum(map(len, found.rows)) < found.lengths[0] == sum(map(len, rows))
        for line, row, starts, base in zip(lines, found.rows, found.starts, rows, strict=True):
            assert b"".join(names[i] for i in row) == line.encode()
            assert len(row) <= len(base)
            for i, first, end in zip(row, starts, [*starts[1:], len(base)], strict=True):
                assert names[i] == b"".join(tokens[part] for part in base[first:end])
        for token in found.added:
            white = [byte in b" \n\t" for byte in token]
            assert not any(white[1:]) or all(white)
            assert token != b"\n\n"
        assert merge(rows, tokens, Rule(boundary, tokenizer.pieces)) == found


def test_edges() -> None:
    assert merge([], TOKENS, Rule("word")).rows == []
    assert merge([[]], TOKENS, Rule("word")).lengths == [0]
    assert merge([[0], []], TOKENS, Rule("word")).rows == [[0], []]
    assert merge([[SPECIAL, SPECIAL, 0, SPECIAL]], TOKENS, Rule("sentence"), special=[SPECIAL]).rows[0][0] == SPECIAL
    assert merge([[SPECIAL, SPECIAL]], TOKENS, Rule("sentence"), special=[SPECIAL]).added == []
    for call, words in (
        (lambda: merge([[99]], TOKENS, Rule("word")), "0 to 14"),
        (lambda: merge([[0]], TOKENS, Rule("word"), -1), "max_merges"),
        (lambda: Rule("line"), "boundary"),  # type: ignore[arg-type]
        (lambda: Rule("pretokens"), "pieces"),
        (lambda: Rule("word", max_bytes=1), "max_bytes"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
