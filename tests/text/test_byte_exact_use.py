"""Byte-exact models of real tokenizers and networks: encodings, caches, sampling, ensembles, filling in."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tokenizers_mm as tm
from tests.text.oracle import Oracle, Source, random_lm
from tokenizers_mm.cli import app
from tokenizers_mm.text import ByteLM, HATPaper, SubwordLM, speed
from tokenizers_mm.text.byte_exact import (
    END,
    ByteEnsemble,
    ByteExactLM,
    Bytes,
    Canonical,
    FillTokens,
    byte_exact,
    byte_exact_transformers,
    byte_tokenizer,
    canonical,
    fill,
    fill_state,
    generate,
    longest_match,
)
from tokenizers_mm.text.byte_exact.bpe import MergeRows
from tokenizers_mm.text.byte_exact.pieces import Pieces, classes_of
from tokenizers_mm.text.byte_exact.sampling import _fits
from tokenizers_mm.text.segmenters.base import whole_characters
from tokenizers_mm.text.subword import SubwordCodec
from tokenizers_mm.text.vocabulary import PATTERN

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = [
    "the theory of the thing that they then thought, it'll and we've 2024 or 1,000  spaces\n\n\tdéjà vu naïve × ÷ "
    "日本語 日本 мир",
    "There is nothing to say: it'll go on, they'll say 'tis all. The end of the   matter.\n",
] * 4
TEXTS = st.text(st.sampled_from("the ThEé日мx'l v12.,\n\t　×"), max_size=24)
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


CHARACTERS = [*range(0xD800), *range(0xE000, 0x110000, 61), 0x10FFFF]


def tiktoken_encoding() -> object:
    tiktoken = pytest.importorskip("tiktoken")
    codec = SubwordCodec.learn(CORPUS, 300)
    ranks = {token: rank for rank, token in enumerate(sorted(codec.vocabulary.tokens, key=lambda t: (len(t), t)))}
    return tiktoken.Encoding("x", pat_str=GPT4, mergeable_ranks=ranks, special_tokens={"<|end|>": 300})


def sentencepiece_processor(kind: str) -> object:
    spm = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, vocab_size=330, model_type=kind, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return spm.SentencePieceProcessor(model_proto=out.getvalue())


@pytest.fixture(params=["bpe", "unigram", "tiktoken", "sp-bpe", "sp-unigram", "gpt2-pattern"], scope="module")
def real(request: pytest.FixtureRequest) -> tuple[Canonical, object]:
    name = request.param
    if name == "tiktoken":
        encoding = tiktoken_encoding()
        return canonical(encoding), encoding.encode_ordinary
    if name.startswith("sp"):
        processor = sentencepiece_processor(name[3:])
        return canonical(processor), processor.EncodeAsIds
    if name == "gpt2-pattern":
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=310, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
        )
        tokenizer.train_from_iterator(CORPUS, trainer)
        return canonical(tokenizer), lambda text: tokenizer.encode(text).ids
    codec = SubwordCodec.learn(CORPUS, 300 if name == "bpe" else 270, algorithm=name)
    return canonical(codec), lambda text: codec.vocabulary.encode(text).tolist()


def test_encodings_are_the_librarys(real: tuple[Canonical, object]) -> None:
    tokenizer, encode = real

    @quick
    @given(TEXTS)
    def check(text: str) -> None:
        ids = tuple(encode(text))
        data = tokenizer.prefix + text.encode() if text else b""
        assert ids in tokenizer.encodings(data)
        for end in range(len(ids) + 1):  # whatever a text's tokens begin with is canonical
            assert tokenizer.valid(ids[:end])
        for end in range(len(ids)):
            assert tokenizer.follows(ids[:end])[ids[end]]

    check()


def test_what_follows_is_what_encoding_says(real: tuple[Canonical, object]) -> None:
    tokenizer, encode = real
    for text in ("", "the", "it'", "a  ", "12", "dé", "\n", "日"):
        ids = tuple(encode(text))
        np.testing.assert_array_equal(tokenizer.follows(ids), Canonical._follows(tokenizer, ids))


def test_from_the_middle_of_characters(real: tuple[Canonical, object]) -> None:
    tokenizer, _ = real
    size = len(tokenizer.tokens)
    model = ByteExactLM(random_lm(size + 1), tokenizer, ends=[size])
    data = "the dé 日本 it'll  12".encode()
    state = model.start(data[:3])
    for at in range(3, len(data)):
        state = model.advance(state, data[at])
        np.testing.assert_allclose(model.logprobs(state), model.logprobs(model.start(data[: at + 1])), atol=1e-7)


def test_borders_hold(real: tuple[Canonical, object]) -> None:
    tokenizer, encode = real

    @quick
    @given(TEXTS, TEXTS)
    def check(start: str, more: str) -> None:
        data = tokenizer.prefix + start.encode()
        border = tokenizer.border(data)
        if border and start and start + more:
            first = tokenizer.encodings(data[:border])[0]
            assert tuple(encode(start + more))[: len(first)] == first

    check()


def test_tokenizers_that_change_texts_are_refused() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    lower = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    lower.normalizer = normalizers.Lowercase()
    lower.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match="normalises"):
        canonical(lower)
    words = Tokenizer(models.WordLevel(vocab={"a": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="keep every text"):
        canonical(words)


def test_merges_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="before what makes"):
        MergeRows([(2, 0, 3), (0, 1, 2)], 4)
    with pytest.raises(ValueError, match="several ways"):
        MergeRows([(0, 1, 2), (1, 0, 2)], 3)


def test_pieces_that_are_tokens_whatever_the_merges_say() -> None:
    """As Llama 3 has it: "abc" is a token that no merges make."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "d": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = canonical(tokenizer)
    assert tokenizer.encode("abc").ids == [4]
    assert tokenizer.encode("abcd").ids == [3, 2, 5]
    assert found.follows(())[4]
    assert found.follows((3,))[2]
    assert not found.follows((4,))[5]


def test_classes_of_patterns() -> None:
    kind = classes_of(PATTERN)
    assert kind is not None
    assert kind("a") == kind("é") == kind("日")
    assert len({kind(c) for c in "a1. \n\t　"}) == 7
    assert classes_of(r"\p{Han}+|\p{L}+") is None
    assert classes_of(r"[a-z]+") is None
    assert classes_of(GPT4)("s") == "s" != classes_of(GPT4)("é")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[SubwordLM, ByteLM]:
    folder = tmp_path_factory.mktemp("bpe")
    SubwordCodec.learn(CORPUS, 300).save_pretrained(folder)
    torch.manual_seed(0)
    models = SubwordLM(str(folder), dim=32, layers=2, heads=2), ByteLM(dim=32, layers=2, heads=2)
    for model in models:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.25) if parameter.ndim > 1 else None
        model.eval()
    return models


def test_caches_change_nothing(networks: tuple[SubwordLM, ByteLM]) -> None:
    for network in networks:
        model = byte_exact(network)

        @torch.no_grad()
        def plain(rows, network=network):
            each = [network.head(network.backbone(network.embedding(torch.tensor([row]))))[0, -1] for row in rows]
            return torch.stack(each).double().log_softmax(-1)

        slow = ByteExactLM(plain, model.tokenizer, start=model.prefix, ends=model.stops)
        data = "the  théory 日".encode()
        fast_states, slow_states = model.start_batch([data[:2], data[:5]]), slow.start_batch([data[:2], data[:5]])
        for byte in data[5:]:
            np.testing.assert_allclose(
                model.logprobs_batch(fast_states), slow.logprobs_batch(slow_states), atol=1e-5, rtol=1e-5
            )
            bytes_ = [data[2] if fast_states[0].size == 2 else 97, byte]
            fast_states, slow_states = (
                m.advance_batch(s, bytes_) for m, s in ((model, fast_states), (slow, slow_states))
            )


def test_decoders_of_transformers(networks: tuple[SubwordLM, ByteLM]) -> None:
    transformers = pytest.importorskip("transformers")
    codec = networks[0].codec[0]
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=codec.vocabulary.tokenizer, bos_token="<s>")
    config = transformers.LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    network = transformers.LlamaForCausalLM(config).eval()
    model = byte_exact_transformers(network, fast)
    state = model.start("the th")
    for byte in "éo ".encode():
        state = model.advance(state, byte)
    fresh = byte_exact_transformers(network, fast)
    np.testing.assert_allclose(model.logprobs(state), fresh.logprobs(fresh.start("the théo ")), atol=1e-5)


def test_ensembles(networks: tuple[SubwordLM, ByteLM]) -> None:
    bpe, flat = byte_exact(networks[0]), byte_exact(networks[1])
    torch.manual_seed(1)
    sizes = {"dim": 16, "heads": 2, "backbone_dim": 32, "backbone_heads": 2}
    hat = HATPaper(**sizes, encoder_layers=1, backbone_layers=1, decoder_layers=1).eval()
    members = [bpe, flat, Bytes(hat), Bytes(networks[1])]
    prompts = ["the th", "日".encode()[:2]]

    def after(model, more: bytes = b"\xa5") -> np.ndarray:
        states = model.advance_batch(model.start_batch(prompts), [ord("e"), more[0]])
        return model.logprobs_batch(states)

    each = [after(member) for member in members]
    np.testing.assert_allclose(each[1], each[3], atol=1e-5, rtol=1e-5)
    for found in each:
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    for rule in ("mean", "product"):
        itself = ByteEnsemble([bpe, byte_exact(networks[0])], rule=rule)
        np.testing.assert_allclose(after(itself), each[0], atol=1e-5, rtol=1e-5)
        there = after(ByteEnsemble(members[:3], [1, 2, 3], rule))
        back = after(ByteEnsemble(members[2::-1], [3, 2, 1], rule))
        np.testing.assert_allclose(there, back, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(np.exp(there).sum(axis=1), 1)
    np.testing.assert_allclose(after(ByteEnsemble(members[:2], [0, 1])), each[1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        ByteEnsemble([])
    with pytest.raises(ValueError, match="weights"):
        ByteEnsemble([bpe], [0.0])
    with pytest.raises(TypeError, match="byte_exact"):
        Bytes(networks[0])
    with pytest.raises(TypeError, match="SubwordLM"):
        byte_exact(hat)


def test_sampled_texts_are_the_sources() -> None:
    """Frequencies of what is drawn after a prompt that breaks off inside a token, against the source's."""
    source = Source((b"a", b"b"), 4, 3)
    tokenizer = longest_match([b"a", b"b", b"ab", b"ba", b"bab"])
    model = ByteExactLM(Oracle(source, lambda d: tokenizer.encodings(d)[0], 5), tokenizer, ends=[5])
    generator = torch.Generator().manual_seed(0)
    found = generate(model, [b"a"] * 2000, 4, generator=generator)
    for text, weight in source.weights.items():
        if text.startswith(b"a"):
            share = sum(c.data == text[1:] and c.ended for c in found) / len(found)
            expected = weight / source.begins[b"a"]
            if len(text) < 4:  # the longest have no room for the end
                assert share == pytest.approx(expected, abs=4 * np.sqrt(expected / 2000) + 1e-3)
            one = next((c for c in found if c.data == text[1:] and c.ended), None)
            assert one is None or np.exp(one.logp) == pytest.approx(expected, rel=1e-9)


def test_draws_are_of_bytes() -> None:
    model = ByteExactLM(random_lm(257, 1), byte_tokenizer(257), ends=[256])
    logp = model.logprobs(model.start(b"x"))
    ranked = np.argsort(-logp)
    for options, most in (({"top_k": 3}, 3), ({"temperature": 0.0}, 1), ({"top_p": 0.3}, None)):
        found = generate(model, [b"x"] * 200, 1, generator=torch.Generator().manual_seed(0), **options)
        symbols = {c.data[0] if c.data else END for c in found}
        if most is None:
            most = int(np.searchsorted(np.exp(logp[ranked]).cumsum(), 0.3)) + 1
        assert symbols <= set(ranked[:most].tolist())
    [stopped] = generate(model, [b""], 50, temperature=0, stop=[generate(model, [b""], 3, temperature=0)[0].data])
    assert stopped.ended
    assert stopped.data == b""
    assert generate(model, [], 5) == []
    with pytest.raises(ValueError, match="max_bytes"):
        generate(model, [b""], -1)


def test_draws_that_stay_text() -> None:
    for start in (b"", b"\xc3", b"\xe0", b"\xed", b"\xf0", b"\xf4", b"\xf4\x8f", b"\xed\x9f"):
        possible = {chr(c).encode()[len(start)] for c in CHARACTERS if chr(c).encode().startswith(start)}
        assert set(np.flatnonzero(_fits(start)[:256])) == possible
        assert _fits(start)[END] == (not start)
    model = ByteExactLM(random_lm(257, 2), byte_tokenizer(257), ends=[256])
    prompts = ["日".encode()[:2], "né", b""]
    found = generate(model, prompts, 30, utf8=True, generator=torch.Generator().manual_seed(0))
    for prompt, more in zip(prompts, found, strict=True):
        data = (prompt.encode() if isinstance(prompt, str) else prompt) + more.data
        assert "\ufffd" not in (data if more.ended else data[: whole_characters(data)]).decode("utf-8")


def test_complete_from_the_command_line(networks: tuple[SubwordLM, ByteLM], tmp_path) -> None:
    for i, network in enumerate(networks):
        network.save_pretrained(tmp_path / str(i))
        call = ["text", "complete", str(tmp_path / str(i)), "the th", "日", "--byte-exact", "-n", "12", "--seed", "1"]
        first, again = CliRunner().invoke(app, call), CliRunner().invoke(app, call)
        assert first.exit_code == 0, first.output
        assert first.output == again.output
        assert first.output.startswith("the th")


def test_merge_from_the_command_line(tmp_path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("the same words again and the same words\n" * 6, encoding="utf-8")
    found = CliRunner().invoke(app, ["text", "merge", str(file), "--table"])
    assert found.exit_code == 0, found.output
    assert "6 lines" in found.output
    assert "% of the saving" in found.output
    file.write_text("", encoding="utf-8")
    assert CliRunner().invoke(app, ["text", "merge", str(file)]).exit_code != 0


def test_plain_algorithms_agree(networks: tuple[SubwordLM, ByteLM]) -> None:
    codec = networks[0].codec[0]
    merging = speed.race_merging(codec, CORPUS, sequences=8, length=40, merges=10, rounds=1)
    exact = speed.race_exact(codec, networks[0], CORPUS[0], size=20, rounds=1)
    assert merging.agreement == 0
    assert exact.agreement < 1e-4
    assert all(exact.ratio(name) > 0 for name in exact.seconds)


def test_filling_in_sees_no_prefix_that_breaks_off() -> None:
    codec = SubwordCodec.learn(CORPUS, 300)
    tokenizer, seen = canonical(codec), []
    size = len(tokenizer.tokens)
    base = random_lm(size + 4)
    special = FillTokens((size,), (size + 1,), (size + 2,))

    def lm(rows):
        seen.extend(rows)
        return base(rows)

    model = ByteExactLM(lm, tokenizer, ends=[size + 3])
    state = fill_state(model, "nothing to the th", "ought.", special)
    model.logprobs(state)
    before = tuple(codec.vocabulary.encode("nothing to the").tolist())
    after = tuple(codec.vocabulary.encode("ought.").tolist())
    context = (size, *before, size + 1, *after, size + 2)
    assert all(row[: len(context)] == context for row in seen)
    assert tokenizer.bytes_of(state.fixed) in (b"", b" ")
    before_it = {b: model.start(b" th" + bytes([b]), context) for b in b"eo"}
    logp = model.logprobs(state)
    fresh = model.start(b" th", context)
    np.testing.assert_allclose(model.logprobs(fresh), logp, atol=1e-9)
    for byte, later in before_it.items():
        np.testing.assert_allclose(model.logprobs(model.advance(state, byte)), model.logprobs(later), atol=1e-9)
    spm = FillTokens((size,), (size + 1,), (size + 2,), order="spm")
    seen.clear()
    model.logprobs(fill_state(model, "nothing to the th", "ought.", spm))
    start = (size + 1, *after, size, size + 2, *before)
    assert all(row[: len(start)] == start for row in seen)
    found = fill(model, "th", "", special, 8, generator=torch.Generator().manual_seed(0))
    assert len(found.data) <= 8


def test_shipped_vocabulary_has_fast_masks() -> None:
    """The rows of merges and the groups of tokens, against plain encoding, on the vocabulary of 8,192 that ships."""
    codec = tm.load("bpe-8k")
    tokenizer = canonical(codec)
    assert isinstance(tokenizer, Pieces)
    rng = np.random.default_rng(0)
    for text in ("The gover", "в Росс", "  1", "l'"):
        ids = tuple(codec.vocabulary.encode(text).tolist())
        mask = tokenizer.follows(ids)
        data = tokenizer.bytes_of(ids)
        for v in rng.integers(len(mask), size=150).tolist():
            assert mask[v] == ((*ids, v) in tokenizer.encodings(data + tokenizer.tokens[v])), (
                text,
                tokenizer.tokens[v],
            )
