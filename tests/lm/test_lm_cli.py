"""``mmtok lm`` and ``tm.load_lm``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tokenizers_mm as tm
from tokenizers_mm.audio.wavtokenizer import WavTokenizer
from tokenizers_mm.cli import main
from tokenizers_mm.cli.common import number
from tokenizers_mm.lm import TokenLM


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A codec, a model of its tokens, and a sound."""
    folder = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    codec = WavTokenizer(
        sample_rate=8000, strides=(4, 4), n_filters=4, dim=16, intermediate_dim=16, layers=1, attention=False,
        quantizer={"kind": "vq", "codebook_size": 8},
    )  # fmt: skip
    codec.save_pretrained(folder / "codec")
    streams = [{"name": "sound", "codec": str(folder / "codec")}]
    TokenLM(streams, classes=["cat", "dog"], dim=16, layers=1, heads=2).save_pretrained(folder / "model")
    wave = 0.3 * torch.randn(1, 8000)
    tm.registry.wing("audio", "files").write(folder / "wave.wav", wave, codec.spec)
    return folder / "codec", folder / "model", folder / "wave.wav"


def run(args: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(args)
    assert done.value.code == 0


def test_samples_go_on_from_a_file(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    codec_folder, model, wave = folders
    run(["lm", "sample", str(model), "-n", "2", "-l", "dog", "-l", "0", "--prompt", str(wave), "--prompt-steps", "30",
          "--seconds", "0.1", "--seed", "1", "-g", "1.5", "-o", str(tmp_path / "out")])  # fmt: skip
    tokens = tm.Tokens.load(tmp_path / "out" / "samples.mmt")
    assert tokens.lengths.tolist() == [50, 50]
    codec = tm.load(codec_folder)
    files = tm.registry.wing("audio", "files")
    begun = codec.encode(files.read(wave, codec.spec)[None])
    assert tokens.ids[:, :30].equal(begun.ids[:, :30].expand(2, -1, -1))
    assert len(list((tmp_path / "out").glob("sample-*.wav"))) == 2


def test_scores_are_those_of_the_model(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    codec_folder, model, wave = folders
    run(["lm", "score", str(model), str(wave)])
    codec, network = tm.load(codec_folder), tm.load_lm(model)
    tokens = codec.encode(tm.registry.wing("audio", "files").read(wave, codec.spec)[None])
    bits = float(network.score(tokens, "sound").sum() / torch.tensor(2.0).log())
    assert number(bits) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["sample", "{model}", "-s", "picture"], "stream must be one of sound"),
        (["sample", "{model}", "-l", "mouse"], "name of a class"),
        (["sample", "{model}", "--shape", "five"], "shape must be whole numbers"),
        (["sample", "{model}", "--shape", "5", "--seconds", "1"], "one of shape and seconds"),
        (["sample", "{model}", "--seconds", "0"], "seconds must be positive"),
        (["sample", "{codec}"], "must hold a language model"),
        (["sample", "nothing"], "no language model 'nothing'"),
        (["score", "bpe-small", "{wave}"], "no language model over tokens"),
    ],
)
def test_what_cannot_be_is_one_line(
    folders: tuple[Path, Path, Path], args: list[str], what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    codec, model, wave = folders
    args = [arg.format(codec=codec, model=model, wave=wave) for arg in args]
    with pytest.raises(SystemExit):
        main(["lm", *args, *(["-o", str(tmp_path / "out")] if args[0] == "sample" else [])])
    captured = capsys.readouterr().err
    assert what in " ".join(captured.split())
    assert "Traceback" not in captured
