"""The invariants of ``tests/test_conformance.py`` for every card whose signals are strings, and that every text comes back."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenizers_mm as tm
from tokenizers_mm import bitstream, registry
from tokenizers_mm.text import DynamicCodec
from tokenizers_mm.text.streaming import TextDecodeStream

NAMES = [card.name for card in tm.list_codecs(modality="text")]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(
    st.sampled_from("aB ,.'_1\t\n\r\u0301\u200d\u2044\u00e9\u00df\u4e2d\u0e01\U0001f468\U0001f1eb\0\u2003"), max_size=40
)
TROUBLE = [
    "",
    "\0",
    " ",
    "a\u0301 \u0301\t\u0301",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
    "\u202bשלום עולם\u202c مرحبا",
    "line\r\nline\u2028line\x85",
    "<|endoftext|>[PAD]<0x41>\u2581▁ Ġ",
    "\U0010ffff\ufeff\ufffd",
]
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=NAMES, scope="module")
def codec(request: pytest.FixtureRequest) -> tm.Codec:
    return tm.load(request.param)


def test_every_text_comes_back(codec: tm.Codec) -> None:
    assert codec.decode(codec.encode(TROUBLE)) == TROUBLE

    @quick
    @given(st.lists(TEXTS, min_size=1, max_size=4))
    def check(texts: list[str]) -> None:
        tokens = codec.encode(texts)
        assert codec.decode(tokens) == texts
        assert tokens.side["size"][:, 0].tolist() == [len(text.encode()) for text in texts]

    check()


def test_tokens_do_not_depend_on_the_batch(codec: tm.Codec) -> None:
    if isinstance(codec, DynamicCodec):
        pytest.skip("a batch has its own vocabulary, by design")
    together = codec.encode(TROUBLE)
    for i, text in enumerate(TROUBLE):
        assert together[i] == codec.encode([text])


def test_tokens_survive_the_bitstream_and_saving(codec: tm.Codec, tmp_path) -> None:
    tokens = codec.encode([*TROUBLE, "some words, and more words. " * 20])
    assert bitstream.loads(bitstream.dumps(tokens)) == tokens
    codec.save_pretrained(tmp_path)
    loaded = tm.load(str(tmp_path))
    assert loaded.encode(TROUBLE) == codec.encode(TROUBLE)
    assert loaded.config == codec.config
    json.dumps(codec.config)


def test_a_stream_equals_the_whole_wherever_it_is_cut(codec: tm.Codec) -> None:
    if not codec.streamable:
        with pytest.raises(ValueError, match="not causal"):
            codec.stream()
        return

    @quick
    @given(TEXTS, st.lists(st.integers(1, 6), max_size=30))
    def check(text: str, cuts: list[int]) -> None:
        data, session, decoder = text.encode(), codec.stream(), codec.stream(decode=True)
        parts, out = [], ""
        for n in [*cuts, len(data)]:
            parts.append(session.push(data[:n]))
            data = data[n:]
        parts.append(session.flush())
        whole = codec.encode([text])
        assert torch.cat([part.ids for part in parts], dim=1).tolist() == whole.ids.tolist()
        if "word_lengths" in whole.side:
            lengths = torch.cat([part.side["word_lengths"] for part in parts], dim=1)
            assert lengths.tolist() == whole.side["word_lengths"].tolist()
        for part in parts:
            out += decoder.push(part)
        assert out + decoder.flush() == text

    check()


def test_a_session_takes_single_bytes_and_starts_anew(codec: tm.Codec) -> None:
    if not codec.streamable:
        return
    session, text = codec.stream(), "Zwei Wörter, 世界 "
    for _ in range(2):
        parts = [session.push(byte) for byte in text.encode()] + [session.flush()]
        assert torch.cat([part.ids for part in parts], dim=1).tolist() == codec.encode([text]).ids.tolist()
    assert any(part.ids.shape[1] for part in parts[:-1]), "nothing came before the end"
    assert session.push("").ids.shape[1] == 0


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ("abc", TypeError, "list of str"),
        (b"abc", TypeError, "decode bytes first"),
        (torch.zeros(1, 1, 9), TypeError, "no tensor"),
        ([b"abc"], TypeError, "item 0 is bytes"),
        ([], ValueError, "at least one text"),
        (["fine", "x\ud800y"], ValueError, r"item 1 has the lone surrogate U\+D800 at character 1"),
    ],
)
def test_bad_input_is_refused_in_words(codec: tm.Codec, wrong, error, words) -> None:
    with pytest.raises(error, match=words):
        codec.encode(wrong)


def test_streams_refuse_what_is_not_utf8(codec: tm.Codec) -> None:
    if not codec.streamable:
        return

    def feed(data: bytes) -> None:
        session = codec.stream()
        session.push(data)
        session.flush()

    for data in (b"ab\xff cd ", b"abc \xe2\x82", b"\xed\xa0\x80 a"):
        with pytest.raises(ValueError, match="not UTF-8"):
            feed(data)


def test_lengths_count_bytes_and_keep_characters_whole(codec: tm.Codec) -> None:
    assert codec.decode(codec.encode(["für uns"], torch.tensor([4]))) == ["für"]
    with pytest.raises(ValueError, match="whole characters"):
        codec.encode(["für uns"], torch.tensor([2]))
    with pytest.raises(ValueError, match="lengths"):
        codec.encode(["für uns"], torch.tensor([99]))


def test_tokens_of_another_codec_and_of_no_text_are_refused(codec: tm.Codec) -> None:
    tokens = codec.encode(["abc"])
    other = tm.TokenSpec("text", (3,), ("token",))
    with pytest.raises(ValueError, match="another codec"):
        codec.decode(tm.Tokens(tokens.ids % 3, other))
    with pytest.raises(TypeError, match="Tokens"):
        codec.decode(["abc"])
    with pytest.raises(ValueError, match="no time axis"):
        codec.encode_long(["abc"])


def test_ids_that_no_text_gives_are_an_error_or_replaced(codec: tm.Codec) -> None:
    token = next(i for i in range(codec.spec.codebook_sizes[0]) if _bytes(codec, i) == b"\xff")
    tokens = tm.Tokens(torch.tensor([[[token]]]), codec.spec)
    with pytest.raises(ValueError, match="not UTF-8 at byte 0"):
        codec.decode(tokens)
    assert codec.decode(tokens, errors="replace") == ["\ufffd"]
    assert not codec.streamable or isinstance(codec.stream(decode=True), TextDecodeStream)


def _bytes(codec: tm.Codec, token: int) -> bytes:
    import numpy as np

    return codec._bytes(np.array([token]))


def test_a_line_of_ten_megabytes(codec: tm.Codec) -> None:
    line = "word, wörter 世界! " * 500_000
    tokens = codec.encode([line])
    assert int(tokens.side["size"][0, 0]) == len(line.encode()) > 10e6
    assert codec.decode(tokens) == [line]


def test_class_is_public_and_card_is_true(codec: tm.Codec) -> None:
    wing = importlib.import_module("tokenizers_mm.text")
    assert getattr(wing, type(codec).__name__) is type(codec)
    assert codec.streamable == next(c for c in registry.list_codecs() if c.spec == codec.spec).taxonomy.streamable
    with pytest.raises(NotImplementedError):
        codec(["abc"])
