"""Byte-level probabilities: against the source itself, against enumeration, for every family of tokenizers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.text.oracle import Oracle, Source, covers, random_lm
from tokenizers_mm.text.byte_exact import (
    END,
    ByteExactLM,
    Canonical,
    Encoded,
    byte_tokenizer,
    canonical,
    longest_match,
)
from tokenizers_mm.text.vocabulary import ALPHABET, PATTERN, from_alphabet

TINY = [b"a", b"b", b"aa", b"ab", b"bb", b"aab", b"aaaa"]


def trained(texts: Sequence[str], size: int, algorithm: str, cut: bool, symbols: Sequence[bytes]) -> Tokenizer:
    """A byte-level tokenizer of ``tokenizers`` whose alphabet is no larger than the test needs."""
    alphabet = sorted({ALPHABET[byte] for symbol in symbols for byte in symbol})
    tokenizer = Tokenizer(models.BPE() if algorithm == "bpe" else models.Unigram())
    options = {"vocab_size": size, "initial_alphabet": alphabet, "show_progress": False}
    trainer = trainers.BpeTrainer(**options) if algorithm == "bpe" else trainers.UnigramTrainer(**options)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level]) if cut else pre_tokenizers.Sequence([level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def family(
    name: str, symbols: Sequence[bytes], size: int, seed: int
) -> tuple[Canonical, Callable[[bytes], Sequence[int]]]:
    """A tokenizer's canonical encodings, and the function that its library encodes whole texts by."""
    if name == "longest":
        tokens = list(symbols)
        rng = np.random.default_rng(seed)
        while len(tokens) < size:
            new = b"".join(symbols[i] for i in rng.integers(len(symbols), size=rng.integers(2, 5)))
            tokens += [new] * (new not in tokens)
        found = longest_match(tokens)
        return found, lambda data: found.encodings(data)[0]
    rng = np.random.default_rng(seed)
    texts = [b"".join(symbols[i] for i in rng.integers(len(symbols), size=9)).decode() for _ in range(60)]
    tokenizer = trained(texts, size, name.split("-")[0], name.endswith("cut"), symbols)
    return canonical(tokenizer), lambda data: tokenizer.encode(data.decode()).ids


CASES = [
    *[(name, (b"a", b"b"), 7, 8, seed) for name in ("bpe", "unigram", "longest") for seed in range(3)],
    *[(name, (b"a", b"b", b"c"), 5, 10, 0) for name in ("bpe", "unigram", "longest")],
    *[(name, (b"a", "é".encode(), "ã".encode()), 5, 10, 1) for name in ("bpe", "unigram", "longest")],
    *[(name, (b"a", b" ", "é".encode(), "×".encode()), 5, 12, 2) for name in ("bpe-cut", "unigram-cut")],
    *[(name, (b"a", b" ", b"\n", b"1"), 5, 12, 3) for name in ("bpe-cut", "unigram-cut")],
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{b''.join(case[1]).decode()!r}-{case[4]}", scope="module")
def world(request: pytest.FixtureRequest) -> tuple[Source, Oracle, Canonical]:
    name, symbols, longest, size, seed = request.param
    tokenizer, encode = family(name, symbols, size, seed)
    source = Source(symbols, longest, seed)
    return source, Oracle(source, encode, len(tokenizer.tokens)), tokenizer


def starts(source: Source, most: int) -> list[bytes]:
    """Byte strings that texts of the source begin with, evenly chosen."""
    found = [data for data in source.begins if 0 < len(data) <= most]
    return found[:: max(1, len(found) // 60)]


def test_next_bytes_are_the_sources(world: tuple[Source, Oracle, Canonical]) -> None:
    source, oracle, tokenizer = world
    lm = ByteExactLM(oracle, tokenizer, ends=[oracle.end])
    for data in starts(source, 6):
        truth = source.next_symbol(data)
        np.testing.assert_allclose(np.exp(lm.logprobs(lm.start(data))), truth, atol=1e-12)
        state = lm.start()
        for byte in data:
            state = lm.advance(state, byte)
        np.testing.assert_allclose(np.exp(lm.logprobs(state)), truth, atol=1e-12)
        assert np.exp(lm.score(data)) == pytest.approx(source.begins[data], abs=1e-12)
        if data in source.weights:
            assert np.exp(lm.score(data, whole=True)) == pytest.approx(source.weights[data], abs=1e-12)


def test_all_sequences_and_fast_agree_where_the_model_knows_better(world: tuple[Source, Oracle, Canonical]) -> None:
    source, oracle, tokenizer = world
    for mode in ("all", "fast"):
        lm = ByteExactLM(oracle, tokenizer, ends=[oracle.end], mode=mode)
        for data in starts(source, 5)[::4]:
            np.testing.assert_allclose(np.exp(lm.logprobs(lm.start(data))), source.next_symbol(data), atol=1e-12)


def test_the_usual_answer_is_wrong_here() -> None:
    source = Source((b"a", b"b"), 7, 0)
    tokenizer = longest_match(TINY)
    oracle = Oracle(source, lambda data: tokenizer.encodings(data)[0], len(TINY))
    usual = np.exp(oracle([(TINY.index(b"a"),)])[0])
    after = sum(usual[i] for i, token in enumerate(TINY) if token.startswith(b"a"))
    assert after == 0
    assert source.next_symbol(b"a")[ord("a")] > 0.2
    lm = ByteExactLM(oracle, tokenizer, ends=[oracle.end])
    assert np.exp(lm.logprobs(lm.start(b"a")))[ord("a")] == pytest.approx(source.next_symbol(b"a")[ord("a")], abs=1e-12)


def test_masks_are_those_of_the_texts(world: tuple[Source, Oracle, Canonical]) -> None:
    """What may follow, against all texts of the source: whatever occurs is allowed; what is allowed by encoding is."""
    _, oracle, tokenizer = world
    for ids in sorted(oracle.canonical, key=len)[:150]:
        size = len(tokenizer.bytes_of(ids))
        if size > 4:
            continue
        mask = tokenizer.follows(ids)
        seen = np.array([(*ids, v) in oracle.canonical for v in range(len(tokenizer.tokens))])
        assert (mask | ~seen).all()
        slow = Canonical._follows(tokenizer, ids)
        np.testing.assert_array_equal(mask, slow)


@pytest.mark.parametrize("name", ["bpe", "unigram", "longest"])
def test_cover_sets_are_those_of_enumeration(name: str) -> None:
    tokenizer, encode = family(name, (b"a", b"b"), 9, 5)
    lm = ByteExactLM(random_lm(len(tokenizer.tokens) + 1), tokenizer, ends=[len(tokenizer.tokens)])
    for n in range(1, 7):
        for data in itertools.product(b"ab", repeat=n):
            state = lm.start()
            for byte in data:
                state = lm.advance(state, byte)
            found = {ids for ids, _, _ in lm.covers(state)}
            assert found == covers(encode, tokenizer.tokens, bytes(data), tokenizer.longest)
            assert any(not rest for _, rest, _ in lm.covers(state))
            fresh = lm.start(bytes(data))
            np.testing.assert_allclose(lm.logprobs(fresh), lm.logprobs(state), atol=1e-9)


@pytest.mark.parametrize("name", ["bpe", "unigram", "longest"])
def test_a_model_that_wanders_off_by_enumeration(name: str) -> None:
    """Random models give every sequence probability: both modes against sums over all sequences, to 1e-9."""
    tokenizer, _ = family(name, (b"a", b"b"), 8, 1)
    size = len(tokenizer.tokens)
    lm = random_lm(size + 1, 3)
    data = b"abaab"
    exact = {"valid": 0.0, "all": 0.0}

    def walk(ids: tuple[int, ...], logp: float, at: int) -> None:
        for v, token in enumerate(tokenizer.tokens):
            rest = data[at:]
            if token and (rest.startswith(token) or token.startswith(rest)):
                total = logp + float(lm([ids])[0, v])
                if len(token) < len(rest):
                    walk((*ids, v), total, at + len(token))
                else:
                    exact["all"] += np.exp(total)
                    whole = (*ids, v)
                    exact["valid"] += np.exp(total) * (whole in tokenizer.encodings(tokenizer.bytes_of(whole)))

    walk((), 0.0, 0)
    for mode, truth in exact.items():
        found = ByteExactLM(lm, tokenizer, ends=[size], mode=mode)
        assert np.exp(found.score(data)) == pytest.approx(truth, rel=1e-9)
    assert exact["valid"] < exact["all"]
    wide = ByteExactLM(lm, tokenizer, ends=[size], mode="all", width=500)
    assert np.exp(wide.score(data)) == pytest.approx(exact["all"], rel=1e-9)
    narrow = ByteExactLM(lm, tokenizer, ends=[size], mode="all", width=2, threshold=0.01)
    assert np.exp(narrow.score(data)) < exact["all"]


def test_bytes_as_tokens_give_the_models_own_softmax() -> None:
    lm = random_lm(300)
    model = ByteExactLM(lm, byte_tokenizer(300), ends=[256])
    found = model.logprobs(model.start("né"))
    own = lm([tuple("né".encode())])[0, :257]
    np.testing.assert_allclose(found, own - np.logaddexp.reduce(own), atol=1e-12)


def test_chain_rule_and_one_call_a_byte() -> None:
    calls = []
    tokenizer, _ = family("bpe", (b"a", b"b"), 9, 5)
    base = random_lm(len(tokenizer.tokens) + 1)

    def lm(rows: Sequence[tuple[int, ...]]) -> np.ndarray:
        calls.append(len(rows))
        return base(rows)

    model = ByteExactLM(lm, tokenizer, ends=[len(tokenizer.tokens)])
    data = b"abbabaabbbabaaab"
    state, total, before = model.start(data[:1]), 0.0, -0.0
    calls.clear()
    for byte in data[1:]:
        logp = model.logprobs(state)
        assert np.exp(logp).sum() == pytest.approx(1)
        total += logp[byte]
        state = model.advance(state, byte)
        assert state.mass() <= before + 1e-12
        before = state.mass()
    assert calls == [1] * (len(data) - 1)
    # Ends are part of the alphabet, and canonical mass is lost on the way: compare what the states say.
    fresh = model.start(data)
    np.testing.assert_allclose(model.logprobs(fresh), model.logprobs(state), atol=1e-9)


def test_batches_equal_one_by_one_and_states_are_never_changed() -> None:
    tokenizer, _ = family("unigram", (b"a", b"b"), 8, 2)
    model = ByteExactLM(random_lm(len(tokenizer.tokens) + 1), tokenizer, ends=[len(tokenizer.tokens)])
    prompts = [b"a", b"", b"abba", b"bb"]
    states = model.start_batch(prompts)
    together = model.logprobs_batch(states)
    for prompt, row in zip(prompts, together, strict=True):
        np.testing.assert_allclose(row, model.logprobs(model.start(prompt)), atol=1e-9)
    model.advance_batch(states, [97, 98, 97, 98])
    np.testing.assert_array_equal(model.logprobs_batch(states), together)
    assert model.start_batch([]) == []
    assert model.logprobs_batch([]).shape == (0, END + 1)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_two_hundred_bytes_of_anything(algorithm: str) -> None:
    """Byte-level tokenizers with all bytes: characters of several bytes, and bytes that are no text."""
    texts = ["the cat sat on the mat, the dog: déjà vu 日本語 1234  \n\n x"] * 3
    everything = [bytes([b]) for b in range(256)]
    tokenizer = canonical(trained(texts, 300, algorithm, True, everything))
    model = ByteExactLM(random_lm(len(tokenizer.tokens) + 1), tokenizer, ends=[len(tokenizer.tokens)])
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=60 if algorithm == "bpe" else 12).astype(np.uint8).tobytes()
    data = "the cat  sat on déjà 日本 the日 \n\n dog:  12 it'll".encode() * (3 if algorithm == "bpe" else 1) + noise
    state = model.start()
    for at, byte in enumerate(data):
        state = model.advance(state, byte)
        if at % 9 == 0 or at == len(data) - 1:
            fresh = model.start(data[: at + 1])
            np.testing.assert_allclose(model.logprobs(fresh), model.logprobs(state), atol=1e-6)


def test_what_cannot_be_said_is_one_clear_error() -> None:
    tokenizer = longest_match(TINY)
    model = ByteExactLM(random_lm(8), tokenizer, ends=[7])
    with pytest.raises(ValueError, match="0x63 after 2 bytes"):
        model.start(b"abc")
    with pytest.raises(ValueError, match="0 to 255"):
        model.advance(model.start(b"a"), 256)
    with pytest.raises(ValueError, match=r"\[1, 7 or more\]"):
        ByteExactLM(random_lm(3), tokenizer).logprobs(ByteExactLM(random_lm(3), tokenizer).start())
    with pytest.raises(ValueError, match="mode"):
        ByteExactLM(random_lm(8), tokenizer, mode="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width"):
        ByteExactLM(random_lm(8), tokenizer, width=0)
    with pytest.raises(ValueError, match="none"):
        Encoded([b"", b""], list)
    with pytest.raises(TypeError, match="SubwordCodec"):
        canonical(3)


def test_one_word_is_a_prompt() -> None:
    """Without a border before it, from the very start of the text."""
    tokenizer = canonical(
        trained(["the", "then", "there", "them"] * 4, 262, "bpe", True, [bytes([b]) for b in range(256)])
    )
    model = ByteExactLM(random_lm(len(tokenizer.tokens) + 1), tokenizer, ends=[len(tokenizer.tokens)])
    state = model.start("th")
    assert len(model.covers(state)) > 1
    assert {tokenizer.bytes_of(ids)[:2] for ids, _, _ in model.covers(state)} == {b"th"}
    assert from_alphabet("Ġ") == b" "
