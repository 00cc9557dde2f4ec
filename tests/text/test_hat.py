"""HAT, H-Net and their flat twins: equal to plain implementations, causal, the same packed, in batches and through caches."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.text import plain_hat
from tokenizers_mm.text import ByteLM, HATPaper, HATTFree, HNet, SubwordCodec, SubwordLM
from tokenizers_mm.text.hat_tfree import Guide
from tokenizers_mm.text.hnet import smooth
from tokenizers_mm.text.model import TextLM
from tokenizers_mm.text.rows import END, WORD, Rows, cutter, signal_of, unknown, words_of
from tokenizers_mm.text.segmenters import segmenter
from tokenizers_mm.text.segmenters.learned import ratio_loss

TFREE = {
    "dim": 24, "encoder_layers": 2, "decoder_layers": 2, "heads": 2, "hidden": 32, "window": 16, "backbone_dim": 32,
    "backbone_layers": 2, "backbone_heads": 4, "backbone_kv_heads": 2, "backbone_hidden": 40, "connector_heads": 4,
    "rope_base": 1e4, "backbone_rope_base": 1e4,
}  # fmt: skip
PAPER = {
    "dim": 24, "encoder_layers": 2, "decoder_layers": 2, "heads": 2,
    "backbone_dim": 32, "backbone_layers": 2, "backbone_heads": 4,
}  # fmt: skip
PIECES = ["a", "b", " ", " ", "  ", "é", "日本", "\u0301", "\u200d", "👍", "👨\u200d👩\u200d👧", "1", "⁄", "2"]
PIECES += [".", "\n", "X", "don't", "ß", "ж "]
TEXT = "Hello wörld, it's 3.14 — naïve 日本語 ok"
KINDS = ["paper", "paper-uax29", "paper-fixed", "paper-entropy", "tfree", "tfree-strict", "tfree-entropy", "hnet"]
KINDS += ["byte", "subword"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vocabulary")
    SubwordCodec.learn([TEXT * 3, "second document " * 3], 270).save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, vocabulary: str) -> TextLM:
    return build(request.param, vocabulary)


def build(kind: str, vocabulary: str = "") -> TextLM:
    torch.manual_seed(0)
    family, _, option = kind.partition("-")
    cut = {"uax29": "uax29", "fixed": "fixed-4", "entropy": "entropy"}.get(option)
    if family == "paper":
        model: TextLM = HATPaper(**PAPER, **({"segmenter": cut} if cut else {}))
    elif family == "tfree":
        model = HATTFree(**TFREE, strict_causal=option == "strict", **({"segmenter": cut} if cut else {}))
    elif family == "hnet":
        model = HNet(24, 2, 2, 2, 16, 32, 2, 4)
    else:
        model = ByteLM(24, 2, 2) if family == "byte" else SubwordLM(vocabulary, 24, 2, 2)
    for name, parameter in model.named_parameters():
        if "router" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def nasty(seed: int, count: int = 24) -> bytes:
    return "".join(random.Random(seed).choices(PIECES, k=count)).encode()


@pytest.mark.parametrize("segmenter", ["whitespace", "uax29", "fixed-4"])
def test_the_paper_s_model_equals_a_plain_one(segmenter: str) -> None:
    torch.manual_seed(1)
    model = HATPaper(**PAPER, segmenter=segmenter).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    data = TEXT.encode() + bytes([END])
    words = words_of(data, model.cut)
    costs = plain_hat.paper_nats(dict(model.state_dict()), words, 2, 4)
    assert len(costs) == len(data) + len(words) - 1
    assert model.score(signal_of([TEXT])).nats.sum().item() == pytest.approx(sum(costs), rel=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_released_model_equals_a_plain_one_with_whole_cross_attention(qk_norm: bool) -> None:
    torch.manual_seed(2)
    model = HATTFree(**TFREE, qk_norm=qk_norm).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    data = TEXT.encode()
    expected = plain_hat.tfree_logits(dict(model.state_dict()), words_of(data, model.cut), TFREE, 1e4)  # type: ignore[arg-type]
    logits = model.logits(Rows.of(torch.tensor([list(data)]), model.cut))[0]
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_a_guide_is_attention_to_one_key() -> None:
    torch.manual_seed(3)
    guide = Guide(24, 32, 2, False, 1e-5)
    z, word = torch.randn(24), torch.randn(32)
    expected = plain_hat.cross(dict(guide.state_dict()), "", z, word, 2)
    torch.testing.assert_close(guide(word), expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_packed_documents_cost_what_they_cost_alone(model: TextLM) -> None:
    a, b = signal_of([TEXT]), signal_of(["second document"])
    packed = torch.cat([a, torch.full((1, 1), -1), b, torch.full((1, 5), -1)], dim=1)
    together = model.score(packed)
    torch.testing.assert_close(together.nats[:, : a.shape[1]], model.score(a).nats, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.nats[:, a.shape[1] + 1 : -5], model.score(b).nats, atol=1e-4, rtol=1e-4)
    assert (together.nats[packed < 0] == 0).all()


@torch.no_grad()
def test_rows_cost_the_same_beside_others(model: TextLM) -> None:
    texts = [TEXT, "x", "second document. " * 4]
    together = model.score(signal_of(texts))
    for i, text in enumerate(texts):
        alone = model.score(signal_of([text]))
        size = len(text.encode()) + 1
        torch.testing.assert_close(together.nats[i, :size], alone.nats[0], atol=1e-4, rtol=1e-4)
        assert torch.equal(together.right[i, :size], alone.right[0])


@torch.no_grad()
def test_later_bytes_change_nothing_before(model: TextLM) -> None:
    one = signal_of(["The quick brown fox; jumps over"], end=False)
    other = signal_of(["The quick brown fox; walks, runs"], end=False)[:, : one.shape[1]]
    a, b = (model.score(x).nats[0, :21] for x in (one, other))
    keep = 20 if isinstance(model, HATPaper) else 21  # a word's end is a prediction after its last byte
    if isinstance(model, SubwordLM):
        keep = 16
    torch.testing.assert_close(a[:keep], b[:keep], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model.score(one).nats[0, 21:], model.score(other).nats[0, 21:])


@torch.no_grad()
@pytest.mark.parametrize("cut", ["uax29", "whitespace", "fixed-4", "spacelike", "entropy"])
def test_strictly_causal_guides_tell_nothing_of_later_bytes(cut: str) -> None:
    torch.manual_seed(0)
    model = HATTFree(**TFREE, strict_causal=True, segmenter=cut).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for seed in range(3):
        data = nasty(seed)
        whole = model.logits(Rows.of(torch.tensor([list(data)]), model.cut, strict=True))[0]
        rows = torch.full((len(data), len(data)), -1)
        for n in range(1, len(data)):
            rows[n, :n] = torch.tensor(list(data[:n]))
        cuts = model.logits(Rows.of(rows, model.cut, strict=True))
        for n in range(1, len(data)):
            torch.testing.assert_close(cuts[n, :n], whole[:n], atol=1e-4, rtol=1e-4, msg=f"{data!r} at {n}")


def test_as_released_a_character_tells_of_its_later_bytes() -> None:
    model = build("tfree")
    assert isinstance(model, HATTFree)
    stays, opens = (Rows.of(torch.tensor([list(data)]), model.cut).guide[0, 1] for data in (b"a\xc3\xa9", b"a\xc3\x97"))
    assert (int(stays), int(opens)) == (0, 1)
    assert unknown("a×".encode(), np.array([0, 1])).tolist() == [0, 1, 0]


def run_through(model: TextLM, prompts: list[bytes], texts: list[bytes]) -> None:
    """Compare logits of a session with those of a pass over all bytes so far, for every byte."""
    session = model.session(prompts, 80)
    for step in range(min(len(t) - len(p) for t, p in zip(texts, prompts, strict=True))):
        so_far = [text[: len(prompt) + step] for text, prompt in zip(texts, prompts, strict=True)]
        expected = torch.stack([logits_after(model, data) for data in so_far])
        torch.testing.assert_close(session.logits, expected, atol=1e-4, rtol=1e-4, msg=f"{so_far}")
        session.push(torch.tensor([text[len(data)] for text, data in zip(texts, so_far, strict=True)]))


def logits_after(model: TextLM, data: bytes) -> Tensor:
    assert isinstance(model, HATTFree)
    return model.logits(Rows.of(torch.tensor([list(data)]), model.cut, strict=model.strict))[0, -1]


@torch.no_grad()
@pytest.mark.parametrize(
    ("cut", "strict"), [("uax29", False), ("uax29", True), ("whitespace", True), ("fixed-4", False), ("entropy", False)]
)
def test_cached_steps_of_the_released_model_equal_whole_passes(cut: str, strict: bool) -> None:
    torch.manual_seed(0)
    model = HATTFree(**TFREE, strict_causal=strict, segmenter=cut).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    long_word = b"x" * 95 + "é日".encode() * 4
    texts = [nasty(1) + bytes([END]) + nasty(2), long_word + b" y", "one 日本語 👍 ß".encode() * 3]
    run_through(model, [texts[0][:9], long_word[:90], b"o"], texts)


@torch.no_grad()
@settings(max_examples=10, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("ab \n.é日\u0301\u200d⁄12'👍"), min_size=3, max_size=14),
    st.integers(1, 4),
    st.booleans(),
)
def test_cached_steps_equal_whole_passes_whatever_the_text(text: str, first: int, strict: bool) -> None:
    data = text.encode()
    run_through(build("tfree-strict" if strict else "tfree"), [data[:first]], [data])


@torch.no_grad()
@pytest.mark.parametrize("prompt", ["", "Hello", TEXT[:9], "日"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tfree"])  # which is not causal: see above
def test_a_text_costs_what_its_steps_cost(kind: str, prompt: str, vocabulary: str) -> None:
    """In a batch whose rows reach ends of words at different steps."""
    model, begun = build(kind, vocabulary), prompt.encode()
    data = begun + b" " + TEXT.encode() + bytes([END])
    whole = steps(model, data)
    if isinstance(model, HATTFree) and not prompt:
        with pytest.raises(ValueError, match="prompts must not be empty"):
            model.session([b""], 10)
        return
    first = len(steps(model, begun)) - isinstance(model, HATPaper) * (prompt != "")  # the last word is open
    assert steps(model, begun)[:first] == whole[:first]
    cost, nats = price(model, begun, whole[first:]), model.score(torch.tensor([list(data)])).nats[0]
    if isinstance(model, HATTFree):
        assert cost == pytest.approx(float(nats[first:].sum()), rel=1e-4)
    else:
        assert cost + price(model, b"", whole[:first]) == pytest.approx(float(nats.sum()), rel=1e-4)


def price(model: TextLM, prompt: bytes, ids: list[int]) -> float:
    """Cost of ids after a prompt, beside a row that goes its own way."""
    session, spent = model.session([prompt, b"another row, "], 100), 0.0
    for turn, i in enumerate(ids):
        spent -= float(session.logits[0].log_softmax(-1)[i])
        session.push(torch.tensor([i, WORD if turn % 5 == 4 and isinstance(model, HATPaper) else 97]))
    return spent


def steps(model: TextLM, data: bytes) -> list[int]:
    """What a model says one after the other: bytes, with ends of words, or tokens."""
    if isinstance(model, SubwordLM):
        return model.encode(data)
    if not isinstance(model, HATPaper):
        return list(data)
    said = [i for word in words_of(data, model.cut) for i in (*word, WORD)]
    return said[:-1] if data.endswith(bytes([END])) else said


def test_a_target_for_every_byte_and_word_but_the_last() -> None:
    model = build("paper")
    assert isinstance(model, HATPaper)
    rows = Rows.of(signal_of([TEXT, "two words"]), model.cut)
    assert int((~model._open(rows) & (rows.lengths > 0)).sum()) == int((rows.lengths > 0).sum()) - 2


@pytest.mark.parametrize(
    ("arguments", "encoder", "backbone"),
    [
        ({}, 23.2e6, 1.15e9),
        ({"backbone_dim": 3584, "backbone_layers": 28, "backbone_heads": 28}, 24.2e6, 4.32e9),
        ({"dim": 1024, "hidden": 2730, "encoder_layers": 4, "decoder_layers": 4, "heads": 8, "backbone_dim": 4608,
          "backbone_layers": 36, "backbone_heads": 36}, 55.3e6, 9.17e9),
    ],
)  # fmt: skip
def test_the_paper_s_sizes(arguments: dict[str, int], encoder: float, backbone: float) -> None:
    with torch.device("meta"):
        model = HATPaper(**arguments)  # type: ignore[arg-type]
    count = lambda *parts: sum(p.numel() for part in parts for p in part.parameters())  # noqa: E731
    assert count(model.embedding, model.encoder, model.to_word) == pytest.approx(encoder, abs=0.05e6)
    assert count(model.head, model.decoder, model.to_byte) == pytest.approx(encoder, abs=0.05e6)
    assert count(model.backbone) == pytest.approx(backbone, abs=0.005e9)


def test_the_smoothing_is_the_moving_average_of_each_document() -> None:
    torch.manual_seed(0)
    z, sure, document = torch.randn(2, 9, 4), torch.rand(2, 9), torch.tensor([[0] * 5 + [1] * 4] * 2)
    last = torch.zeros(2, 4)
    for t, y in enumerate(smooth(z, sure, document).unbind(1)):
        last = last * (t != 5)
        last = sure[:, t, None] * z[:, t] + (1 - sure[:, t, None]) * last
        torch.testing.assert_close(y, last, atol=1e-5, rtol=1e-4)


def test_the_router_learns_and_documents_begin_chunks() -> None:
    model = build("hnet").train()
    assert isinstance(model, HNet)
    model.loss(signal_of([TEXT, "second"])).backward()
    for layer in (model.router.query, model.router.key):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum() > 0
    assert float(ratio_loss(torch.full((12,), 0.25), torch.arange(12) % 4 == 0, 4.0)) == pytest.approx(1.0)
    assert float(ratio_loss(torch.ones(12), torch.ones(12).bool(), 4.0)) == pytest.approx(4.0)


def test_models_come_back_from_their_folders(model: TextLM, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    signal = signal_of([TEXT])
    assert torch.equal(model.score(signal).nats, again.score(signal).nats)
    (tmp_path / "config.json").write_text('{"class": "Other"}')
    with pytest.raises(ValueError, match="class 'Other'"):
        type(model).from_pretrained(tmp_path)


def test_unfinished_characters_open_no_word() -> None:
    cut = cutter(segmenter("uax29"))
    assert words_of(b"a\xe6", cut) == [b"a\xe6"]
    assert words_of(b"\xe6", cut) == [b"\xe6"]
