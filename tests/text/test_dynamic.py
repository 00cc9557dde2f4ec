"""DynamicCodec: whatever a batch's vocabulary is, its texts come back; budgets; longest-prefix encoding."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenizers_mm as tm
from tokenizers_mm import bitstream
from tokenizers_mm.text import DynamicCodec, SubwordCodec
from tokenizers_mm.text.dynamic import LENGTHS, VOCABULARY, LongestPrefix, vocabulary_of

LINES = [
    "The government said on Friday that the government's plan, the plan of the government, would not change.",
    "They said the plan would change; the plan-makers said nothing.  déjà vu, 日本語 🦜🦜\n",
    "",
    " ",
    "said",
]
TEXTS = st.lists(
    st.text(st.sampled_from("ab cé日🦜-.\n\t１"), max_size=24)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=16),
    min_size=1,
    max_size=5,
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def codec() -> DynamicCodec:
    return DynamicCodec(merges=50)


@pytest.mark.parametrize("boundary", ["pretokens", "word", "word_hyphen", "sentence"])
def test_every_text_comes_back(boundary: str) -> None:
    codec = DynamicCodec(merges=30, boundary=boundary)

    @quick
    @given(TEXTS)
    def check(texts: list[str]) -> None:
        tokens = codec.encode(texts)
        assert codec.decode(tokens) == texts
        assert codec.decode(bitstream.loads(bitstream.dumps(tokens))) == texts
        assert codec.encode(texts) == tokens
        assert bool((tokens.lengths <= codec.base.encode(texts).lengths).all())

    check()


def test_items_keep_the_batchs_vocabulary(codec: DynamicCodec) -> None:
    tokens = codec.encode(LINES)
    assert codec.decode(tokens) == LINES
    assert len(vocabulary_of(tokens)) > 5
    for i, line in enumerate(LINES):
        assert codec.decode(tokens[i]) == [line]
    assert codec.decode(codec.encode(["said"])) == ["said"]
    with pytest.raises(ValueError, match="shared"):
        tm.Tokens.cat([tokens, codec.encode(["other mates, other tokens"])])


def test_no_budget_is_the_base(codec: DynamicCodec) -> None:
    none = DynamicCodec(merges=0)
    assert torch.equal(none.encode(LINES).ids, none.base.encode(LINES).ids)
    assert none.spec == none.base.spec


def test_saved_and_loaded(codec: DynamicCodec, tmp_path) -> None:
    codec.save_pretrained(tmp_path)
    loaded = tm.load(str(tmp_path))
    assert loaded.encode(LINES) == codec.encode(LINES)
    assert loaded.config == codec.config


def test_budgets(codec: DynamicCodec) -> None:
    found = codec.calibrate(LINES * 4, batch_size=5, percents=[0, 10, 50, 100])
    assert [b.percent for b in found] == [0, 10, 50, 100]
    assert found[0].merges == 0
    assert [b.merges for b in found] == sorted(b.merges for b in found)
    base = float(codec.base.encode(LINES * 4).lengths.double().mean())
    assert found[0].tokens == pytest.approx(base)
    most = codec.merged(LINES)
    assert found[-1].tokens == pytest.approx(sum(map(len, most.rows)) / len(LINES))
    for budget in found[1:]:
        batch = sum(map(len, codec.merged(LINES, budget.merges).rows)) / len(LINES)
        before = sum(map(len, codec.merged(LINES, budget.merges - 1).rows)) / len(LINES)
        goal = base - budget.percent / 100 * (base - found[-1].tokens)
        assert batch <= goal + 1e-9 < before + 1e-9
    assert [b.merges for b in codec.calibrate(["a"])] == [0] * 11
    with pytest.raises(ValueError, match="texts"):
        codec.calibrate([])


def test_bad_input(codec: DynamicCodec, tmp_path) -> None:
    tokens = codec.encode(LINES)
    for change, words in (
        ({}, "ids below 8192"),
        ({VOCABULARY: tokens.shared[VOCABULARY]}, "shared must hold"),
        ({VOCABULARY: tokens.shared[VOCABULARY][1:], LENGTHS: tokens.shared[LENGTHS]}, "sum to"),
        ({VOCABULARY: tokens.shared[VOCABULARY].long(), LENGTHS: tokens.shared[LENGTHS]}, "uint8"),
        ({VOCABULARY: tokens.shared[VOCABULARY][:0], LENGTHS: tokens.shared[LENGTHS][:0]}, "ids below 8192"),
    ):
        with pytest.raises(ValueError, match=words):
            codec.decode(dataclasses.replace(tokens, shared=change))
    with pytest.raises(ValueError, match="at least one text"):
        codec.encode([])
    with pytest.raises(ValueError, match="merges"):
        DynamicCodec(merges=-1)
    with pytest.raises(ValueError, match="stream"):
        codec.stream()
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel(vocab={"a": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    with pytest.raises(ValueError, match="byte-level"):
        DynamicCodec(str(tmp_path / "words.json"))


def test_longest_prefix() -> None:
    base = tm.load("bpe-8k")
    assert isinstance(base, SubwordCodec)
    dynamic = DynamicCodec(merges=1000)
    added = vocabulary_of(dynamic.encode(LINES))
    large = LongestPrefix(base, added)

    @quick
    @given(TEXTS)
    def check(texts: list[str]) -> None:
        for text in texts:
            ids = large.encode(text)
            assert large.decode(ids) == text
            assert all(0 <= i < len(large.tokens) for i in ids)

    check()
    ids = large.encode(LINES[0])
    assert large.decode(ids) == LINES[0]
    assert len(ids) < int(base.encode(LINES[:1]).lengths)
    at = 0
    for i in ids:  # no longer token fits at any place within its piece
        rest = LINES[0].encode()[at:]
        longer = [t for t in large.tokens if len(t) > len(large.tokens[i]) and rest.startswith(t)]
        assert not any(dynamic.rule.allows(t[:1], t[1:]) for t in longer)
        at += len(large.tokens[i])
    with pytest.raises(ValueError, match="empty"):
        LongestPrefix(base, [b""])
