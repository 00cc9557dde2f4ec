"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from rich.console import Console

import tokenizers_mm as tm
from tokenizers_mm import bitstream, cli, quickstart, registry, transcode
from tokenizers_mm.audio import WavTokenizer

ROOT = Path(registry.__file__).parents[1]
CONFIG = {
    "sample_rate": 16000,
    "strides": [2, 4, 5, 8],
    "n_filters": 4,
    "encoder_dim": 32,
    "dim": 32,
    "intermediate_dim": 64,
    "layers": 1,
    "quantizer": {"kind": "fsq", "levels": [8, 8]},
}


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """A tiny codec's folder, and a registered card ``tiny`` with the same weights."""
    folder = tmp_path / "site" / "checkpoints" / "tiny"
    WavTokenizer(**CONFIG).save_pretrained(folder)
    card = yaml.safe_load((registry.data_path("codecs") / "wavtokenizer-75.yaml").read_text())
    del card["published"]
    spec = {"codebook_sizes": [64], "hop": [320], "sample_rate": 16000}
    path = tmp_path / "site" / "codecs" / "tiny.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({**card, "name": "tiny", "config": CONFIG, "spec": spec, "checkpoint": "tiny"}))
    tm.register(path)
    return folder


def sound(path: Path, seconds: float = 0.5, rate: int = 44100, channels: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(seconds * rate)) / rate
    sf.write(path, np.stack([0.3 * np.sin(2 * np.pi * 220 * (c + 1) * t) for c in range(channels)], axis=1), rate)
    return path


def run(*args: object) -> None:
    """``mmtok`` in this process; a success returns, as the exit code of typer is 0."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    assert stop.value.code in (0, None), stop.value.code


def fails(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """What ``mmtok`` complains of; it must exit with 1 and print one line, no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("error: ")
    return message


# -- the registry ------------------------------------------------------------------------------------------------------


def test_list_shows_rates_and_filters(capsys: pytest.CaptureFixture[str]) -> None:
    run("list", "*-40")
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if "wavtokenizer-40" in line).split()
    assert row[1:] == ["24000", "40", "0.48", "4096", "Apache-2.0", "convert"]
    assert text.startswith("audio: 1\n")
    assert "wavtokenizer-75" not in text
    run("list", "--json")
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["wavtokenizer-75"]["kbps"] == 0.9
    assert "no codec matches" in fails(capsys, "list", "-m", "smell")


def test_info_shows_parameters_taxonomy_and_published_weights(capsys: pytest.CaptureFixture[str]) -> None:
    run("info", "wavtokenizer-40")
    text = capsys.readouterr().out
    for part in ("72,111,714", "0.48 kbit/s", "CNN+RNN", "novateur/WavTokenizer", "Ji et al."):
        assert part in text
    assert "did you mean" in fails(capsys, "info", "wavtokeniser")


# -- encode and decode -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rate", "channels"), [
    ("a.wav", 8000, 1), ("a.flac", 44100, 2), ("a.ogg", 22050, 2), ("a.mp3", 48000, 1), ("a.WAV", 16000, 1),
])  # fmt: skip
def test_any_file_encodes_and_decodes_to_its_length(
    codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, rate: int, channels: int
) -> None:
    source = sound(tmp_path / "in" / name, rate=rate, channels=channels)
    seconds = sf.info(source).frames / rate
    run("encode", source, "-c", codec)
    tokens = tm.Tokens.load(source.with_suffix(".mmt"))
    assert tokens.spec == tm.load(codec).spec
    assert int(tokens.side["size"][0, -1]) == pytest.approx(seconds * 16000, abs=2)
    run("decode", source.with_suffix(".mmt"), "-o", tmp_path / "out.flac")
    info = sf.info(tmp_path / "out.flac")
    assert (info.samplerate, info.channels, info.frames) == (16000, 1, int(tokens.side["size"][0, -1]))
    assert "kbit/s real" in capsys.readouterr().out


def test_tokens_of_the_command_line_are_those_of_the_library(codec: Path, tmp_path: Path) -> None:
    source = sound(tmp_path / "a.wav", rate=16000, channels=1)
    run("encode", source, "-c", "tiny", "-o", tmp_path / "b.mmt")
    wave = torch.from_numpy(sf.read(source, dtype="float32")[0])[None, None]
    model = tm.load(codec)
    assert tm.Tokens.load(tmp_path / "b.mmt") == model.encode(wave)
    run("decode", tmp_path / "b.mmt", "-o", tmp_path / "b.wav")
    decoded = torch.from_numpy(sf.read(tmp_path / "b.wav", dtype="float32")[0])
    torch.testing.assert_close(decoded, model.reconstruct(wave)[0, 0].clamp(-1, 1), atol=1e-4, rtol=0)


def test_folder_keeps_its_structure_and_survives_a_broken_file(
    codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound(tmp_path / "in" / "x" / "a.wav")
    sound(tmp_path / "in" / "b.flac")
    (tmp_path / "in" / "x" / "broken.wav").write_bytes(b"RIFF....")
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    with pytest.raises(SystemExit) as stop:
        cli.main(["encode", str(tmp_path / "in"), "-c", str(codec), "-o", str(tmp_path / "out")])
    assert stop.value.code == 1
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == {"x/a.mmt", "b.mmt"}
    errors = capsys.readouterr().err
    assert "broken.wav" in errors
    assert "1 of 3 files failed" in errors
    run("decode", tmp_path / "out", "-o", tmp_path / "back", "--format", "ogg")
    assert {p.name for p in (tmp_path / "back").rglob("*.ogg")} == {"a.ogg", "b.ogg"}


def test_many_items_of_a_file_decode_to_many_files(codec: Path, tmp_path: Path) -> None:
    tm.load(codec).encode(torch.randn(3, 1, 5000) / 10, torch.tensor([5000, 400, 321])).save(tmp_path / "batch.mmt")
    run("decode", tmp_path / "batch.mmt", "-c", codec, "-o", tmp_path / "out")
    frames = {p.name: sf.info(p).frames for p in (tmp_path / "out").iterdir()}
    assert frames == {"batch-000.wav": 5000, "batch-001.wav": 400, "batch-002.wav": 321}


def test_long_file_is_encoded_in_pieces(codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of the network sees more than a window and its context, however long the file is."""
    longest = 0

    def watch(self: WavTokenizer, x: torch.Tensor, lengths: torch.Tensor) -> tm.Tokens:
        nonlocal longest
        longest = max(longest, x.shape[-1])
        return encode(self, x, lengths)

    encode = WavTokenizer._encode
    monkeypatch.setattr(WavTokenizer, "_encode", watch)
    source = sound(tmp_path / "long.wav", seconds=30, rate=16000, channels=1)
    run("encode", source, "-c", codec, "--window", "2")
    assert int(tm.Tokens.load(tmp_path / "long.mmt").lengths[0]) == 30 * 50
    assert longest <= 4 * 16000


def test_nothing_is_overwritten_without_force(codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sound(tmp_path / "a.wav")
    before = source.read_bytes()
    run("encode", source, "-c", codec)
    assert "exists" in fails(capsys, "encode", source, "-c", codec)
    assert "exists" in fails(capsys, "decode", tmp_path / "a.mmt", "-c", codec)
    assert source.read_bytes() == before
    run("decode", tmp_path / "a.mmt", "-c", codec, "--force")
    assert source.read_bytes() != before


def test_info_opens_a_token_file(codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tm.load(codec).encode(torch.randn(2, 1, 3200) / 10).save(tmp_path / "a.mmt")
    run("info", tmp_path / "a.mmt")
    text = capsys.readouterr().out
    assert "2 item(s)" in text
    assert "fits tiny" in text
    assert "0.3 kbit/s nominal" in text


# -- failures ----------------------------------------------------------------------------------------------------------


def test_expected_failures_are_one_line(codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sound(tmp_path / "a.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.wav").touch()
    (tmp_path / "bad.mmt").write_bytes(b"not tokens")
    cases = [
        (("encode", source, "-c", "wavtokenizer-40"), "no weights ship"),
        (("encode", source, "-c", "nonsense"), "no codec named"),
        (("encode", tmp_path / "nowhere.wav", "-c", codec), "no such file"),
        (("encode", tmp_path / "empty", "-c", codec), "holds no file"),
        (("encode", tmp_path / "empty.wav", "-c", codec), "empty file"),
        (("decode", tmp_path / "bad.mmt", "-c", codec), "mmt"),
        (("decode", tmp_path / "nowhere.mmt"), "no such file"),
        (("info", tmp_path / "bad.mmt"), "mmt"),
        (("train", "no-such-recipe"), "recipe"),
        (("convert", "wavtokenizer", tmp_path / "nowhere.ckpt", tmp_path / "out"), "nowhere.ckpt"),
    ]
    for args, words in cases:
        assert words in fails(capsys, *args), args


def test_tokens_of_no_or_several_cards_ask_for_the_codec(
    codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, spec = tmp_path / "a.mmt", tm.TokenSpec("audio", (63,), hop=(320,), sample_rate=16000)
    tm.Tokens(torch.zeros(1, 3, 1, dtype=torch.long), spec).save(path)
    assert f"no codec with weights has these tokens' spec {spec.fingerprint}" in fails(capsys, "decode", path)
    assert "another codec's" in fails(capsys, "decode", path, "-c", codec)
    card = registry.get_card("tiny")
    tm.register(card.model_copy(update={"name": "twin"}))
    with pytest.raises(ValueError, match="tiny, twin"):
        transcode.codec_name_for(card.spec)


def test_a_file_is_decoded_by_the_codec_that_it_names(
    codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twins share a spec, so that only the file's own word tells them apart."""
    tiny = registry.get_card("tiny")
    tm.register(tiny.model_copy(update={"name": "twin"}))
    source = sound(tmp_path / "a.wav")
    run("encode", source, "-c", "twin", "-o", tmp_path / "a.mmt")
    assert bitstream.codec_name(tmp_path / "a.mmt") == "twin"
    run("info", tmp_path / "a.mmt")
    assert "written by twin" in capsys.readouterr().out
    run("decode", tmp_path / "a.mmt", "-o", tmp_path / "out.wav")
    run("decode", tmp_path / "a.mmt", "-c", "tiny", "-o", tmp_path / "tiny.wav")
    assert "was written by twin, not by tiny" in " ".join(capsys.readouterr().err.split())
    assert transcode.codec_name_for(tiny.spec, "twin") == "twin"


def test_a_folder_leaves_the_fingerprint_of_its_weights(codec: Path, tmp_path: Path) -> None:
    shutil.copytree(codec, tmp_path / "copy")
    name = transcode.writer_name(codec)
    assert name == transcode.writer_name(tmp_path / "copy")
    assert str(tmp_path) not in name
    spec = registry.get_card("tiny").spec
    assert transcode.codec_name_for(spec, name) == "tiny"  # whose weights these are
    model = tm.load(codec)
    next(model.parameters()).data += 1
    model.save_pretrained(tmp_path / "other")
    assert transcode.writer_name(tmp_path / "other") != name


@pytest.mark.parametrize("writer", ["hf:owner/name", "weights:0123456789abcdef", "gone", "wavtokenizer-40"])
def test_a_writer_that_is_not_here_is_named_and_nobody_else_decodes(codec: Path, writer: str) -> None:
    """Another codec with the same spec would make noise of these tokens."""
    with pytest.raises(ValueError, match=f"written by '{writer}'"):
        transcode.codec_name_for(registry.get_card("tiny").spec, writer)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no codec named"):
        cli.main(["info", "nonsense", "--debug"])


def test_two_sources_of_one_target_are_refused(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="would both become"):
        transcode.plan([tmp_path], [".wav", ".flac"], ".mmt")


# -- help and start-up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["list", "info", "encode", "decode", "train", "eval", "convert", "quickstart"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(*command.split(), "--help")
    text = capsys.readouterr().out
    assert "Usage: mmtok " + command in text
    if command != "quickstart":
        assert f"Example: mmtok {command}" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tokenizers_mm import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'transformers', 'torchaudio', 'matplotlib', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    run("--version")
    assert capsys.readouterr().out.strip() == f"tokenizers_mm {tm.__version__}"


# -- quickstart --------------------------------------------------------------------------------------------------------


def test_quickstart_writes_tokens_sound_picture_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "quickstart"
    run("quickstart", "-o", folder, "--train-seconds", "0")
    text = " ".join(capsys.readouterr().out.split())
    files = {path.suffix for path in folder.iterdir()}
    assert {".mmt", ".wav", ".png", ".json"} <= files
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.mmt")}
    for name, size in sizes.items():
        assert f"as {name} ({size} bytes)" in text
    assert json.loads((folder / "report.json").read_text())["codecs"][0]["codec"] == "wavtokenizer-speech-16k"
    assert "wavtokenizer-speech-16k" in (folder / "report.html").read_text(encoding="utf-8")
    assert "Done." in text


@pytest.mark.slow
def test_quickstart_trains_with_a_falling_loss(tmp_path: Path) -> None:
    quickstart._train(tmp_path, 60, Console())
    losses = quickstart.loss_curve(tmp_path / "run")
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert tm.load(tmp_path / "run" / "codec").spec.modality == "audio"
