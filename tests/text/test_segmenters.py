"""Segmenters: lossless for any bytes, the same in pieces and as a whole, HAT's splitter word for word."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.text.segmenters import NAMES, Segmenter, base, segmenter
from tokenizers_mm.text.segmenters.base import code_points, cut_long, whole_characters
from tokenizers_mm.text.segmenters.learned import Learned, Router, dechunk, ratio_loss, straight_through
from tokenizers_mm.text.segmenters.unicode_data import kinds

NASTY = (
    "aaabBC zZ.,'\":;_- \t\n\r01\u2044\u0301\u200d\u00ad\u05d0\u05d1\u05f4\u30ab\u30fc\u6f22\u0e01\U0001f600\U0001f468\U0001f3fd"
    "\U0001f1e6\U0001f1e7\u00e9\u2003\u00a0\u0085\u2028\u2019\u24c2\u2139      "
)
GOLDEN = [
    ("Hello, world!", ["Hello,", " world!"]),
    ("how_are_you", ["how_", "are_", "you"]),
    ("a   b", ["a", "   ", "b"]),
    ("\n a", ["\n", " a"]),
    ("a \n b", ["a", " ", "\n", " b"]),
    ("3.14", ["3.", "14"]),
    ("1,234.5", ["1,", "234.", "5"]),
    ("it's", ["it'", "s"]),
    ("x=1; y=2", ["x", "=", "1;", " y", "=", "2"]),
    ("foo(bar)", ["foo(", "bar)"]),
    ("$5.00", ["$", "5.", "00"]),
    ("...a", ["...", "a"]),
    (" . ", [" .", " "]),
    ("howAreYou ABCdef", ["how", "Are", "You", " ABCdef"]),
    ("世界 和平", ["世", "界", " 和", "平"]),
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467 ok", ["\U0001f468\u200d\U0001f469\u200d\U0001f467", " ok"]),
    ("\t \t\u0301", ["\t", " \t\u0301"]),
    ("", []),
]
RULES = [
    ("whitespace", {}),
    ("uax29", {}),
    ("uax29", {"max_bytes": 5}),
    ("fixed-3", {}),
    ("spacelike", {}),
    ("entropy", {}),
    ("entropy", {"max_bytes": 6}),
    ("bpe", {}),
]
ANY = st.binary(max_size=30) | st.text(st.sampled_from(NASTY), max_size=20).map(str.encode)


@pytest.mark.parametrize(("text", "words"), GOLDEN)
def test_golden_words_of_hat(text: str, words: list[str]) -> None:
    assert [word.decode() for word in segmenter("uax29").split(text.encode())] == words


def test_limits_cut_at_characters_where_one_fits() -> None:
    def split(text: str, limit: int) -> list[bytes]:
        return segmenter("uax29", max_bytes=limit).split(text.encode())

    assert split("für", 2) == [b"f", "ü".encode(), b"r"]
    assert split("\U0001f600", 2) == ["\U0001f600".encode()[:2], "\U0001f600".encode()[2:]]
    assert [len(word) for word in split("x" * 250, 100)] == [100, 100, 50]


def test_words_are_those_of_the_published_splitter() -> None:
    published = pytest.importorskip("hat_splitter").HATSplitter()
    chance = random.Random(0)
    whole, limited = segmenter("uax29", max_bytes=None), [segmenter("uax29", max_bytes=n) for n in range(1, 9)]
    for _ in range(4000):
        text = "".join(chance.choice(NASTY) for _ in range(chance.randrange(16)))
        assert [word.decode() for word in whole.split(text.encode())] == published.split(text), ascii(text)
        limit = chance.randrange(1, 9)
        wanted = [bytes(word) for word in published.split_with_limit(text, limit)]
        assert limited[limit - 1].split(text.encode()) == wanted, (ascii(text), limit)


def test_properties_are_those_of_the_published_splitter() -> None:
    """Letters, punctuation and white space of every assigned code point, seen through what the splitter does with them."""
    published, ours = pytest.importorskip("hat_splitter").HATSplitter(), segmenter("uax29", max_bytes=None)
    points = [c for c in range(0x0, 0x20000, 3) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(points), 64):
        text = "".join(f"a{chr(c)} {chr(c)}b$" for c in points[start : start + 64])
        assert [word.decode() for word in ours.split(text.encode())] == published.split(text), hex(points[start])


@pytest.mark.parametrize(("name", "options"), RULES)
def test_lossless_and_the_same_in_pieces(name: str, options: dict) -> None:
    cut = segmenter(name, **options)

    @settings(max_examples=80, deadline=None)
    @given(ANY, st.lists(st.integers(1, 5), max_size=20))
    def check(data: bytes, cuts: list[int]) -> None:
        words = cut.split(data)
        assert b"".join(words) == data
        assert all(words)
        if cut.max_bytes is not None:
            assert max(map(len, words), default=0) <= cut.max_bytes
        starts = cut.boundaries(data)
        assert starts.dtype == np.int64
        assert starts.tolist() == [sum(map(len, words[:i])) for i in range(len(words))]
        session, found, rest = cut.stream(), [], data
        for n in [*cuts, len(data)]:
            found += session.push(rest[:n])
            rest = rest[n:]
        assert b"".join(found) + session.open == data
        assert found + session.flush() == words
        assert session.open == b""

    check()


def test_long_words_are_forgotten_while_they_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_FAR", 0)
    chance = random.Random(0)
    for _ in range(600):
        middle = chance.choice(NASTY) * chance.randrange(60) + "".join(
            chance.choices("ab'.\u0301", k=chance.randrange(40))
        )
        text = "".join(chance.choices(NASTY, k=8)) + middle + "".join(chance.choices(NASTY, k=8))
        cut, found, data = segmenter("uax29", max_bytes=chance.choice([None, 3, 17])), [], text.encode()
        session, words = cut.stream(), cut.split(data)
        while data:
            n = chance.choice([1, 2, 30])
            found += session.push(data[:n])
            data = data[n:]
        assert found + session.flush() == words, ascii(text)


def test_a_word_without_end_takes_linear_time() -> None:
    session = segmenter("uax29").stream()
    for _ in range(40):
        session.push(b"a" * 50_000)
        assert len(session._kept) < 200


def test_words_come_as_soon_as_the_next_character_is_known() -> None:
    session = segmenter("uax29").stream()
    assert [session.push(byte) for byte in b"ab, c"] == [[], [], [], [b"ab,"], []]
    assert session.push("é".encode()[:1]) == []
    assert session.push("é".encode()[1:]) == []
    assert session.push(b"\n") == [" cé".encode()]
    assert session.flush() == [b"\n"]


def test_blocks_do_not_show() -> None:
    text = ("one two  three\n\tfour, five!\r\n" * 4000).encode()
    whole = segmenter("uax29").split(text)
    assert whole == segmenter("uax29").split(b"one two  three\n\tfour, five!\r\n") * 4000


def test_segmentation_says_where_each_byte_is() -> None:
    found = segmenter("whitespace").segment(b"ab  c d")
    assert found.lengths.tolist() == [4, 2, 1]
    assert found.seg_id.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert found.pos_in_seg.tolist() == [0, 1, 2, 3, 0, 1, 0]


def test_simple_rules() -> None:
    assert segmenter("whitespace").split("\u3000a\u2003b \nc".encode()) == [
        "\u3000".encode(),
        "a\u2003".encode(),
        b"b \n",
        b"c",
    ]
    assert segmenter("fixed-4").split(b"abcdefg") == [b"abcd", b"efg"]
    assert segmenter("fixed", size=2).split(b"abc") == [b"ab", b"c"]
    assert segmenter("spacelike").split(b"ab, cd") == [b"ab,", b" cd"]
    assert segmenter("spacelike").split("é1".encode()) == ["é".encode()[:1], "é1".encode()[1:]]


def test_entropy_patches_begin_where_bytes_are_unsure() -> None:
    data = b"The weather in the mountains, 1,234 metres up. " * 3
    cut = segmenter("entropy")
    assert cut.boundaries(data)[:2].tolist() == [0, 1]
    entropies = cut.model.entropies(data)
    wanted = [0, 1, *(t + 1 for t in range(1, len(data) - 1) if entropies[t] > cut.threshold)]
    assert cut.boundaries(data).tolist() == wanted
    counts = [len(segmenter("entropy", threshold=t).boundaries(data)) for t in (0.0, 0.5, 1.0, 2.0, 3.0, 6.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(data)
    assert counts[-1] == 2


def test_words_of_a_tokenizer_are_its_tokens() -> None:
    cut, text = segmenter("bpe"), "Ein Satz, 世界 " * 20
    ids = cut.vocabulary.encode(text)
    assert cut.split(text.encode()) == [cut.vocabulary.tokens[i] for i in ids]
    assert b"\xff" in cut.split(b"ab\xff cd")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nonsense", {}, "name must be one of"),
        ("fixed-0", {}, "size must be"),
        ("uax29", {"max_bytes": 0}, "max_bytes must be"),
        ("bpe", {"codec": "bytes"}, "must be a SubwordCodec"),
    ],
)
def test_wrong_segmenters_are_refused(name: str, options: dict, words: str) -> None:
    assert "uax29" in NAMES
    with pytest.raises(ValueError, match=words):
        segmenter(name, **options)


# -- H-Net -----------------------------------------------------------------------------------------------------------------


def _states(data: bytes) -> torch.Tensor:
    """A direction for letters and one for the rest."""
    letter = torch.tensor([chr(b).isalpha() for b in data], dtype=torch.float64)
    return torch.stack([letter, 1 - letter], dim=1)


def test_learned_chunks_begin_where_states_turn() -> None:
    router = Router(2).double()
    with torch.no_grad():  # opposite instead of orthogonal
        router.key.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        router.query.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    cut = Learned(_states, router)
    assert cut.split(b"ab, cd") == [b"ab", b", ", b"cd"]
    session = cut.stream()
    assert [*session.push(b"ab,"), *session.push(b" c"), *session.push(b"d"), *session.flush()] == cut.split(b"ab, cd")
    assert isinstance(cut, Segmenter)


def test_router_starts_as_a_comparison_of_neighbours_and_learns() -> None:
    x = torch.randn(3, 9, 4, requires_grad=True)
    router = Router(4)
    p = router(x)
    wanted = (1 - torch.cosine_similarity(x[:, :-1], x[:, 1:], dim=-1)) / 2
    torch.testing.assert_close(p[:, 1:], wanted)
    assert bool((p[:, 0] == 1).all())
    first = torch.zeros(3, 9, dtype=torch.bool)
    first[1, 4] = True
    assert float(router(x.detach(), first)[1, 4].detach()) == 1
    (ratio_loss(p, p > 0.5, 3) + straight_through(p, p > 0.5).sum()).backward()
    assert router.query.weight.grad is not None
    assert bool(router.query.weight.grad.any())
    assert bool(router.key.weight.grad.any())


@pytest.mark.parametrize("target", [2, 3, 6])
def test_ratio_loss_is_one_at_its_target(target: int) -> None:
    chosen = torch.arange(60) % target == 0
    assert float(ratio_loss(torch.full((60,), 1 / target), chosen, target)) == pytest.approx(1)
    assert float(ratio_loss(torch.ones(60), torch.ones(60, dtype=torch.bool), target)) == pytest.approx(target)


def test_dechunking_is_the_moving_average() -> None:
    z, p = torch.randn(3, 5), torch.rand(8)
    chosen = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0], dtype=torch.bool)
    p[0] = 1
    found = dechunk(z, p, chosen)
    y, at = z[0], 0
    for t in range(8):
        if chosen[t] and t:
            at += 1
            y = p[t] * z[at] + (1 - p[t]) * y
        torch.testing.assert_close(found[t], y, atol=2e-4, rtol=0)
    assert straight_through(p, chosen).tolist() == pytest.approx([1.0] * 8)


# -- parts -----------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=20))
def test_code_points_and_whole_characters(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass") if text.isascii() else text.encode("utf-8", "replace")
    points, offsets = code_points(data)
    assert "".join(map(chr, points)) == data.decode()
    if offsets is not None:
        assert offsets.tolist() == [len(data.decode()[:i].encode()) for i in range(len(points) + 1)]
    for cut in range(len(data)):
        whole = whole_characters(data[:cut])
        assert data[:whole].decode() == data[:cut].decode(errors="ignore")


def test_cut_long_leaves_short_words_alone() -> None:
    starts = np.array([0, 3])
    assert cut_long(b"abcdefg", starts, 7, 4) is starts
    assert cut_long(b"abcdefg", starts, 7, 3).tolist() == [0, 3, 6]


def test_the_space_has_a_kind_of_its_own() -> None:
    table = kinds()
    assert (table.of == table.of[ord(" ")]).sum() == 1
    assert len(table.of) == 0x110000
