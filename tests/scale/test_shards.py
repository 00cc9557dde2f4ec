"""Shards of tokens: exact round trips of every modality's layout, constant memory, and one error for what is no intact shard."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizers_mm.scale import Item, Origin, ShardError, ShardReader, ShardWriter, find_shards, read_shard, shards
from tokenizers_mm.scale.columns import id_type
from tokenizers_mm.tokens import Tokens, TokenSpec

AUDIO = TokenSpec("audio", (4096,), hop=(320,), sample_rate=16000)
DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
LAYOUTS = {
    "audio": (AUDIO, (50,)),
    "residual": (TokenSpec("audio", (1024,) * 8, hop=(320,), sample_rate=24000, scalable="columns"), (75,)),
    "image": (TokenSpec("image", (16384,), axes=("height", "width"), hop=(16, 16), channels=3), (8, 11)),
    "scales": (TokenSpec("image", (4096,), axes=("scale",), scales=(1, 4, 9), scalable="scales", channels=3), (14,)),
    "eeg": (TokenSpec("eeg", (256, 256), axes=("channel", "time"), hop=(1, 200), sample_rate=200, channels=0), (3, 7)),
    "text": (TokenSpec("text", (8192,)), (0,)),
    "huge": (TokenSpec("audio", (2**62, 3)), (4,)),
}


def item(spec: TokenSpec = AUDIO, shape: tuple[int, ...] = (50,), seed: int = 0, key: str = "", label=None) -> Item:
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, size, math.prod(shape)) for size in spec.codebook_sizes], axis=-1)
    return Item(key or f"clip-{seed}", Tokens(torch.from_numpy(ids)[None], spec, torch.tensor([shape])), label)


def write(folder: Path, items: list[Item], **options: int) -> list[Path]:
    with ShardWriter(folder, Origin("toy", items[0].tokens.spec, "w1"), **options) as writer:
        for each in items:
            writer.write(each)
    return find_shards(folder)


def bits(tensor: Tensor) -> tuple:
    """Dtype, shape and bytes: equal for NaNs of equal bits."""
    return tensor.dtype, tensor.shape, tensor.contiguous().flatten().view(torch.uint8).tolist()


def identical(a: Item, b: Item) -> bool:
    plain = [replace(each.tokens, side={}) for each in (a, b)]
    sides = [{name: bits(tensor) for name, tensor in each.tokens.side.items()} for each in (a, b)]
    return (a.key, a.label) == (b.key, b.label) and plain[0] == plain[1] and sides[0] == sides[1]


@st.composite
def items(draw: st.DrawFn, spec: TokenSpec, key: str) -> Item:
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=len(spec.axes), max_size=len(spec.axes))))
    made = item(
        spec, shape, draw(st.integers(0, 99)), key, draw(st.none() | st.integers(-5, 2**40) | st.text(max_size=4))
    )
    side = {}
    for name in draw(st.lists(st.sampled_from(["size", "scale", "été"]), unique=True)):
        dtype, extents = draw(st.sampled_from(DTYPES)), (1, *draw(st.lists(st.integers(0, 3), max_size=2)))
        raw = draw(
            st.binary(min_size=math.prod(extents) * dtype.itemsize, max_size=math.prod(extents) * dtype.itemsize)
        )
        flat = torch.tensor(list(raw), dtype=torch.uint8)
        side[name] = (flat % 2 == 0 if dtype == torch.bool else flat.view(dtype)).reshape(extents)
    count = shape[0] if "channel" in spec.axes else spec.channels
    names = tuple(f"C{i}" for i in range(count)) if draw(st.booleans()) else None
    return replace(made, tokens=replace(made.tokens, side=side, names=names))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(sorted(LAYOUTS)))
def test_items_come_back_bit_for_bit(data: st.DataObject, layout: str) -> None:
    spec = LAYOUTS[layout][0]
    written = [data.draw(items(spec, f"item-{i}")) for i in range(data.draw(st.integers(1, 4)))]
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), written, shard_items=2)
        found = [each for path in paths for each in read_shard(path)]
    assert len(paths) == -(-len(written) // 2)
    assert all(identical(a, b) for a, b in zip(written, found, strict=True))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_ids_take_the_smallest_integers_and_other_programs_read_them(layout: str, tmp_path: Path) -> None:
    spec, shape = LAYOUTS[layout]
    made = item(spec, shape)
    (path,) = write(tmp_path, [made])
    table = pq.read_table(path)
    width = {"huge": pa.uint64(), "eeg": pa.uint8()}.get(layout, pa.uint16())
    assert table.schema.field("ids").type == pa.list_(width)
    assert table["ids"][0].as_py() == made.tokens.ids.flatten().tolist()
    assert table["shape"][0].as_py() == list(shape)
    assert id_type(spec).itemsize == width.bit_width // 8


def test_a_shard_costs_about_the_bits_of_its_ids(tmp_path: Path) -> None:
    made = [item(seed=seed, shape=(500,)) for seed in range(200)]
    (path,) = write(tmp_path, made)
    assert path.stat().st_size < 1.15 * sum(float(each.tokens.bits) for each in made) / 8


def test_shards_roll_over_by_items_and_bytes_and_go_on_after_those_that_are_there(tmp_path: Path) -> None:
    made = [item(seed=seed) for seed in range(7)]
    assert len(write(tmp_path, made[:5], shard_items=2)) == 3
    paths = write(tmp_path, made[5:], shard_bytes=100)  # 50 ids of two bytes fill one
    assert [path.name for path in paths] == [f"tokens-0000{i}.parquet" for i in range(5)]
    assert [key for path in paths for key in ShardReader(path).read_keys()] == [each.key for each in made]


def test_what_a_dead_process_left_is_no_shard(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, Origin("toy", AUDIO), shard_items=2)
    for seed in range(3):
        writer.write(item(seed=seed))
    writer._flush()  # the process dies here, with a part of a file on disk
    assert len(list(tmp_path.iterdir())) == 2
    assert [ShardReader(path).read_keys() for path in find_shards(tmp_path)] == [["clip-0", "clip-1"]]
    write(tmp_path, [item(seed=9)])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["tokens-00000.parquet", "tokens-00001.parquet"]


def test_reading_holds_one_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_GROUP_ITEMS", 3)
    (path,) = write(tmp_path, [item(seed=seed, label=seed) for seed in range(10)])
    reader, read = ShardReader(path), []
    monkeypatch.setattr(ShardReader, "group", lambda self, n, real=ShardReader.group: read.append(n) or real(self, n))
    assert reader.group_sizes == (3, 3, 3, 1)
    assert reader.read_labels() == list(range(10))
    for count, each in enumerate(reader):
        assert read == list(range(count // 3 + 1))
        assert each.label == count


def rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(change(pq.read_table(path)), path)


def metadata(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(table: pa.Table) -> pa.Table:
        facts = json.loads(table.schema.metadata[shards._METADATA])
        change(facts)
        return table.replace_schema_metadata({shards._METADATA: json.dumps(facts)})

    return rewritten(apply)


def column(name: str, values: list) -> Callable[[Path], None]:
    def apply(table: pa.Table) -> pa.Table:
        at = table.column_names.index(name)
        return table.set_column(at, table.field(name), pa.array(values, table.field(name).type))

    return rewritten(apply)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 255  # inside the first page
    path.write_bytes(data)


DAMAGE = {
    "empty": (lambda path: path.write_bytes(b""), "not an intact Parquet file"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), "not an intact Parquet file"),
    "a flipped byte": (flip, "not an intact Parquet file"),
    "text": (lambda path: path.write_text("no Parquet at all"), "not an intact Parquet file"),
    "another table": (rewritten(lambda table: pa.table({"a": [1]})), "no shard of tokens"),
    "no column": (rewritten(lambda table: table.drop_columns("side")), "must have a column 'side'"),
    "wider ids": (
        rewritten(lambda t: t.set_column(3, "ids", t["ids"].cast(pa.list_(pa.int64())))), "column 'ids' of type list<.*uint16"
    ),
    "no keys": (column("key", [None]), "a value of 'key'"),
    "an id too large": (column("ids", [[4096] * 50]), r"item 'clip-0': ids\[0, 0, 0\] must be in \[0, 4096\)"),
    "ids missing": (column("ids", [[1] * 49]), "49 ids are not 1 for each step"),
    "a negative grid": (column("shape", [[-50]]), "grid"),
    "no such dtype": (
        column("side", [[{"name": "a", "dtype": "object", "shape": [], "data": b""}]]), "dtype 'object'"
    ),
    "side cut short": (
        column("side", [[{"name": "a", "dtype": "int64", "shape": [2], "data": b"12345678"}]]), "8 bytes"
    ),
    "a later version": (metadata(lambda facts: facts.update(version=2)), "reads version 1"),
    "no spec": (metadata(lambda facts: facts.pop("spec")), "lack spec"),
    "a spec that is none": (metadata(lambda facts: facts["spec"].update(hop="x")), "no shard that can be read"),
    "another spec than it says": (metadata(lambda facts: facts.update(fingerprint="0" * 16)), "fingerprint"),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(DAMAGE))
def test_damage_is_one_error_that_names_the_file(what: str, tmp_path: Path) -> None:
    spoil, words = DAMAGE[what]
    (path,) = write(tmp_path, [item()])
    spoil(path)
    with pytest.raises(ShardError, match=words) as error:
        list(read_shard(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_tokens_of_another_codec_are_refused_and_stay(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [item()])
    other = TokenSpec("audio", (4096,), hop=(160,), sample_rate=16000)
    for wanted, words in ((Origin("toy", other), "with spec"), (Origin("toy", AUDIO, "w2"), "other weights")):
        with pytest.raises(ShardError, match=words):
            ShardReader(path, wanted)
        with pytest.raises(ShardError, match=words):
            ShardWriter(tmp_path, wanted)
    assert ShardReader(path, Origin("renamed", AUDIO, "w1")).read_keys() == ["clip-0"]


def test_what_no_shard_can_hold_is_refused_and_the_rest_is_written(tmp_path: Path) -> None:
    good = item()
    shared = replace(good.tokens, shared={"vocabulary": torch.zeros(3)})
    bad = {
        "dynamic vocabulary": Item("a", shared),
        "one item, got 2": Item("a", Tokens.cat([good.tokens, good.tokens])),
        "of one spec": item(TokenSpec("audio", (8,))),
        "must be a name": replace(good, tokens=good.tokens, key=""),
        "label": replace(good, label=1.5),
        "dtype": Item("a", replace(good.tokens, side={"phase": torch.zeros(1, dtype=torch.complex64)})),
    }
    with ShardWriter(tmp_path, Origin("toy", AUDIO)) as writer:
        for words, each in bad.items():
            with pytest.raises(
                (ValueError, TypeError), match=words if words != "must be a name" else "key must be a name"
            ):
                writer.write(each)
        writer.write(good)
    assert [each.key for path in find_shards(tmp_path) for each in read_shard(path)] == [good.key]


def test_missing_shards_and_wrong_sizes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no shard at"):
        ShardReader(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="shard_items must be at least 1"):
        ShardWriter(tmp_path, Origin("toy", AUDIO), shard_items=0)
    assert find_shards(tmp_path / "nowhere") == []
