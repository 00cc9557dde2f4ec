"""``mmtok stream`` as a process between pipes, and the token packets that it writes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenizers_mm as tm
from tokenizers_mm import cli
from tokenizers_mm.audio import WavTokenizer
from tokenizers_mm.coding import BitstreamError
from tokenizers_mm.packets import PacketReader, PacketWriter

COMMAND = [sys.executable, "-c", "from tokenizers_mm.cli import main; main()", "stream"]
CAUSAL = {
    "sample_rate": 8000,
    "strides": [4, 5, 8],
    "encoder": "stft",
    "quantizer": {"kind": "rvq", "codebook_size": 32, "num_codebooks": 2},
    "encoder_dim": 16,
    "encoder_layers": 1,
    "dim": 32,
    "intermediate_dim": 32,
    "layers": 1,
    "attention": False,
    "num_embeddings": 0,
    "causal": True,
}
HOP = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("causal")
    WavTokenizer(**CAUSAL).save_pretrained(path)
    return path


def pcm(samples: int, seed: int = 0) -> bytes:
    return (np.random.default_rng(seed).normal(size=samples) * 3000).astype("<i2").tobytes()


def signal(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768)[None, None]


def in_process(monkeypatch: pytest.MonkeyPatch, data: bytes, *args: object) -> bytes:
    """What ``mmtok stream`` writes for ``data`` on its standard input."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    with pytest.raises(SystemExit) as stop:
        cli.main(["stream", *map(str, args)])
    assert stop.value.code in (0, None), stop.value.code
    return written.getvalue()


# -- as a process ------------------------------------------------------------------------------------------------------


def test_samples_come_back_while_others_are_still_to_come(folder: Path) -> None:
    data = pcm(23 * HOP + 77)
    wanted = tm.load(folder).reconstruct(signal(data))[0, 0].numpy()
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, str(folder)], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(data[:7001])  # an odd count: half a sample waits
        process.stdin.flush()
        first = process.stdout.read(2 * 15 * HOP)  # would wait forever if the command waited for the end
        process.stdin.write(data[7001:] + b"\x00")  # and half a sample at the very end
        process.stdin.close()
        rest, report = process.stdout.read(), process.stderr.read().decode()
    got = np.frombuffer(first + rest, "<i2")
    assert got.shape == wanted.shape
    assert np.abs(got - wanted.clip(-1, 1 - 2**-15) * 32768).max() <= 0.51
    assert process.returncode == 0
    assert "latency 20 ms to encode" in report
    assert "x real time" in report
    assert "the last 1 byte(s)" in report


def test_a_listener_that_leaves_is_no_fault(folder: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, str(folder)], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(pcm(50 * HOP))
        process.stdin.close()
        report = process.stderr.read().decode()
    assert process.returncode == 0
    assert "Traceback" not in report
    assert "Broken" not in report


# -- in this process ---------------------------------------------------------------------------------------------------


def test_packets_between_two_commands_carry_the_offline_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pcm(211 * HOP + 5)  # more steps than one packet holds
    codec = tm.load(folder)
    packets = in_process(monkeypatch, data, folder, "--encode-only")
    parts = list(PacketReader(io.BytesIO(packets)))
    wanted = codec.encode(signal(data))
    assert torch.equal(torch.cat([tokens.ids for tokens, _ in parts], dim=1), wanted.ids)
    assert [samples for _, samples in parts][-1] == 211 * HOP + 5
    assert len(packets) < 500 + 212 * 2 * 5 / 8 + 20
    decoded = in_process(monkeypatch, packets, folder, "--decode-only", "--format", "f32le")
    wave = torch.from_numpy(np.frombuffer(decoded, "<f4").copy())
    torch.testing.assert_close(wave, codec.decode(wanted)[0, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("flags", [(), ("--encode-only",)])
def test_nothing_in_is_nothing_out(folder: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]) -> None:
    out = in_process(monkeypatch, b"", folder, *flags)
    if flags:
        assert in_process(monkeypatch, out, folder, "--decode-only") == b""
    else:
        assert out == b""


def test_floats_in_and_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = 0.1 * torch.randn(1, 1, 5 * HOP + 3)
    out = in_process(monkeypatch, wave.numpy().tobytes(), folder, "--format", "f32le")
    got = torch.from_numpy(np.frombuffer(out, "<f4").copy())
    torch.testing.assert_close(got, tm.load(folder).reconstruct(wave)[0, 0], atol=1e-5, rtol=1e-4)


def test_faults_are_one_line(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    WavTokenizer(**{**CAUSAL, "causal": False}).save_pretrained(tmp_path / "offline")
    other = {**CAUSAL, "quantizer": {"kind": "fsq", "levels": [3, 3]}}
    WavTokenizer(**other).save_pretrained(tmp_path / "other")
    packets = in_process(monkeypatch, pcm(9 * HOP), folder, "--encode-only")
    capsys.readouterr()
    for args, data, words in [
        ((tmp_path / "offline",), b"", "not causal"),
        ((folder, "--encode-only", "--decode-only"), b"", "exclude each other"),
        ((folder, "--decode-only"), b"RIFF" + bytes(100), "a token stream starts with"),
        ((folder, "--decode-only"), packets[:-3], "ends before its last packet"),
        ((tmp_path / "other", "--decode-only"), packets, "another codec"),
        ((folder, "--format", "f32le"), np.float32("nan").tobytes(), "NaN"),
    ]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        with pytest.raises(SystemExit) as stop:
            cli.main(["stream", *map(str, args)])
        assert stop.value.code == 1
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("error: ")
        assert words in message


# -- packets -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.lists(st.integers(0, 300), max_size=4), st.integers(0)
)
def test_packets_carry_any_tokens(sizes: list[int], steps: list[int], seed: int) -> None:
    spec = tm.TokenSpec("audio", tuple(sizes), hop=(10,), sample_rate=100)
    generator = torch.Generator().manual_seed(seed % 2**31)
    parts = [torch.stack([torch.randint(n, (1, t), generator=generator) for n in sizes], dim=-1) for t in steps]
    file = io.BytesIO()
    writer = PacketWriter(file, spec)
    for i, ids in enumerate(parts):
        writer.write(tm.Tokens(ids, spec), 12345 if i == len(parts) - 1 else None)
    if not parts:
        writer.write(tm.Tokens(torch.zeros(1, 0, len(sizes)).long(), spec), 12345)
    file.seek(0)
    reader = PacketReader(file)
    assert reader.spec == spec
    read = list(reader)
    assert read[-1][1] == 12345
    assert all(samples is None for _, samples in read[:-1])
    wanted = torch.cat(parts, dim=1) if parts else torch.zeros(1, 0, len(sizes)).long()
    assert torch.equal(torch.cat([tokens.ids for tokens, _ in read], dim=1), wanted)
    assert file.read() == b""


@given(st.binary(max_size=400), st.data())
def test_damaged_packets_are_refused_in_words(noise: bytes, data: st.DataObject) -> None:
    spec = tm.TokenSpec("audio", (33, 5), hop=(10,), sample_rate=100)
    file = io.BytesIO()
    PacketWriter(file, spec).write(tm.Tokens(torch.ones(1, 7, 2).long(), spec), 70)
    whole = file.getvalue()
    at = data.draw(st.integers(0, len(whole)))
    if at < len(whole):  # what is cut short never passes for whole
        with pytest.raises(BitstreamError):
            list(PacketReader(io.BytesIO(whole[:at])))
    for damaged in (noise, whole[:at] + noise):
        try:
            for tokens, _ in PacketReader(io.BytesIO(damaged)):
                assert bool((tokens.ids < torch.tensor(tokens.spec.codebook_sizes)).all())
        except BitstreamError:
            pass
