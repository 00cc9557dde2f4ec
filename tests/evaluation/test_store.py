"""Resuming: a run that was killed goes on where it stopped, gives the same numbers, and never reads another run's."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_codecs import Coarse, write_clips

from tokenizers_mm.evaluation.coders import CodecCoder, Coded, codec_fingerprint
from tokenizers_mm.evaluation.report import CodecResult, ItemResult, Report
from tokenizers_mm.evaluation.run import evaluate as evaluate_all
from tokenizers_mm.evaluation.store import Record, Store
from tokenizers_mm.tokens import Tokens, TokenSpec

NAMES = tuple(f"{i:02}.wav" for i in range(11))
SPEC = TokenSpec("audio", (64,), hop=(320,), sample_rate=16000)


def evaluate(codec: Coarse, **options: object) -> Report:
    options = {"baselines": (), "metrics": ["mel", "fad"], "models": {"fad": embed}, "progress": False, **options}
    return evaluate_all([codec], **options)  # type: ignore[arg-type]


def embed(signal: Tensor, rate: int) -> Tensor:
    return signal[: len(signal) // 2 * 2].reshape(-1, 2)


def untimed(result: CodecResult) -> CodecResult:
    """Without what is never the same twice."""
    items = tuple(replace(item, encode_seconds=0, decode_seconds=0) for item in result.items)
    return replace(result, items=items, encode=None, decode=None)  # type: ignore[arg-type]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips", NAMES)


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many signals each call coded; stops the process after ``limit`` calls if that is set."""
    calls: list[int] = []
    whole = CodecCoder.code

    def code(self: CodecCoder, signals: Sequence[Tensor], *, with_stability: bool = False) -> list[Coded]:
        if len(calls) == 6:
            calls.clear()
            raise KeyboardInterrupt
        calls.append(len(signals))
        return whole(self, signals, with_stability=with_stability)

    monkeypatch.setattr(CodecCoder, "code", code)
    return calls


def test_a_run_that_was_stopped_goes_on_and_gives_the_same_numbers(clips: Path, tmp_path: Path, coded: list[int]):
    output = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Coarse(), data=clips, output=output)
    assert not output.exists()
    first = list((tmp_path / "r.json.partial").glob("*.jsonl"))
    assert len(first) == 1
    done = len(first[0].read_text().splitlines())
    assert done == 4  # the chunk that was measured
    with pytest.raises(KeyboardInterrupt):
        evaluate(Coarse(), data=clips, output=output)
    report = evaluate(Coarse(), data=clips, output=output)
    assert sum(coded) == len(NAMES) - 8
    assert not (tmp_path / "r.json.partial").exists()
    coded.clear()
    whole = evaluate(Coarse(), data=clips, output=tmp_path / "whole.json", batch_size=4)
    assert untimed(report.codecs[0]) == untimed(whole.codecs[0])
    assert report.codecs[0].metrics["fad"].mean is not None


def test_other_codecs_data_and_settings_start_anew(clips: Path, tmp_path: Path, coded: list[int]):
    output = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Coarse(), data=clips, output=output)
    other = Coarse()
    other.scale.data += 1
    assert codec_fingerprint(other) != codec_fingerprint(Coarse())
    for codec, options in ((other, {}), (Coarse(), {"metrics": ["mel"]}), (Coarse(), {"conditions": ["quiet"]})):
        coded[:] = []
        with pytest.raises(KeyboardInterrupt):
            evaluate(codec, data=clips, output=output, **options)
    assert len(list((tmp_path / "r.json.partial").glob("*.jsonl"))) == 4
    coded[:] = []
    with pytest.raises(KeyboardInterrupt):
        evaluate(Coarse(), data=clips, output=output, resume=False)
    assert len(list((tmp_path / "r.json.partial").glob("*.jsonl"))) == 1


def test_a_killed_process_leaves_what_it_finished_and_another_goes_on(clips: Path, tmp_path: Path, coded: list[int]):
    script = (
        "import sys, time, torch; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from toy_codecs import Coarse\n"
        "from tokenizers_mm.evaluation.run import evaluate\n"
        "class Slow(Coarse):\n"
        "    def _decode(self, tokens):\n"
        "        time.sleep(0.2)\n"
        "        return super()._decode(tokens)\n"
        f"evaluate([Slow()], data={str(clips)!r}, output={str(tmp_path / 'r.json')!r}, metrics=['mel'], "
        "baselines=(), progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    partial = tmp_path / "r.json.partial"
    for _ in range(1200):
        if any(path.stat().st_size for path in partial.glob("*.jsonl")) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    lines = next(partial.glob("*.jsonl")).read_text().splitlines()
    assert 1 <= len(lines) < len(NAMES)
    for line in lines:
        assert json.loads(line)["item"]["error"] is None
    coded[:] = [0] * 7  # past where it would stop
    options = {"data": clips, "metrics": ["mel"], "models": {}}
    report = evaluate(type("Slow", (Coarse,), {})(), output=tmp_path / "r.json", **options)
    assert sum(coded) == len(NAMES) - len(lines)
    assert untimed(report.codecs[0]).items == untimed(evaluate(Coarse(), **options).codecs[0]).items


def record(name: str, steps: int) -> Record:
    tokens = Tokens(torch.arange(steps)[None, :, None] % 64, SPEC, side={"size": torch.tensor([[320 * steps]])})
    item = ItemResult(name, size=(320 * steps,), seconds=0.02 * steps, steps=steps, metrics={"a": 0.1, "b": None})
    return Record(item, tokens, {"fad": (torch.rand(3, 2), torch.rand(3, 2))})


def test_a_half_line_is_cut_off_and_the_file_goes_on(tmp_path: Path):
    store = Store(tmp_path, "codec/ä", "clean", {"x": 1})
    for i in range(3):
        store.append(record(f"{i}.wav", i + 1))
    text = store.path.read_bytes()
    store.path.write_bytes(text[:-20])
    found = store.load()
    assert list(found) == ["0.wav", "1.wav"]
    store.append(record("2.wav", 9))
    found = store.load()
    assert found["2.wav"].item.steps == 9
    expected = record("1.wav", 2)
    assert (found["1.wav"].item, found["1.wav"].tokens) == (expected.item, expected.tokens)
    assert [x.shape for x in found["1.wav"].features["fad"]] == [(3, 2), (3, 2)]


def test_a_failed_item_is_tried_again(tmp_path: Path):
    store = Store(tmp_path, "c", "clean", {})
    store.append(Record(ItemResult("a.wav", error="out of memory")))
    assert store.load() == {}
    assert Store(None, "c", "clean", {}).load() == {}
