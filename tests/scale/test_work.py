"""The work loop: tokens of the codec in the order of the inputs, broken inputs left out, restarts without duplicates."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.scale import Item, Origin, ShardReader, ShardWriter, find_shards, read_shard
from tokenizers_mm.scale.inputs import Input, examples, find_inputs
from tokenizers_mm.scale.work import Broken, Loaded, broken_list, encode_all, tokenize
from tokenizers_mm.tokens import Tokens, TokenSpec


class Loudness(Codec):
    """Mean absolute value of each ten samples, in 100 steps; counts the signals of each call."""

    padding_safe = True

    def __init__(self, limit: float = 1.0) -> None:
        super().__init__()
        self.limit, self.calls = limit, []
        self.spec = TokenSpec("audio", (100,), hop=(10,), sample_rate=1000)

    def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
        self.calls.append(len(x))
        if (x.abs() > self.limit).any():
            raise RuntimeError("too loud")
        x = torch.nn.functional.pad(x[:, 0], (0, -x.shape[-1] % 10))
        ids = (x.reshape(len(x), -1, 10).abs().mean(dim=-1) * 99).long()
        return Tokens(ids[..., None], self.spec, -(-lengths[:, None] // 10))

    def _decode(self, tokens: Tokens) -> Tensor:
        return tokens.ids[:, None, :, 0].repeat_interleave(10, dim=-1) / 99

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        raise NotImplementedError


def wave(seed: int, samples: int = 50) -> Tensor:
    return torch.rand(1, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def run(folder: Path, codec: Codec, source, **options):
    """What a run gives, and all items that are on disk then."""
    with ShardWriter(folder, Origin("toy", codec.spec), shard_items=3) as writer:
        done = {key for path in find_shards(folder) for key in ShardReader(path).read_keys()}
        tally = tokenize(source, codec, writer, done=done, **options)
    return tally, [item for path in find_shards(folder) for item in read_shard(path)]


def test_tokens_are_the_codecs_in_the_order_of_the_signals(tmp_path: Path) -> None:
    codec, sizes = Loudness(), [50, 20, 50, 55, 20, 50, 1]
    tally, items = run(tmp_path, codec, [(f"k{i}", wave(i, n), i) for i, n in enumerate(sizes)], batch_size=4)
    assert [(item.key, item.label) for item in items] == [(f"k{i}", i) for i in range(7)]
    assert all(
        item.tokens == codec.encode(wave(i, n)[None]) for i, (item, n) in enumerate(zip(items, sizes, strict=True))
    )
    assert codec.calls[:2] == [4, 3]
    assert (tally.items, tally.broken, tally.done_before) == (7, 0, 0)
    assert tally.steps == sum(-(-n // 10) for n in sizes)
    assert tally.bits == pytest.approx(tally.steps * np.log2(100))


def test_batches_of_a_codec_that_minds_padding_have_one_size() -> None:
    codec = Loudness()
    codec.padding_safe = False
    found = list(encode_all([(f"k{i}", wave(i, n), None) for i, n in enumerate([50, 20, 50, 20])], codec))
    assert [int(item.tokens.lengths[0]) for item in found] == [5, 2, 5, 2]
    assert codec.calls == [2, 2]


def test_what_is_broken_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    def unreadable() -> Loaded:
        raise OSError("no\nsuch tape")

    def breaks_off() -> Iterator[Tensor]:
        yield wave(0)
        raise ValueError("damaged at 0.5 s")

    source = [
        ("good", wave(1), None),
        ("unreadable", unreadable, None),
        ("loud", wave(2) * 1.9, None),
        ("long", lambda: Loaded(iter([wave(3), wave(4)])), None),
        ("damaged", lambda: Loaded(breaks_off()), None),
        ("flat", torch.zeros(50), None),
        ("last", wave(5), None),
    ]
    path = tmp_path / "broken.tsv"
    path.write_text("of an earlier run")
    tally, items = run(tmp_path / "out", Loudness(limit=0.8), source, on_broken=broken_list(path), window=0.03)
    assert [item.key for item in items] == ["good", "long", "last"]
    assert items[1].tokens == Loudness().encode(torch.cat([wave(3), wave(4)], dim=-1)[None])
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert [row[0] for row in rows] == ["unreadable", "loud", "damaged", "flat"]
    assert [row[1] for row in rows[:3]] == [
        "OSError: no such tape",
        "RuntimeError: too loud",
        "ValueError: damaged at 0.5 s",
    ]
    assert tally.broken == 4


def test_a_run_that_was_killed_goes_on_without_duplicates(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    source = [(f"k{i}", wave(i), None) for i in range(11)]
    writer = ShardWriter(tmp_path, Origin("toy", Loudness().spec), shard_items=3)  # never closed: the process is gone

    def dies() -> Iterator[tuple]:
        yield from source[:8]
        raise Killed

    with pytest.raises(Killed):
        tokenize(dies(), Loudness(), writer, batch_size=2)
    before = {path.name: path.read_bytes() for path in find_shards(tmp_path)}
    assert sum(len(ShardReader(path)) for path in find_shards(tmp_path)) == 6  # two shards; of the open one nothing
    tally, items = run(tmp_path, Loudness(), source)
    assert (tally.items, tally.done_before) == (5, 6)
    assert [item.key for item in items] == [f"k{i}" for i in range(11)]
    assert {path.name: path.read_bytes() for path in find_shards(tmp_path)[:2]} == before


def test_no_more_signals_than_a_batch_are_in_memory() -> None:
    loaded = 0

    def source() -> Iterator[tuple]:
        nonlocal loaded
        for i in range(20):
            loaded += 1
            yield f"k{i}", wave(i), None

    for count, result in enumerate(encode_all(source(), Loudness(), batch_size=4)):
        assert isinstance(result, Item)
        assert loaded - count <= 4


def test_tokens_that_no_shard_holds_stop_the_run(tmp_path: Path) -> None:
    class Dynamic(Loudness):
        def _encode(self, x: Tensor, lengths: Tensor) -> Tokens:
            return replace(super()._encode(x, lengths), shared={"vocabulary": torch.zeros(3)})

    with pytest.raises(ValueError, match=r"k0: tokens share .* a dynamic vocabulary has no meaning"):
        run(tmp_path, Dynamic(), [("k0", wave(0), None)])


# -- inputs ------------------------------------------------------------------------------------------------------------


def sounds(folder: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, wave(i, 100 + i)[0].numpy(), 1000, subtype="FLOAT")
    return folder


def tar(path: Path, folder: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.add(file, file.relative_to(folder).as_posix())
    return path


def listed(found: list[Input]) -> list[tuple]:
    return [(each.key, each.label) for each in found]


def test_keys_and_classes_of_folders_manifests_and_tars(tmp_path: Path) -> None:
    data = sounds(tmp_path / "data", ["cat/1_a.wav", "dog/0_b.wav", "dog/12_c.wav"])
    (data / "notes.md").write_text("no sound")
    by = {label: listed(find_inputs([data], [".wav"], label=label)) for label in (None, "folder", "prefix")}
    assert by[None] == [("cat/1_a.wav", None), ("dog/0_b.wav", None), ("dog/12_c.wav", None)]
    assert [label for _, label in by["folder"]] == ["cat", "dog", "dog"]
    assert [label for _, label in by["prefix"]] == [1, 0, 12]
    packed = tar(tmp_path / "train-0.tar", data)
    assert listed(find_inputs([packed], [".wav"], label="folder")) == [(f"train-0/{k}", v) for k, v in by["folder"]]
    (data / "manifest.csv").write_text(
        "path,split,kind\ndog/0_b.wav,train,bark\ncat/1_a.wav,test,\ndog/12_c.wav,train,3\n"
    )
    assert listed(find_inputs([data], [".wav"], label="kind")) == [
        ("cat/1_a.wav", None), ("dog/0_b.wav", "bark"), ("dog/12_c.wav", "3")
    ]  # fmt: skip
    assert listed(find_inputs([data / "manifest.csv"], [".wav"], split="test")) == [("cat/1_a.wav", None)]


def test_inputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    data = sounds(tmp_path / "data", ["a.wav", "b/a.wav"])
    compressed = tar(tmp_path / "c.tar", data, "w:gz")
    empty = tar(tmp_path / "e.tar", tmp_path / "e")
    for inputs, options, words in (
        ([data / "a.wav", data / "b"], {}, "both hold 'a.wav'"),
        ([data], {"label": "kind"}, "no input has 'kind'"),
        ([data], {"split": "train"}, "split needs a manifest"),
        ([compressed], {}, "not an uncompressed tar"),
        ([empty], {}, "holds no files that end in .wav"),
        ([tmp_path / "no.tar"], {}, "no tar at"),
        ([tmp_path / "no"], {}, "does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            find_inputs(inputs, [".wav"], **options)


def test_members_of_a_tar_and_long_files_read_as_files_do(tmp_path: Path) -> None:
    data, codec = sounds(tmp_path / "data", ["a.wav", "b.wav"]), Loudness()
    files = registry.wing("audio", "files")
    found = find_inputs([data, tar(tmp_path / "t.tar", data)], files.EXTENSIONS)
    for window, long in ((1.0, False), (0.05, True)):
        made = list(examples(found, files, codec.spec, window=window))
        assert [example.source().is_long for example in made] == [long] * 4
        items = list(encode_all(made, codec, window=window))
        assert [item.key for item in items] == ["a.wav", "b.wav", "t/a.wav", "t/b.wav"]
        for i, item in enumerate(items):
            assert item.tokens == codec.encode(wave(i % 2, 100 + i % 2)[None])


def test_lines_are_items_and_a_damaged_file_is_one_broken_input(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"eins\n\nzwei\r\ndrei")
    (tmp_path / "b.txt").write_bytes(b"good\nb\xffd\nnever read\n")
    files, codec = registry.wing("text", "files"), registry.load("bytes")
    found = find_inputs([tmp_path], files.EXTENSIONS)
    results = list(encode_all(examples(found, files, codec.spec, lines=True), codec))
    assert [result.key for result in results] == ["a.txt:0", "a.txt:2", "a.txt:3", "b.txt:0", "b.txt"]
    assert [codec.decode(result.tokens)[0] for result in results[:4]] == ["eins", "zwei", "drei", "good"]
    assert isinstance(results[4], Broken)
    assert "line 1 is not UTF-8" in results[4].error
    with pytest.raises(ValueError, match="audio files have no lines"):
        list(examples(found, registry.wing("audio", "files"), Loudness().spec, lines=True))
