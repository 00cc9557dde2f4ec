"""``.ecdc`` files: sizes, both ways, beside the original program, and every kind of damage."""

from __future__ import annotations

import io
import json
import struct
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers_mm as tm
from tokenizers_mm.audio import ecdc
from tokenizers_mm.audio.arithmetic import ArithmeticDecoder, ArithmeticEncoder
from tokenizers_mm.audio.convert import CONVERTERS
from tokenizers_mm.audio.ecdc_lm import EcdcLM, quantised_cdf
from tokenizers_mm.coding import BitstreamError

MODELS = sorted(ecdc.MODELS)


def make(model: str, samples: int, columns: int, seed: int = 0) -> tm.Tokens:
    """Random codes and scales of a signal of that many samples."""
    generator = torch.Generator().manual_seed(seed)
    spec = ecdc.MODELS[model].prefix(columns)
    steps = spec.steps(samples)
    side = {"size": torch.tensor([[samples]])}
    if spec.window:
        side[ecdc.SCALE] = torch.rand(1, len(spec.window_steps(steps)), generator=generator)
    return tm.Tokens(torch.randint(0, 1024, (1, steps, columns), generator=generator), spec, side=side)


@pytest.fixture(scope="module")
def lm() -> EcdcLM:
    torch.manual_seed(0)
    return EcdcLM(dim=16, layers=2, heads=2, past_context=5).eval()


@pytest.mark.parametrize(
    ("model", "samples", "columns", "size"),
    [("encodec_24khz", 24001, 8, 826), ("encodec_24khz", 12000, 2, 161), ("encodec_48khz", 50000, 4, 864)],
)
def test_sizes_are_those_of_the_original(model: str, samples: int, columns: int, size: int) -> None:
    assert len(ecdc.dumps(make(model, samples, columns))) == size


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(MODELS), st.integers(1, 150_000), st.integers(1, 16), st.integers(0, 9))
def test_tokens_survive(model: str, samples: int, columns: int, seed: int) -> None:
    tokens = make(model, samples, columns, seed)
    assert ecdc.loads(ecdc.dumps(tokens)) == tokens


@pytest.mark.parametrize("model", MODELS)
def test_tokens_survive_the_language_model(lm: EcdcLM, model: str, tmp_path: Path) -> None:
    tokens = make(model, 4000 if model == "encodec_24khz" else 48100, 2)
    ecdc.write(tokens, tmp_path / "a.ecdc", lm=lm)
    assert ecdc.read(tmp_path / "a.ecdc", lm=lm) == tokens
    assert ecdc.model_of(tmp_path / "a.ecdc") == model
    with pytest.raises(ValueError, match=r"a\.ecdc.*language model.*mmtok convert encodec-lm"):
        ecdc.read(tmp_path / "a.ecdc")


def test_language_model_sees_only_the_past(lm: EcdcLM) -> None:
    """Step by step equals all at once, and a later code changes no earlier probability."""
    ids = torch.randint(0, 1025, (1, 20, 3))
    whole, _ = lm(ids)
    state, steps = None, []
    for t in range(20):
        probabilities, state = lm(ids[:, t : t + 1], state)
        steps.append(probabilities)
    torch.testing.assert_close(
        torch.cat(steps, dim=-1)[..., :6], whole[..., :6]
    )  # until the first vector leaves the past
    changed = ids.clone()
    changed[:, 12:] = 7
    assert torch.equal(lm(changed)[0][..., :12], whole[..., :12])
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(1, 3, 20))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=200), st.floats(0.1, 30), st.integers(0, 99))
def test_arithmetic_coder_is_exact_and_near_the_entropy(symbols: list[int], sharpness: float, seed: int) -> None:
    logits = torch.randn(31, generator=torch.Generator().manual_seed(seed)) * sharpness
    probabilities = logits.softmax(0)
    cdf = quantised_cdf(probabilities).tolist()
    coder = ArithmeticEncoder()
    for symbol in symbols:
        coder.push(symbol, cdf)
    data = coder.finish()
    decoder = ArithmeticDecoder(data + b"what follows is left alone")
    assert [decoder.pull(cdf) for _ in symbols] == symbols
    assert decoder.bytes_used == len(data)
    widths = torch.tensor(cdf).diff(prepend=torch.zeros(1, dtype=torch.long))
    ideal = float(-(widths[torch.tensor(symbols, dtype=torch.long)] / 2**24).log2().sum())
    assert ideal - 8 <= 8 * len(data) <= ideal + 0.01 * len(symbols) + 33


# -- the original program ----------------------------------------------------------------------------------------------


def original(tokens: tm.Tokens, lm: object = None) -> types.SimpleNamespace:
    """What the original's compressor asks of its model, with our tokens for the network's."""
    spec, name = tokens.spec, next(n for n in MODELS if ecdc.MODELS[n].channels == tokens.spec.channels)
    chunks = tokens.codes.split(spec.window_steps(int(tokens.lengths[0])), dim=-1)
    scales = tokens.side[ecdc.SCALE][0] if spec.window else [None] * len(chunks)
    model = types.SimpleNamespace(
        name=name,
        bits_per_codebook=10,
        sample_rate=int(spec.sample_rate),
        frame_rate=spec.sample_rate / spec.hop[0],
        normalize=bool(spec.window),
        segment_length=spec.window or None,
        segment_stride=spec.stride or None,
        encode=lambda wave: list(zip(chunks, scales, strict=True)),
        get_lm_model=lambda: lm,
        decode=lambda frames: setattr(model, "frames", frames) or torch.zeros(1, spec.channels, 10**6),
    )
    model.to = lambda device: model
    return model


@pytest.mark.parametrize(
    ("model", "samples", "coded"),
    [
        ("encodec_24khz", 12345, False),
        ("encodec_48khz", 96000, False),
        ("encodec_24khz", 1234, True),
        ("encodec_48khz", 700, True),
    ],
)
def test_files_are_the_original_s(model: str, samples: int, coded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte what the original writes, and the original reads the same codes and scales from ours."""
    pytest.importorskip("encodec")
    import importlib

    compress = importlib.import_module("encodec.compress")
    theirs = importlib.import_module("encodec.model").LMModel(
        n_q=32, card=1024, num_layers=5, dim=200, past_context=262
    )
    own = EcdcLM().eval() if coded else None
    if own is not None:
        own.load_state_dict(theirs.state_dict())
    tokens = make(model, samples, 2)
    stand_in = original(tokens, theirs.eval())
    buffer = io.BytesIO()
    compress.compress_to_file(stand_in, torch.zeros(tokens.spec.channels, samples), buffer, use_lm=coded)
    data = ecdc.dumps(tokens, lm=own)
    assert data == buffer.getvalue()
    assert ecdc.loads(data, lm=own) == tokens
    monkeypatch.setitem(compress.MODELS, model, lambda: stand_in)
    compress.decompress_from_file(io.BytesIO(data))
    assert torch.equal(torch.cat([codes for codes, _ in stand_in.frames], dim=-1), tokens.codes)


def test_published_language_model_converts(tmp_path: Path) -> None:
    model = EcdcLM().eval()
    assert sum(p.numel() for p in model.parameters()) == 15_559_768
    torch.save(model.state_dict(), tmp_path / "encodec_lm_24khz-1608e3c0.th")
    folder = CONVERTERS["encodec-lm"](tmp_path / "encodec_lm_24khz-1608e3c0.th", tmp_path / "lm")
    ids = torch.randint(0, 1025, (1, 3, 8))
    assert torch.equal(EcdcLM.load(folder)(ids)[0], model(ids)[0])
    torch.save({key: t for key, t in model.state_dict().items() if "norm_in" not in key}, tmp_path / "part.th")
    with pytest.raises(ValueError, match=r"2 missing keys: transformer\.norm_in\.bias"):
        CONVERTERS["encodec-lm"](tmp_path / "part.th", tmp_path / "lm2")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.th")
    with pytest.raises(ValueError, match=r"other\.th must be a language model of EnCodec"):
        CONVERTERS["encodec-lm"](tmp_path / "other.th", tmp_path / "lm2")


# -- damage ------------------------------------------------------------------------------------------------------------


def with_head(body: bytes = bytes(200), **changes: object) -> bytes:
    head = {"m": "encodec_24khz", "al": 640, "nc": 2, "lm": False, **changes}
    text = json.dumps({key: value for key, value in head.items() if value is not None}).encode()
    return b"ECDC" + struct.pack("!BI", 0, len(text)) + text + body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "bytes wanted"),
        (b"RIFF" + bytes(50), "no .ecdc file"),
        (b"ECDC\x01" + bytes(50), "got version 1"),
        (b"ECDC\x00\xff\xff\xff\xff", "at most 4096 bytes of JSON, got 4294967295"),
        (b"ECDC\x00\x00\x00\x00\x09{}", "9 bytes wanted"),
        (b"ECDC\x00\x00\x00\x00\x02{]", "not JSON"),
        (b"ECDC\x00\x00\x00\x0f\xa0" + b"[" * 4000, "not JSON"),
        (b"ECDC\x00\x00\x00\x00\x02\xff\xff", "not JSON"),
        (with_head(m=None), "must hold m"),
        (with_head(al=1.5), "must hold m"),
        (with_head(al=True), "must hold m"),
        (with_head(lm=0), "must hold m"),
        (with_head(m="encodec_32khz"), "model must be one of encodec_24khz, encodec_48khz"),
        (with_head(al=0), "at least 1 sample"),
        (with_head(al=-5), "at least 1 sample"),
        (with_head(nc=0), "1 to 32 codebooks"),
        (with_head(nc=33), "1 to 32 codebooks"),
        (with_head(m="encodec_48khz", nc=17), "1 to 16 codebooks"),
        (with_head(al=10**15), "exceed"),
        (with_head(al=10**4000, m="encodec_48khz"), "exceed"),
        (with_head(al=10**15, lm=True), "exceed"),
        (with_head(al=32000), "truncated"),
        (with_head(bytes(4)), "truncated"),
        (with_head(bytes(6)), "1 bytes too many"),
        (with_head(bytes(4) + b"\x80", al=320, nc=3), "1 bytes too many"),
        (with_head(bytes(3) + b"\x80", al=320, nc=3), "pad the last byte"),
        (with_head(b"\x7f\xc0\x00\x00" + bytes(3), al=320, m="encodec_48khz"), "not a finite number"),
    ],
)
def test_damage_is_one_clear_error(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(BitstreamError, match=words):
        ecdc.loads(data)
    (tmp_path / "bad.ecdc").write_bytes(data)
    with pytest.raises(BitstreamError, match=r"bad\.ecdc"):
        ecdc.read(tmp_path / "bad.ecdc")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_damage_crashes(lm: EcdcLM, data: st.DataObject) -> None:
    tokens = make("encodec_24khz", 900, 2)
    coded = data.draw(st.booleans())
    whole = ecdc.dumps(tokens, lm=lm if coded else None)
    broken = bytearray(whole)
    broken[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    broken = broken[: data.draw(st.integers(0, len(whole)))]
    try:
        read = ecdc.loads(bytes(broken), lm=lm)
    except ValueError:
        return
    assert read.spec.num_codebooks * read.ids.shape[1] > 0
    assert len(broken) == len(whole)


def test_what_is_not_one_item_of_encodec_is_refused(tmp_path: Path) -> None:
    tokens = make("encodec_24khz", 640, 2)
    with pytest.raises(ValueError, match="holds one item, got 2"):
        ecdc.write(tm.Tokens.cat([tokens, tokens]), tmp_path / "a.ecdc")
    with pytest.raises(ValueError, match="tokens must be of encodec_48khz"):
        ecdc.write(tokens, tmp_path / "a.ecdc", "encodec_48khz")
    whole = make("encodec_48khz", 48000, 2)
    with pytest.raises(ValueError, match=r"side\['scale'\] must hold 2 finite scales"):
        ecdc.write(tm.Tokens(whole.ids, whole.spec, side={"size": whole.side["size"]}), tmp_path / "a.ecdc")
    with pytest.raises(ValueError, match="tokens must be 3 steps"):
        ecdc.write(tm.Tokens(tokens.ids, tokens.spec, side={"size": torch.tensor([[641]])}), tmp_path / "a.ecdc")
    assert not list(tmp_path.iterdir())
