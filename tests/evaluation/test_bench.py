"""Benchmarks: counts against arithmetic by hand, turns and ratios, what is left out and why."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from rich.console import Console
from torch import nn

from tokenizers_mm import registry
from tokenizers_mm.evaluation import bench_tables
from tokenizers_mm.evaluation.bench import BOTH, BenchReport, Timing, bench
from tokenizers_mm.evaluation.bench_plan import STREAM, TASKS, Benchmark, load_benchmark
from tokenizers_mm.evaluation.contender import Contender, Peer, codec_contender
from tokenizers_mm.evaluation.meter import gemm_rate, metered, multiply_adds, peak_memory, run_alone
from tokenizers_mm.evaluation.storage import measure_storage

CONFIG = {
    "sample_rate": 16000,
    "strides": [2, 4, 5, 8],
    "n_filters": 2,
    "encoder_dim": 16,
    "dim": 16,
    "intermediate_dim": 32,
    "layers": 1,
    "quantizer": {"kind": "vq", "codebook_size": 16},
}


class Toy(nn.Module):
    """A peer of one convolution; broken where asked."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(1, 1, 9, padding=4), nn.Identity()])
        self.broken = broken

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.broken:
            raise RuntimeError("this one cannot")
        return self.layers[0](x)


def toy(broken: bool = False) -> Contender:
    module = Toy(broken)
    return Contender(module, 16000, 1, lambda x: x, module, lambda x: module(x).square().mean())


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    peers = {
        "toy": Peer("one convolution", toy, lambda: None),
        "broken": Peer("raises", partial(toy, broken=True), lambda: None),
        "absent": Peer("needs a package", toy, lambda: "no such package"),
    }
    real = registry.wing
    monkeypatch.setattr(
        registry, "wing", lambda m, room: SimpleNamespace(PEERS=peers) if room == "peers" else real(m, room)
    )
    monkeypatch.setattr("tokenizers_mm.evaluation.bench.peak_memory", lambda build, work: 1e6)
    card = yaml.safe_load((registry.data_path("codecs") / "wavtokenizer-75.yaml").read_text())
    spec = {"codebook_sizes": [16], "hop": [320], "sample_rate": 16000}
    registry.register({**card, "name": "tiny", "config": CONFIG, "spec": spec, "published": []})
    return Benchmark(
        name="test",
        modality="audio",
        codecs=("tiny",),
        peers=("toy", "broken", "absent"),
        reference="toy",
        seconds=0.1,
        batch=2,
        batch_seconds=0.05,
        train_seconds=0.04,
        rounds=3,
        warmup=1,
        parts={"tiny": ("encoder.layers", "head")},
        stored_ids=500,
    )


def test_a_run_times_everyone_in_turn_and_says_who_could_not(plan, tmp_path) -> None:
    report = bench(plan, threads=1, clock="cpu", output=tmp_path / "bench.json")
    for name in ("tiny", "toy"):
        assert all(len(report.seconds(name, task)) == 3 for task in (*TASKS, BOTH))
    assert report.left_out["absent"] == "no such package"
    assert report.left_out["broken, decode"] == "this one cannot"
    assert report.ratios("toy", "decode") == [1.0, 1.0, 1.0]
    assert [cost.contender for cost in report.costs] == ["tiny", "toy"]
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["machine"]["threads"] == 1
    assert {row["format"] for row in found["storage"]} == {"mmt", "npz", "int16"}
    console = Console(width=200, record=True)
    for table in bench_tables.tables(report):
        console.print(table)
    text = console.export_text() + " ".join(bench_tables.notes(report))
    assert "there and back" in text
    assert "absent left out: no such package" in text


def test_tasks_that_the_reference_cannot_do_have_times_and_no_ratios() -> None:
    timings = [
        Timing("a", "encode", [2.0], [2.0]),
        Timing("b", "encode", [1.0], [1.0]),
        Timing("b", "decode", [3.0], [3.0]),
    ]
    report = SimpleNamespace(
        seconds=lambda name, task: next((t.wall for t in timings if (t.contender, t.task) == (name, task)), []),
        ratios=lambda name, task: [2.0] if task == "encode" else [],
        benchmark={"reference": "a"},
    )
    assert bench_tables._timed(report, "b", "encode").endswith("2.00x (2.00-2.00)")
    assert bench_tables._timed(report, "b", "decode") == "3000.0"


def test_signals_have_as_many_channels_as_the_benchmark_says(plan, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    peer = Peer(
        "notes channels",
        lambda: replace(toy(), encode=lambda x: seen.append(x.shape[1]) or x, decode=None),
        lambda: None,
    )
    real = registry.wing
    monkeypatch.setattr(
        registry, "wing", lambda m, r: SimpleNamespace(PEERS={"toy": peer}) if r == "peers" else real(m, r)
    )
    bench(plan.model_copy(update={"channels": 3, "peers": ("toy",), "tasks": ()}), threads=1)
    assert set(seen) == {3}


def test_the_threads_are_as_before_and_the_networks_back_in_evaluation(plan) -> None:
    before = torch.get_num_threads()
    bench(plan, threads=1)
    assert torch.get_num_threads() == before


def test_a_reference_that_cannot_run_is_refused(plan) -> None:
    with pytest.raises(ValueError, match="'absent', which cannot run: no such package"):
        bench(plan.model_copy(update={"reference": "absent"}))
    with pytest.raises(ValueError, match=r"unknown peers \['mp3'\]"):
        bench(plan.model_copy(update={"peers": ("mp3",)}))
    with pytest.raises(ValueError, match="no part 'nothing'"):
        bench(plan.model_copy(update={"parts": {"tiny": ("nothing",)}}))


def test_streams_are_timed_per_hop_and_a_codec_beside_its_pair(plan) -> None:
    card = registry.get_card("tiny")
    registry.register(card.model_copy(update={"name": "causal", "config": {**CONFIG, "causal": True}}))
    plan = plan.model_copy(
        update={"codecs": ("causal", "tiny"), "pairs": {"causal": "toy"}, "parts": {}, "tasks": STREAM, "seconds": 0.2}
    )
    report = bench(plan, threads=1, clock="cpu")
    assert [t.contender for t in report.timings if t.task == "encode"] == ["causal", "toy", "tiny", "broken"]
    assert {t.task for t in report.timings} == {"encode", "decode", *STREAM}
    assert list(report.streams) == ["causal"]
    assert report.streams["causal"].hop == 0.02
    for task in STREAM:
        assert len(report.seconds("causal", task)) == 3
        assert report.seconds("tiny", task) == report.seconds("toy", task) == []
    assert not any("stream" in name for name in report.left_out)
    console = Console(width=200, record=True)
    for table in bench_tables.tables(report):
        console.print(table)
    text = console.export_text()
    ratio = 1 / statistics.median(report.ratios("causal", "encode", "toy"))
    assert f"{ratio:.3f} (" in text
    assert "ms per pushed hop" in text
    assert "train step" not in text


class Patches(nn.Module):
    """A peer whose signals have no time: means of 4x4 pixels, which only encodes where asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def patches(decodes: bool, right: bool = True) -> Contender:
    module, codecs = Patches(), []

    def ids(codes: torch.Tensor) -> torch.Tensor:
        found = codecs[0].encode(codes).ids.flatten(1)
        return found if right else found + 1

    def encode(x: torch.Tensor) -> torch.Tensor:
        module(x)
        return x

    return Contender(
        module, None, 3, encode, (lambda x: x) if decodes else None, module, None, (0.0, 1.0), codecs.append, ids
    )


def test_signals_without_time_are_timed_each_and_pairs_share_weights(plan, monkeypatch) -> None:
    peers = {
        "both": Peer("there and back", partial(patches, True), lambda: None),
        "half": Peer("encodes", partial(patches, False, right=False), lambda: None),
    }
    real = registry.wing
    monkeypatch.setattr(registry, "wing", lambda m, r: SimpleNamespace(PEERS=peers) if r == "peers" else real(m, r))
    card = yaml.safe_load((registry.data_path("codecs") / "vqgan-128.yaml").read_text())
    card["config"] |= {"channels": 16}
    registry.register({**card, "name": "small"})
    registry.register({**card, "name": "other"})
    plan = Benchmark(
        name="test",
        modality="image",
        codecs=("small", "other"),
        peers=("both", "half"),
        pairs={"small": "both", "other": "half"},
        reference="both",
        size=(16, 24),
        rounds=1,
        warmup=1,
        tasks=("encode", "decode"),
        stored_ids=100,
    )
    report = bench(plan, threads=1)
    assert report.unit == "image"
    assert report.same_ids == {"small": 1.0, "other": 0.0}
    costs = {cost.contender: cost for cost in report.costs}
    assert costs["both"].multiply_adds == {"encode": 16 * 24 * 3, "decode": 0}
    assert set(costs["half"].multiply_adds) == set(costs["half"].peak_bytes) == {"encode"}
    assert report.seconds("half", "decode") == report.seconds("half", BOTH) == []
    console = Console(width=200, record=True)
    for table in bench_tables.tables(report):
        console.print(table)
    text = console.export_text()
    assert "ms per image" in text
    assert "100.00%" in text
    with pytest.raises(ValueError, match="size is needed, since signals of image have no seconds"):
        bench(plan.model_copy(update={"size": ()}))


def test_a_bitrate_takes_the_first_codebooks(plan) -> None:
    card = registry.get_card("tiny")
    config = {**CONFIG, "quantizer": {"kind": "rvq", "codebook_size": 16, "num_codebooks": 4}}
    spec = replace(card.spec, codebook_sizes=(16,) * 4, levels=(), scalable="columns")
    residual = card.model_copy(update={"name": "residual", "config": config, "spec": spec})
    assert codec_contender(residual, kbps=0.4).module.spec.num_codebooks == 2
    with pytest.raises(ValueError, match=r"kbps must be at least 0\.2"):
        codec_contender(residual, kbps=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kbps": {"mimi": 1.1}}, r"kbps: \['mimi'\] are not among"),
        ({"pairs": {"tiny": "mp3"}}, r"pairs: \['mp3'\] are not among"),
        ({"peers": ("toy", "tiny")}, "unknown peers|codecs and peers at once"),
    ],
)
def test_names_that_are_not_in_the_benchmark_are_refused(plan, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench(plan.model_copy(update=wrong))


def test_ratios_pair_the_rounds() -> None:
    timings = [Timing("a", "encode", [2.0, 8.0], [1.0, 1.0]), Timing("b", "encode", [1.0, 2.0], [1.0, 1.0])]
    timings += [Timing("a", "decode", [1.0, 1.0], []), Timing("b", "decode", [2.0, 1.0], [])]
    report = BenchReport({"reference": "a"}, "", "", {}, {}, "wall", (0, 0), {}, timings, [], [], {})
    assert report.ratios("b", "encode") == [2.0, 4.0]
    assert report.ratios("b", BOTH) == [1.0, 3.0]
    assert report.seconds("c", "encode") == report.ratios("c", "encode") == []


def test_multiply_adds_are_those_of_the_arithmetic() -> None:
    layers = nn.ModuleList([nn.Conv1d(4, 6, 5, stride=2), nn.Conv1d(6, 6, 3, groups=6)])
    lstm, linear = nn.LSTM(6, 8, 2, batch_first=True), nn.Linear(8, 3)
    module = nn.ModuleDict({"convs": layers, "lstm": lstm, "linear": linear})

    def work() -> None:
        y = torch.randn(1, 4, 25)
        for layer in layers:
            y = layer(y)  # 11, then 9 steps
        linear(lstm(y.mT)[0])

    found = multiply_adds(work, module, ["convs", "lstm", "linear"])
    convs = 11 * 6 * 4 * 5 + 9 * 6 * 3
    recurrent = 9 * 4 * 8 * (6 + 8 + 8 + 8)
    assert found == {"": convs + recurrent + 9 * 8 * 3, "convs": convs, "lstm": recurrent, "linear": 9 * 8 * 3}


def test_parts_add_up_what_the_clock_says_while_they_run() -> None:
    now = iter(range(100))
    module = nn.Sequential(nn.Identity(), nn.ModuleList())
    with metered(module, ["0"], lambda: float(next(now))) as spent:
        module[0](torch.ones(1))
        module[0](torch.ones(1))
    module[0](torch.ones(1))
    assert spent == {"0": 2.0}
    assert next(now) == 4


def test_peak_memory_counts_what_was_there_at_once_and_not_the_parents() -> None:
    ballast = torch.ones(100 << 18)
    found = peak_memory(partial(torch.ones, 40 << 18), torch.clone)
    if found is None:
        pytest.skip("this system doesn't say")
    assert 80e6 < found < 80e6 + ballast.nbytes / 2


def test_a_process_that_fails_says_why() -> None:
    assert run_alone(partial(divmod, 7, 2))[1] == (3, 1)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_alone(partial(divmod, 7, 0))


def test_rates_are_positive_and_files_as_large_as_entropy_allows() -> None:
    assert min(gemm_rate(lambda: float(torch.rand(1)) + 1e-9, repeats=2).values()) != 0
    rows = {row.format: row for row in measure_storage("wavtokenizer-75", 20000, 1, "wall")}
    assert rows["int16"].bits_per_id == 16
    assert 10 < rows["mmt"].bits_per_id < 12.5 < rows["npz"].bits_per_id
    assert all(row.write > 0 and row.read > 0 for row in rows.values())


@pytest.mark.parametrize("name", ["audio", "eeg", "image", "pretrained", "timeseries", "totem"])
def test_the_shipped_benchmarks_name_cards_peers_and_parts_that_exist(name: str) -> None:
    plan = load_benchmark(name)
    assert plan.reference in plan.peers
    assert {*plan.peers, *plan.pairs.values()} <= registry.wing(plan.modality, "peers").PEERS.keys()
    assert not set(plan.codecs) & set(plan.peers)
    cards = {codec: registry.get_card(codec) for codec in plan.codecs}
    for codec in plan.parts:
        with torch.device("meta"):
            network = registry.build(cards[codec])
        for part in plan.parts[codec]:
            network.get_submodule(part)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("name: a\nmodality: audio\ncodecs: []\nreference: b\nspeed: 3", "speed: Extra inputs"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(tmp_path, text, message) -> None:
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"b\.yaml.*{message}"):
        load_benchmark(tmp_path / "b.yaml")
    with pytest.raises(
        ValueError,
        match=r"no benchmark 'nope': expected one of \['audio', 'eeg', 'image', 'pretrained', 'text', 'timeseries', 'totem'\]",
    ):
        load_benchmark("nope")


def test_peers_compete_in_their_published_sizes() -> None:
    pytest.importorskip("transformers")
    peers = registry.wing("audio", "peers").PEERS
    with torch.device("meta"):
        able = {name: peer for name, peer in peers.items() if peer.unavailable() is None}
        sizes = {name: sum(p.numel() for p in peer.build().module.parameters()) for name, peer in able.items()}
    wanted = {"encodec-24k": 14_851_810, "dac-24k": 74_653_857, "mimi-24k": 79_308_609}
    assert {name: sizes.get(name) for name in wanted} == wanted
