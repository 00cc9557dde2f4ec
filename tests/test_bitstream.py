"""The ``.mmt`` file: exact round trips, honest sizes, and one error for everything that is not an intact file."""

from __future__ import annotations

import hashlib
import json
import math
import time
import tracemalloc
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizers_mm import bitstream, coding
from tokenizers_mm.bitstream import BitstreamError, dumps, load, loads, save
from tokenizers_mm.tokens import Tokens, TokenSpec

DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
AUDIO = TokenSpec("audio", (4096,), hop=(320,), sample_rate=16000)
FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def clip(steps: int = 50, spec: TokenSpec = AUDIO, seed: int = 0) -> Tokens:
    """One audio item with uniform ids."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, size, steps) for size in spec.codebook_sizes], axis=-1)
    return Tokens(torch.from_numpy(ids)[None], spec, side={"size": torch.tensor([[320 * steps - 3]])})


def one_column(ids: np.ndarray, size: int) -> Tokens:
    return Tokens(torch.from_numpy(ids.astype(np.int64)).reshape(1, -1, 1), TokenSpec("audio", (size,)))


def identical(a: Tokens, b: Tokens) -> bool:
    """Equality that also compares dtypes and counts the same NaN as equal."""

    def bits(tensors: Mapping[str, Tensor]) -> dict:
        same = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        return {k: (v.dtype, v.shape, v.contiguous().view(same[v.itemsize]).tolist()) for k, v in tensors.items()}

    plain = [replace(t, side={}, shared={}) for t in (a, b)]
    return plain[0] == plain[1] and bits(a.side) == bits(b.side) and bits(a.shared) == bits(b.shared)


@st.composite
def specs(draw: st.DrawFn) -> TokenSpec:
    sizes = draw(st.lists(st.one_of(st.integers(1, 20), st.integers(1, 2**40)), min_size=1, max_size=8))
    axes = draw(st.sampled_from([("time",), ("height", "width"), ("channel", "time", "depth")]))
    return TokenSpec(
        modality=draw(st.sampled_from(["audio", "image", "été"])),
        codebook_sizes=tuple(sizes),
        axes=axes,
        hop=draw(st.none() | st.tuples(*[st.integers(1, 999)] * len(axes))),
        sample_rate=draw(st.none() | st.floats(1e-3, 1e6)),
        channels=draw(st.integers(0, 64)),
        scalable=draw(st.sampled_from(["none", "columns"])),
    )


@st.composite
def tensors(draw: st.DrawFn, first: tuple[int, ...]) -> Tensor:
    """Any dtype with any bit pattern: NaNs with payloads, infinities, negative zero, extreme integers."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = (*first, *draw(st.lists(st.integers(0, 3), max_size=2)))
    count = math.prod(shape)
    if dtype == torch.int64 and draw(st.booleans()):
        numbers = draw(st.lists(st.integers(0, 2**63 - 1), min_size=count, max_size=count))
        return torch.tensor(numbers, dtype=torch.int64).reshape(shape)
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    flat = torch.tensor(list(raw), dtype=torch.uint8)
    return (flat % 2 == 0 if dtype == torch.bool else flat.view(dtype)).reshape(shape)


@st.composite
def batches(draw: st.DrawFn) -> Tokens:
    spec = draw(specs())
    items = draw(st.integers(0, 4))
    extents = draw(st.lists(st.integers(0, 5), min_size=items * len(spec.axes), max_size=items * len(spec.axes)))
    shapes = torch.tensor(extents, dtype=torch.long).reshape(items, len(spec.axes))
    steps = int(shapes.prod(-1).max()) if items else 0
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tops = [draw(st.sampled_from([size, min(size, 3)])) for size in spec.codebook_sizes]
    ids = np.stack([rng.integers(0, top, (items, steps + 1)) for top in tops], axis=-1)
    names = st.text(max_size=10).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
    side = draw(st.dictionaries(names, tensors((items,)), max_size=3))
    counts = set(shapes[:, 0].tolist()) if "channel" in spec.axes else {spec.channels}
    channels = None
    if len(counts) == 1 and draw(st.booleans()):
        count = counts.pop()
        channels = tuple(draw(st.lists(names, min_size=count, max_size=count)))
    shared = draw(st.dictionaries(names, tensors(()), max_size=2))
    return Tokens(torch.from_numpy(ids), spec, shapes, side, shared, channels)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches(), st.none() | st.just("sax"))
def test_round_trip_is_exact(tokens: Tokens, codec: str | None) -> None:
    assert identical(loads(dumps(tokens, codec=codec)), tokens)


@pytest.mark.parametrize("size", [1, 2, 3, 255, 257, 2**16, 2**33 + 1, 2**62])
@pytest.mark.parametrize("steps", [0, 1, 7, 2**16, 2**16 + 9])
def test_round_trip_of_any_codebook_size(size: int, steps: int) -> None:
    ids = np.random.default_rng(steps).integers(0, size, steps)
    ids[:1], ids[-1:] = size - 1, 0
    tokens = one_column(ids, size)
    assert loads(dumps(tokens)) == tokens


def test_a_batch_keeps_spec_order_and_padding_out_of_the_file() -> None:
    spec = TokenSpec("image", (16,), axes=("height", "width"))
    ids = torch.arange(2 * 9).remainder(16).reshape(2, 9, 1)
    small = Tokens(ids, spec, torch.tensor([[2, 3], [2, 2]]))
    padded = Tokens(torch.cat([ids, torch.full((2, 50, 1), 7)], dim=1), spec, torch.tensor([[2, 3], [2, 2]]))
    assert dumps(small) == dumps(padded)
    assert loads(dumps(padded)).ids.shape == (2, 6, 1)


# --- sizes: the file is what a table quotes as the real bitrate


@pytest.mark.parametrize("sizes", [(4096,), (1024,) * 8, (2,), (1,)])
def test_uniform_ids_cost_their_ideal_width_and_a_small_overhead(sizes: tuple[int, ...]) -> None:
    tokens = clip(1000, replace(AUDIO, codebook_sizes=sizes, levels=()))
    assert len(dumps(tokens)) <= tokens.bits.item() / 8 + 70


def test_overhead_of_one_second_of_speech_is_tens_of_bytes() -> None:
    assert len(dumps(clip(50))) - 50 * 12 / 8 <= 40


def test_sizes_that_are_no_power_of_two_pay_no_whole_bits() -> None:
    tokens = one_column(np.random.default_rng(0).integers(0, 4375, 4000), 4375)  # FSQ (7, 5, 5, 5, 5): 12.1 of 13 bits
    assert len(dumps(tokens)) <= 4000 * math.log2(4375) / 8 + 70


@pytest.mark.parametrize("count", [20_000, 200_000])
def test_skewed_ids_cost_about_their_entropy(count: int) -> None:
    weights = 1 / np.arange(1, 1025)
    ids = np.random.default_rng(0).choice(1024, count, p=weights / weights.sum())
    used = np.bincount(ids) / count
    entropy = -(used[used > 0] * np.log2(used[used > 0])).sum()
    assert len(dumps(one_column(ids, 1024))) <= count * (entropy + 0.002) / 8 + 1024 + 70


def test_constant_ids_cost_nothing() -> None:
    assert len(dumps(one_column(np.full(10**6, 77), 4096))) < 90


@given(st.lists(st.integers(0, 30), min_size=1, max_size=400), st.sampled_from([31, 32, 5000]))
@settings(max_examples=100, deadline=None)
def test_no_coding_costs_more_than_packing(ids: list[int], size: int) -> None:
    assert len(coding.write_column(np.array(ids), size)) <= 1 + math.ceil(len(ids) * math.ceil(math.log2(size)) / 8)


def test_equal_items_and_small_sizes_are_compact() -> None:
    spec = TokenSpec("image", (2,), axes=("height", "width"), hop=(16, 16), channels=3)
    tokens = Tokens(torch.zeros(1000, 256, 1, dtype=torch.long), spec, torch.full((1000, 2), 16))
    tokens = replace(tokens, side={"size": torch.full((1000, 2), 256)})
    assert len(dumps(tokens)) < 200


def test_a_million_ids_take_well_under_seconds() -> None:
    tokens = one_column(np.random.default_rng(0).geometric(0.01, 10**6) % 4096, 4096)
    start = time.process_time()
    assert loads(dumps(tokens)) == tokens
    assert time.process_time() - start < 3  # 0.2 s where this was written


# --- the format does not change and does not depend on floating point

GOLDEN = (
    "6d6d7401f575eeef6b29e67f3c7b5499455bce488e0b81e1636c000c2db4f0460f4822dc0b0b276ca910c5c94c06f24cac60"
    "3e071313230303833d03c3817aa83f98181b1e329eee6564e442642c6646266686ffff010208636278c1aec00d0009105d72"
    "adfb24dc6203011a2b39c5722b0e8e73ac5592db31e02f1e72c3c58dac630f7c7511021433601064010162485110c1c80404"
    "8cc4928c8c00399600135347d7d7c5a5348da0e5c848b32d58a7bcaec2eb3b5b9a2af0b09377e83078bd50446afc21f79e60"
    "057988c449db6223d1284100740800"
)


def golden_tokens() -> Tokens:
    t = torch.arange(48)
    spec = TokenSpec("audio", (4096, 5, 300, 1), hop=(600,), sample_rate=24000, scalable="columns")
    columns = torch.stack([1000 * (t % 7 == 0), t * t * 3 % 5, 37 * t % 300, 0 * t], dim=-1)
    return Tokens(
        torch.stack([columns, columns.flip(0)]),
        spec,
        torch.tensor([[48], [31]]),
        {"size": torch.tensor([[28800], [18123]]), "scale": torch.tensor([[0.5], [math.nan]])},
        {"vocabulary": torch.tensor([3, -1], dtype=torch.int16)},
    )


def test_golden_bytes_still_decode() -> None:
    assert identical(loads(bytes.fromhex(GOLDEN)), golden_tokens())


def python_varints(data: bytes, count: int) -> tuple[list[int], bytes]:
    """The varint reader in plain integers."""
    numbers = []
    for _ in range(count):
        end = next(i for i, byte in enumerate(data) if byte < 128) + 1
        numbers.append(sum((byte & 127) << 7 * k for k, byte in enumerate(data[:end])))
        data = data[end:]
    return numbers, data


def python_column(block: bytes, count: int) -> list[int]:
    """A reader of counted columns in plain Python integers, written from the format's description alone."""
    assert block[0] == coding.COUNTED
    (length,), rest = python_varints(block[1:], 1)
    model, rest = zlib.decompress(rest[:length], -15), rest[length:]
    (used,), model = python_varints(model, 1)
    steps, model = python_varints(model, used)
    symbols = [sum(steps[: i + 1]) for i in range(used)]
    counts = [c if c < 16 else (8 + c % 8) << (c // 8 - 1) for c in model]
    shares = [1 + c * (2**24 - used) // sum(counts) for c in counts]
    shares[counts.index(max(counts))] += 2**24 - sum(shares)
    (length,), rest = python_varints(rest, 1)
    assert len(rest) == length
    words = [int.from_bytes(rest[i : i + 4], "little") for i in range(0, length, 4)]
    state, ids = words.pop(), []
    state = state << 32 | words.pop() if words else state
    for _ in range(count):
        quantile, left, rank = state % 2**24, 0, 0
        while quantile >= left + shares[rank]:
            left, rank = left + shares[rank], rank + 1
        state = (state >> 24) * shares[rank] + quantile - left
        if state < 2**32 and words:
            state = state << 32 | words.pop()
        ids.append(symbols[rank])
    assert state == 0
    return ids


@pytest.mark.parametrize("spread", [0.5, 0.05, 0.004])
def test_entropy_coding_is_integer_arithmetic(spread: float) -> None:
    """An integer-only reader of our own agrees with constriction's floats-in, integers-out model."""
    ids = np.random.default_rng(1).geometric(spread, 3000) * 11
    assert python_column(coding.write_column(ids, 2**40), 3000) == ids.tolist()


@given(st.lists(st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1)), max_size=30))
def test_varints(numbers: list[int]) -> None:
    data = coding.varints(np.array(numbers, dtype=np.int64))
    assert python_varints(data, len(numbers)) == (numbers, b"")
    assert coding.Reader(data).varints(len(numbers)).tolist() == numbers


# --- names of channels


def channels(*names: str) -> Tokens:
    spec = TokenSpec("timeseries", (8,), axes=("channel", "time"))
    shape = torch.tensor([[len(names), 3]])
    return Tokens(torch.zeros(1, 3 * len(names), 1, dtype=torch.long), spec, shape, names=names)


def with_head(tokens: Tokens, tail: bytes) -> bytes:
    """A file without names, its head continued by ``tail``, every checksum right."""
    body = dumps(replace(tokens, names=None))[8:]
    reader = coding.Reader(body[8:])
    head = bytes(reader.inflate(2**20, bitstream._DICTIONARY).data) + tail
    checked = body[:8] + coding.deflate(head, bitstream._DICTIONARY) + body[8 + reader.at :]
    return b"mmt\x01" + zlib.crc32(checked).to_bytes(4, "little") + checked


def test_files_keep_names_beside_the_writer_and_cost_nothing_without(tmp_path: Path) -> None:
    tokens = channels("load", "Öl °C", "")
    for codec in (None, "sax"):
        tokens.save(tmp_path / "a.mmt", codec=codec)
        assert load(tmp_path / "a.mmt").names == ("load", "Öl °C", "")
        assert bitstream.codec_name(tmp_path / "a.mmt") == codec
    assert with_head(tokens, b"") == dumps(replace(tokens, names=None))
    assert loads(with_head(tokens, b"\x00\x03\x01a\x01b\x01c")).names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"\x00", "codec must be"),  # neither a writer nor names
        (b"\x00\x02\x01a\x01b", "got 2 for 3 channels"),
        (b"\x00\x03\x01a\x01b", "where 0 bytes are left"),
        (b"\x00\x03\x01a\x01b\x02\xc3\x28", "utf-8"),
        (b"\x00\x03\x01a\x01b\xff\xff\xff\x7fc", "at most"),
        (b"\x00\xff\xff\xff\x7f", "at most"),
        (b"\x00\x03\x01a\x01b\x01c!", "too many"),
    ],
)
def test_names_that_do_not_fit_are_refused(tail: bytes, words: str) -> None:
    with pytest.raises(BitstreamError, match=words):
        loads(with_head(channels("a", "b", "c"), tail))


def test_names_have_a_bounded_size() -> None:
    assert len(loads(dumps(channels(*(f"variate-{i}" for i in range(5000))))).names or ()) == 5000
    with pytest.raises(BitstreamError, match="1048576 bytes together, got 2000000"):
        dumps(channels("a" * 1_000_000, "b" * 1_000_000))


# --- the codec that wrote a file


def test_a_file_says_which_codec_wrote_it_and_its_tokens_stay_the_same(tmp_path: Path) -> None:
    tokens = golden_tokens()
    tokens.save(tmp_path / "named.mmt", codec="wavtokenizer-causal")
    tokens.save(tmp_path / "plain.mmt")
    assert bitstream.codec_name(tmp_path / "named.mmt") == "wavtokenizer-causal"
    assert bitstream.codec_name(tmp_path / "plain.mmt") is None
    assert identical(Tokens.load(tmp_path / "named.mmt"), tokens)
    assert len(dumps(tokens, codec="x")) <= len(dumps(tokens)) + 4
    (tmp_path / "old.mmt").write_bytes(bytes.fromhex(GOLDEN))
    assert bitstream.codec_name(tmp_path / "old.mmt") is None


HOSTILE_NAMES = ("", " x", "x" * 256, "ü" * 128, "a\nb", "\x1b[2J", "a\x00", "\u202etxt.exe", "\u2028", "tab\t")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_would_not_print_are_refused_on_writing_and_on_reading(name: str, tmp_path: Path) -> None:
    with pytest.raises(BitstreamError, match="codec must be one printable line"):
        dumps(golden_tokens(), codec=name)
    (tmp_path / "a.mmt").write_bytes(forged(shared=b"\0" + sized(name.encode())))
    with pytest.raises(BitstreamError) as refused:
        bitstream.codec_name(tmp_path / "a.mmt")
    assert str(refused.value).isprintable()
    with pytest.raises(BitstreamError):
        Tokens.load(tmp_path / "a.mmt")


@pytest.mark.parametrize("tail", [b"\x05abc", b"\x01\xff", b"\x01ab", b"\xff\xff\xff\xff\x7f"])
def test_broken_names_are_refused(tail: bytes) -> None:
    with pytest.raises(BitstreamError):
        loads(forged(shared=b"\0" + tail))


# --- damaged files


@pytest.fixture(scope="module")
def intact() -> bytes:
    return dumps(golden_tokens())


def test_every_flipped_bit_is_noticed(intact: bytes) -> None:
    for bit in range(8 * len(intact)):
        broken = bytearray(intact)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            loads(bytes(broken))


def test_every_truncation_and_any_garbage_behind_is_noticed(intact: bytes) -> None:
    for end in range(len(intact)):
        with pytest.raises(BitstreamError):
            loads(intact[:end])
    for garbage in (b"\0", b"mmt", intact):
        with pytest.raises(BitstreamError):
            loads(intact + garbage)


@FUZZ
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused(data: bytes, dressed: bool) -> None:
    with pytest.raises(BitstreamError):
        loads(b"mmt\x01" + data if dressed else data)


def sealed(body: bytes) -> bytes:
    """A file whose checksum fits whatever it holds."""
    return b"mmt\x01" + zlib.crc32(body).to_bytes(4, "little") + body


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def packed(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return sized(coder.compress(data) + coder.flush())


def spec_json(**fields: object) -> bytes:
    spec = {"modality": "audio", "codebook_sizes": [5], "axes": ["time"]} | fields
    return json.dumps(spec, separators=(",", ":")).encode()


def forged(
    spec: bytes = spec_json(),
    shapes: tuple[int, ...] = (1, 2),
    side: bytes = b"\0",
    shared: bytes = b"\0",
    columns: bytes = b"\0\x04",
) -> bytes:
    """A file with a fitting checksum and fingerprint; by default a valid one of the ids 0 and 1 of a codebook of 5."""
    head = sized(spec) + b"".join(varint(n) for n in shapes) + side + shared
    return sealed(hashlib.sha256(spec).digest()[:8] + packed(head) + columns)


def tensor(name: bytes = b"x", tag: int = 5, extents: tuple[int, ...] = (1,), values: bytes = bytes(8)) -> bytes:
    """A table of one tensor, int64 by default."""
    return b"\x01" + sized(name) + bytes([tag]) + b"".join(varint(n) for n in (len(extents), *extents)) + values


def counted(model: bytes, coded: bytes = b"") -> bytes:
    return b"\x02" + packed(model) + sized(coded)


def test_a_forged_file_can_be_valid() -> None:
    assert loads(forged()).ids.tolist() == [[[0], [1]]]
    assert loads(forged(side=tensor())).side["x"].tolist() == [0]
    assert loads(forged(columns=counted(b"\x01\x03\x01"))).ids.tolist() == [[[3], [3]]]


WRONG_FIELDS: dict[str, list] = {
    "codebook_sizes": [[], [0], [-1], [2**63], [float("nan")], [1e400], ["5"], "5", 5, None, [[5]], [10**4000]],
    "axes": [[], "time", ["a", "a"], [["a"]], [1]],
    "hop": [[0], [1, 2], [float("inf")], "1"],
    "sample_rate": [float("nan"), float("inf"), -1, 0, "16000", 10**400],
    "levels": [[-1], [0, 1], [0.5]],
    "scales": [[0], 3],
    "scalable": ["all", ["none"], "scales"],
    "modality": ["", 5, None],
    "channels": [-1, 1.5, None],
}

HOSTILE = {
    "2^60 items": forged(shapes=(2**60,)),
    "2^25 items of three axes each": forged(spec_json(axes=["a", "b", "c"]), shapes=(2**25,)),
    "one item of 2^62 steps": forged(shapes=(1, 2**62)),
    "2^40 steps that cost no bits": forged(spec_json(codebook_sizes=[1]), shapes=(1, 2**40), columns=b"\0"),
    "2^40 steps of one id": forged(shapes=(1, 2**40), columns=counted(b"\x01\x03\x01")),
    "steps that wrap around to 0": forged(spec_json(axes=["a", "b"]), shapes=(1, 2**32, 2**32), columns=b"\0"),
    "steps that wrap around to 4": forged(spec_json(axes=["a", "b"]), shapes=(1, 2**62 + 1, 4), columns=b"\0"),
    "infinitely many steps": forged(spec_json(axes=[*"abcdefghijklmnopqrstuvwxyz"]), shapes=(1, *[2**62] * 25, 0)),
    "padding beyond bounds": forged(spec_json(codebook_sizes=[1]), shapes=(2000, 2**26, *[0] * 1999), columns=b"\0"),
    "fewer shapes than items": forged(shapes=(3, 1)),
    "a number of ten bytes": forged(side=b"\xff" * 10),
    "spec longer than allowed": forged(b'{"modality":"' + b"a" * 70000 + b'"}'),
    "spec nested deeply": forged(b"[" * 60000),
    "spec of broken text": forged(b"\xff\xfe{}"),
    "spec that is a list": forged(b"[1,2]"),
    "spec that is no JSON": forged(b"{modality"),
    "spec with an unknown key": forged(spec_json(colour="red")),
    "spec without codebooks": forged(b'{"modality":"audio"}'),
    "spec of another fingerprint": sealed(b"12345678" + packed(sized(spec_json()) + b"\1\2\0\0") + b"\0\x04"),
    **{f"spec with {k}={v!r:.30}": forged(spec_json(**{k: v})) for k, values in WRONG_FIELDS.items() for v in values},
    "side tensor of 2^59 numbers": forged(side=tensor(extents=(1, 2**59))),
    "side tensor of 2^61 times nothing": forged(side=tensor(extents=(1, 2**61, 0), values=b"")),
    "side tensor of 10^9 varints": forged(side=tensor(tag=5 + 128, extents=(1, 10**9))),
    "side tensor of 60 dimensions": forged(side=tensor(extents=(1,) * 60)),
    "side tensor of another batch": forged(side=tensor(extents=(2,), values=bytes(16))),
    "side tensor of no dimension": forged(side=tensor(extents=())),
    "side tensor of an unknown dtype": forged(side=tensor(tag=10)),
    "side tensor cut short": forged(side=tensor(values=bytes(5)), shared=b""),
    "bool of 2": forged(side=tensor(tag=0, values=b"\2")),
    "varint too large for int16": forged(side=tensor(tag=3 + 128, values=varint(2**15))),
    "name of broken text": forged(side=tensor(name=b"\xff")),
    "name twice": forged(side=b"\x02" + 2 * tensor()[1:]),
    "name too long": forged(side=tensor(name=b"a" * 256)),
    "10^6 tensors": forged(side=varint(10**6)),
    "bytes behind the head": forged(shared=b"\0\0"),
    "bytes behind the columns": forged(columns=b"\0\x04\0"),
    "no columns": forged(columns=b""),
    "unknown coding": forged(columns=b"\x03\x04"),
    "id outside its codebook": forged(columns=b"\0\xfc"),
    "uniform coding of one id": forged(spec_json(codebook_sizes=[1]), columns=b"\1\0"),
    "uniform coding cut short": forged(columns=b"\1\x7f"),
    "uniform coding too long": forged(columns=b"\1" + sized(b"\1" * 40)),
    "uniform coding that ends in zeros": forged(columns=b"\1" + sized(bytes(8))),
    "head of no bytes": sealed(bytes(8) + b"\0"),
    "head of 2^62 bytes": sealed(bytes(8) + varint(2**62)),
    "head that is no deflate": sealed(bytes(8) + sized(b"\xff" * 9)),
    "no body": sealed(b""),
    "model without ids": forged(columns=counted(b"\0")),
    "model of 2^40 ids": forged(columns=counted(varint(2**40))),
    "model with an id outside": forged(columns=counted(b"\x01\x05\x01")),
    "model with an id twice": forged(columns=counted(b"\x02\x01\x00\x01\x01", b"\1")),
    "model whose ids wrap around": forged(columns=counted(b"\x02\x01" + varint(2**63 - 1) + b"\x01\x01", b"\1")),
    "model with a zero count": forged(columns=counted(b"\x02\x01\x01\x00\x01", b"\1")),
    "model with bytes behind": forged(columns=counted(b"\x01\x03\x01\x00")),
    "model of one id with words": forged(columns=counted(b"\x01\x03\x01", b"\1")),
    "model bomb": forged(columns=counted(bytes(10**7))),
    "words too many": forged(columns=counted(b"\x02\x01\x01\x01\x01", b"\1" * 40)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_at_little_cost(data: bytes) -> None:
    tracemalloc.start()
    try:
        start = time.process_time()
        with pytest.raises(BitstreamError):
            loads(data)
        assert time.process_time() - start < 2
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_bombs_unfold_to_no_more_than_max_ids_allows() -> None:
    bomb = forged(side=tensor(tag=1, extents=(1, 10**7), values=bytes(10**7)))
    assert len(bomb) < 20_000
    tracemalloc.start()
    with pytest.raises(BitstreamError):
        loads(bomb, max_ids=1000)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_max_ids_counts_padding_and_every_codebook() -> None:
    spec = TokenSpec("audio", (4, 4))
    tokens = Tokens(torch.zeros(3, 10, 2, dtype=torch.long), spec, torch.tensor([[10], [0], [1]]))
    assert loads(dumps(tokens), max_ids=60) == tokens
    with pytest.raises(BitstreamError, match="max_ids=59"):
        loads(dumps(tokens), max_ids=59)


def damaged_parts(data: st.DataObject, parts: list[bytes]) -> list[bytes]:
    """Parts with up to three runs of bytes replaced, inserted or removed."""
    for _ in range(data.draw(st.integers(0, 3))):
        which = data.draw(st.integers(0, len(parts) - 1))
        part, at = parts[which], data.draw(st.integers(0, len(parts[which])))
        cut, new = data.draw(st.integers(0, 2)), data.draw(st.binary(max_size=3))
        parts = [*parts[:which], part[:at] + new + part[at + cut :], *parts[which + 1 :]]
    return parts


@FUZZ
@given(st.data())
def test_damage_under_a_fitting_checksum_gives_tokens_or_the_error(data: st.DataObject) -> None:
    """Damage inside the deflated head, the deflated model and the columns, as someone who mends checksums could do."""
    spec = spec_json(codebook_sizes=[5, 6])
    side = tensor(extents=(2, 1), values=bytes(range(16)))
    head = b"\x02\x02\x02" + side + tensor(b"vocabulary", 5 + 128, (2, 2), b"\1\2\3\4")
    model = b"\x02\x01\x01\x01\x03"  # the ids 1 and 2, once and thrice
    coded = coding._encode(np.array([0, 1, 1, 1]), coding._counted_model(np.array([1, 3])))
    parts = [head, b"\0\x29\xc0", model, coded]
    head, columns, model, coded = damaged = damaged_parts(data, parts)
    body = hashlib.sha256(spec).digest()[:8] + packed(sized(spec) + head) + columns + counted(model, coded)
    try:
        tokens = loads(sealed(body), max_ids=1000)
    except BitstreamError:
        assert damaged != parts
        return
    assert identical(loads(dumps(tokens)), tokens)


# --- files and arguments


def test_save_and_load(tmp_path: Path) -> None:
    tokens = clip()
    tokens.save(tmp_path / "a.mmt")
    save(tokens, str(tmp_path / "b.mmt"))
    assert Tokens.load(tmp_path / "a.mmt") == load(str(tmp_path / "b.mmt")) == tokens
    assert (tmp_path / "a.mmt").read_bytes() == dumps(tokens)


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "cut.mmt").write_bytes(dumps(clip())[:-1])
    (tmp_path / "song.wav").write_bytes(b"RIFF....")
    for name in ("cut.mmt", "song.wav"):
        with pytest.raises(BitstreamError, match=name):
            load(tmp_path / name)


def test_newer_versions_and_empty_files_say_so() -> None:
    with pytest.raises(BitstreamError, match="version 3"):
        loads(b"mmt\x03" + dumps(clip())[4:])
    with pytest.raises(BitstreamError, match=r"not a \.mmt file"):
        loads(b"")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(BitstreamError):
        load("/dev/zero")


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.mmt")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    with pytest.raises(IsADirectoryError):
        save(clip(), tmp_path)
    with pytest.raises(FileNotFoundError, match="deep"):
        save(clip(), tmp_path / "deep" / "a.mmt")


def test_a_failed_save_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(clip(seed=1), tmp_path / "a.mmt")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(bitstream.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save(clip(seed=2), tmp_path / "a.mmt")
    assert load(tmp_path / "a.mmt") == clip(seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mmt"]


@pytest.mark.parametrize(
    "extra",
    [{"x": torch.zeros(1, dtype=torch.complex64)}, {"x": torch.zeros((1,) * 17)}, {"n" * 256: torch.zeros(1)}],
)
def test_what_the_format_cannot_hold_is_refused_on_writing(extra: dict[str, Tensor]) -> None:
    with pytest.raises(BitstreamError, match="side"):
        dumps(replace(clip(), side=extra))


def test_tensors_of_any_layout_are_written() -> None:
    transposed = torch.arange(6.0).reshape(3, 2).t().requires_grad_()
    tokens = replace(clip(), shared={"t": transposed, "strided": torch.arange(10)[::3]})
    assert loads(dumps(tokens)) == tokens
