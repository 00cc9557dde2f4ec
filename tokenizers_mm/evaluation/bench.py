"""Speed: codecs and peers timed in turns in one run, so that whatever else the machine does meets all of them alike.

A ratio is the median over rounds of one contender's time by the reference's in the same round.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation.bench_plan import STREAM, TASKS, Benchmark, load_benchmark
from tokenizers_mm.evaluation.contender import Contender, Peer, codec_contender
from tokenizers_mm.evaluation.environment import provenance
from tokenizers_mm.evaluation.meter import CLOCKS, gemm_rate, metered, multiply_adds, peak_memory
from tokenizers_mm.evaluation.storage import Storage, measure_storage

BOTH = "there and back"


@dataclass
class Timing:
    """The rounds of one contender at one task, in seconds per unit of signal (a training step: per step; streams: per hop).

    A unit is a second where signals have time, else one signal.
    """

    contender: str
    task: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass
class Cost:
    """What a contender has to do, whatever the machine.

    Args:
        multiply_adds: Per unit of signal, of ``encode`` and of ``decode``.
        parts: Part to its multiply-adds and its seconds, both per unit of signal.
        peak_bytes: Most memory that encoding one signal takes, and there and back, weights included, imports not; None if
            unknown.
    """

    contender: str
    definition: str
    parameters: int
    multiply_adds: dict[str, float]
    parts: dict[str, tuple[float, float]]
    peak_bytes: dict[str, float | None] = field(default_factory=dict)


@dataclass
class Streaming:
    """What a streaming contender's sessions take and hold back, in seconds.

    Args:
        hop: Audio of one step, what a push brings.
        encode_latency: From a sample's arrival to its token.
        decode_latency: Samples' lag behind their token.
    """

    hop: float
    encode_latency: float
    decode_latency: float


@dataclass
class BenchReport:
    """All that a run of a benchmark found.

    ``streams`` holds the contenders that stream, ``unit`` what times are per, ``same_ids`` the share of ids that a codec and its
    pair of the same weights have in common.
    """

    benchmark: dict
    command: str
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    clock: Literal["wall", "cpu"]
    load: tuple[float, float]
    gemm: dict[str, float]
    timings: list[Timing]
    costs: list[Cost]
    storage: list[Storage]
    left_out: dict[str, str]
    streams: dict[str, Streaming] = field(default_factory=dict)
    unit: str = "signal"
    same_ids: dict[str, float] = field(default_factory=dict)

    def seconds(self, contender: str, task: str) -> list[float]:
        """Rounds on the chosen clock, of ``BOTH`` the sums of encoding and decoding; none if the contender couldn't do it."""
        if task == BOTH:
            return [sum(pair) for pair in zip(*(self.seconds(contender, half) for half in TASKS[:2]), strict=False)]
        found = [t for t in self.timings if (t.contender, t.task) == (contender, task)]
        return getattr(found[0], self.clock) if found else []

    def ratios(self, contender: str, task: str, reference: str | None = None) -> list[float]:
        """How many times faster than the reference (the benchmark's, or another contender), round by round."""
        others = self.seconds(self.benchmark["reference"] if reference is None else reference, task)
        return [a / b for a, b in zip(others, self.seconds(contender, task), strict=False)]

    def limit(self, cost: Cost, task: str) -> float:
        """Seconds per unit of signal that the multiply-adds alone take at the best measured rate of products."""
        return cost.multiply_adds[task] / max(self.gemm.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def bench(
    benchmark: str | Path | Benchmark,
    *,
    threads: int | None = None,
    clock: Literal["wall", "cpu"] = "wall",
    output: str | Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> BenchReport:
    """Time the codecs and peers of a benchmark.

    Args:
        benchmark: A shipped benchmark's name, a path, or one made in code.
        threads: For PyTorch to use; by default as many as it does.
        clock: ``"wall"``, or ``"cpu"`` for the seconds of processor that all threads took: on a busy machine with one thread.
        output: JSON file for the report.
        progress: Told what comes next.

    Raises:
        ValueError: If the benchmark or a codec in it is wrong, or the reference can't run here.
    """
    plan = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(benchmark)
    before, load = torch.get_num_threads(), os.getloadavg()[0]
    torch.set_num_threads(threads or before)
    try:
        builders, left_out = _builders(plan)
        contenders = {name: build() for name, (_, build) in builders.items()}
        same_ids = _share_weights(plan, contenders)
        gemm = gemm_rate(CLOCKS[clock])
        timings = [timing for task in _tasks(plan) for timing in _time(plan, task, contenders, left_out, progress)]
        costs = []
        done = {(timing.contender, timing.task) for timing in timings}
        able = {name for name, c in contenders.items() if (name, "encode" if c.decode is None else "decode") in done}
        for name, (definition, build) in ((name, builders[name]) for name in builders if name in able):
            progress(f"{name}: multiply-adds, parts, memory")
            costs.append(_cost(plan, name, definition, contenders[name], clock))
            costs[-1].peak_bytes = _peaks(plan, contenders[name], build)
        progress("bitstream")
        storage = [row for name in plan.codecs for row in measure_storage(name, plan.stored_ids, plan.rounds, clock)]
        report = BenchReport(
            benchmark=plan.model_dump(mode="json"),
            **provenance(["transformers"]),
            clock=clock,
            load=(load, os.getloadavg()[0]),
            gemm=gemm,
            timings=timings,
            costs=costs,
            storage=storage,
            left_out=left_out,
            streams={name: _streaming(c.streams) for name, c in contenders.items() if c.streams is not None},
            unit=plan.unit,
            same_ids=same_ids,
        )
    finally:
        torch.set_num_threads(before)
    if output is not None:
        Path(output).write_text(report.to_json(), encoding="utf-8")
    return report


Builders = dict[str, tuple[str, Callable[[], Contender]]]


def _builders(plan: Benchmark) -> tuple[Builders, dict[str, str]]:
    """How to make each contender that can run here, and why the others can't."""
    peers: Mapping[str, Peer] = registry.wing(plan.modality, "peers").PEERS if plan.peers else {}
    if unknown := sorted(set(plan.peers) - peers.keys()):
        raise ValueError(f"benchmark {plan.name!r}: unknown peers {unknown}: expected some of {sorted(peers)}")
    if both := sorted(set(plan.codecs) & set(plan.peers)):
        raise ValueError(
            f"benchmark {plan.name!r}: {both} are codecs and peers at once: their rows need names of their own"
        )
    left_out = {name: reason for name in plan.peers if (reason := peers[name].unavailable())}
    for key, codecs, others in (("kbps", plan.kbps, ()), ("pairs", plan.pairs, plan.pairs.values())):
        if unknown := sorted({*codecs} - {*plan.codecs} | {*others} - {*plan.peers}):
            raise ValueError(f"benchmark {plan.name!r}: {key}: {unknown} are not among its codecs and peers")
    found: Builders = {}
    for name in plan.codecs:  # each followed by its pair, so that they meet the same weather
        card = registry.get_card(name)
        found[name] = card.summary, partial(codec_contender, card, plan.kbps.get(name))
        if (peer := plan.pairs.get(name)) and peer not in left_out:
            found[peer] = peers[peer].definition, peers[peer].build
    found |= {name: (peers[name].definition, peers[name].build) for name in plan.peers if name not in left_out}
    if plan.channels is not None:
        found = {name: (what, partial(_with, build, channels=plan.channels)) for name, (what, build) in found.items()}
    if signals := getattr(registry.wing(plan.modality, "peers"), "signals", None) if plan.peers else None:
        found = {name: (what, partial(_with, build, signals=signals)) for name, (what, build) in found.items()}
    if plan.reference not in found:
        reason = left_out.get(plan.reference, "it is neither among the codecs nor the peers")
        raise ValueError(f"benchmark {plan.name!r} compares with {plan.reference!r}, which cannot run: {reason}")
    return found, left_out


def _with(build: Callable[[], Contender], **changes: Any) -> Contender:
    return replace(build(), **changes)


def _share_weights(plan: Benchmark, contenders: dict[str, Contender]) -> dict[str, float]:
    """Give every pair that can the codec's weights; the share of ids that are the same then."""
    same = {}
    for codec, peer in plan.pairs.items():
        ours, theirs = contenders[codec], contenders.get(peer)
        if theirs is None or theirs.adopt is None or theirs.ids is None or not isinstance(ours.module, Codec):
            continue
        theirs.adopt(ours.module)
        x = ours.noise(1, _size(plan, ours, plan.seconds))
        with torch.no_grad():
            found = theirs.ids(theirs.encode(x)), ours.module.encode(x).ids.flatten(1)
        same[codec] = float((found[0] == found[1]).double().mean())
    return same


def _size(plan: Benchmark, contender: Contender, seconds: float) -> tuple[int, ...]:
    """Samples along each axis of a signal.

    Raises:
        ValueError: If the contender's signals have no time and the benchmark gives no size.
    """
    if plan.size:
        return plan.size
    if contender.sample_rate is None:
        raise ValueError(f"benchmark {plan.name!r}: size is needed, since signals of {plan.modality} have no seconds")
    return (round(seconds * contender.sample_rate),)


def _units(plan: Benchmark, seconds: float) -> float:
    """How many units of signal one signal is."""
    return 1.0 if plan.size else seconds


def _tasks(plan: Benchmark) -> list[str]:
    return [task for task in (*TASKS, *STREAM) if task in (*TASKS[:2], *plan.tasks)]


def _time(
    plan: Benchmark,
    task: str,
    contenders: dict[str, Contender],
    left_out: dict[str, str],
    progress: Callable[[str], None],
) -> list[Timing]:
    """All rounds of a task, in turns."""
    work: dict[str, tuple[Callable[[], object], float]] = {}
    for name, contender in contenders.items():
        if (task in STREAM and contender.streams is None) or (task.startswith("decode") and contender.decode is None):
            continue
        try:
            work[name] = _prepare(plan, task, contender)
            for _ in range(plan.warmup):
                work[name][0]()
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            left_out[f"{name}, {task}"] = " ".join(str(error).split())[:200]
            work.pop(name, None)
    timings = {name: Timing(name, task) for name in work}
    for index in range(plan.rounds):
        progress(f"{task}: round {index + 1} of {plan.rounds}")
        for name, (run, amount) in work.items():
            wall, cpu = CLOCKS["wall"](), CLOCKS["cpu"]()
            run()
            timings[name].wall.append((CLOCKS["wall"]() - wall) / amount)
            timings[name].cpu.append((CLOCKS["cpu"]() - cpu) / amount)
    for contender in contenders.values():
        contender.module.eval().zero_grad(set_to_none=True)
    return list(timings.values())


def _prepare(plan: Benchmark, task: str, contender: Contender) -> tuple[Callable[[], object], float]:
    """What to run, and by how much to divide its seconds."""
    if contender.streams is not None and task in STREAM:
        return _stream(contender.streams, task, contender.noise(1, _size(plan, contender, plan.seconds)))
    if task == "train step":
        return _train_step(contender, contender.noise(plan.batch, _size(plan, contender, plan.train_seconds))), 1.0
    batch, seconds = (plan.batch, plan.batch_seconds) if task.endswith("batch") else (1, plan.seconds)
    x, amount = contender.noise(batch, _size(plan, contender, seconds)), batch * _units(plan, seconds)
    if task.startswith("encode"):
        return torch.no_grad()(partial(contender.encode, x)), amount
    assert contender.decode is not None
    with torch.no_grad():
        codes = contender.encode(x)
    return torch.no_grad()(partial(contender.decode, codes)), amount


def _train_step(contender: Contender, x: Tensor) -> Callable[[], None]:
    contender.module.train()
    optimizer = torch.optim.AdamW([p for p in contender.module.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        contender.loss(x).backward()
        optimizer.step()

    return step


def _stream(codec: Codec, task: str, x: Tensor) -> tuple[Callable[[], object], int]:
    """A session that takes the signal hop by hop, or its tokens step by step; and how many pushes that is."""
    assert codec.spec.hop is not None
    hop = codec.spec.hop[-1]
    hops = x[..., : x.shape[-1] // hop * hop].split(hop, dim=-1)
    session = codec.stream()
    steps = [tokens for chunk in hops if (tokens := session.push(chunk)).ids.shape[1]]

    def run() -> None:
        if task == "stream encode":
            encoder = codec.stream()
            for chunk in hops:
                encoder.push(chunk)
        else:
            decoder = codec.stream(decode=True)
            for tokens in steps:
                decoder.push(tokens)

    return run, len(hops) if task == "stream encode" else len(steps)


def _streaming(codec: Codec) -> Streaming:
    assert codec.spec.frame_rate is not None
    return Streaming(
        1 / codec.spec.frame_rate, codec.stream().latency_seconds, codec.stream(decode=True).latency_seconds
    )


def _cost(plan: Benchmark, name: str, definition: str, contender: Contender, clock: str) -> Cost:
    parts, module = plan.parts.get(name, ()), contender.module
    x, units = contender.noise(1, _size(plan, contender, plan.seconds)), _units(plan, plan.seconds)
    with torch.no_grad():
        codes = contender.encode(x)
        halves: dict[str, Callable[[], object]] = {"encode": partial(contender.encode, x)}
        if contender.decode is not None:
            halves["decode"] = partial(contender.decode, codes)
        counts = {half: multiply_adds(work, module, parts) for half, work in halves.items()}
        rounds = []
        for _ in range(plan.rounds if parts else 0):
            with metered(module, parts, CLOCKS[clock]) as spent:
                for work in halves.values():
                    work()
            rounds.append(spent)
    per_part = {
        part: (
            sum(count[part] for count in counts.values()) / units,
            statistics.median(spent[part] for spent in rounds) / units,
        )
        for part in parts
    }
    return Cost(
        name,
        definition,
        sum(p.numel() for p in module.parameters()),
        {half: count[""] / units for half, count in counts.items()},
        per_part,
    )


def _peaks(plan: Benchmark, contender: Contender, build: Callable[[], Contender]) -> dict[str, float | None]:
    """Most memory of encoding a signal, and of there and back, each in a process of its own."""
    size = _size(plan, contender, plan.seconds)
    peaks = {"encode": peak_memory(build, partial(_encode, size=size))}
    if contender.decode is not None:
        peaks[BOTH] = peak_memory(build, partial(_there_and_back, size=size))
    return peaks


def _encode(contender: Contender, size: tuple[int, ...]) -> Any:
    with torch.no_grad():
        return contender.encode(contender.noise(1, size))


def _there_and_back(contender: Contender, size: tuple[int, ...]) -> None:
    assert contender.decode is not None
    codes = _encode(contender, size)
    with torch.no_grad():
        contender.decode(codes)
