"""``.ecdc`` files on the command line: found by their extension, both ways."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import pytest
import torch

import tokenizers_mm as tm
from tokenizers_mm import registry, transcode
from tokenizers_mm.audio import ecdc
from tokenizers_mm.audio.containers import CARDS
from tokenizers_mm.audio.ecdc_lm import EcdcLM
from tokenizers_mm.cli import main


@pytest.fixture
def codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tm.Codec:
    """EnCodec's 24 kHz codec, narrow, in place of the published one that the card would load."""
    pytest.importorskip("transformers")
    from tokenizers_mm.audio import Encodec

    torch.manual_seed(0)
    model = Encodec(n_filters=4, dim=16, lstm_layers=1).eval().with_bitrate(3)
    monkeypatch.setattr(registry, "load", lambda name, **_: {"encodec-24khz": model}[name])
    return model


def tone(path: Path, samples: int = 6000) -> Path:
    values = torch.tensor([math.sin(i / 20) / 3 for i in range(samples)])
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", "NONE"))
        file.writeframes((values * 32767).short().numpy().tobytes())
    return path


def run(*args: object) -> object:
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    return stop.value.code


@pytest.mark.parametrize("coded", [False, True])
def test_a_file_comes_back_by_its_extension(codec: tm.Codec, tmp_path: Path, coded: bool) -> None:
    lm = ("--lm", EcdcLM(dim=16, layers=1, heads=2).save(tmp_path / "lm")) if coded else ()
    source, file = tone(tmp_path / "song.wav"), tmp_path / "song.ecdc"
    assert run("encode", source, "-c", "encodec-24khz", "-o", file, *lm) == 0
    tokens, writer = transcode.read_tokens(file, lm=tmp_path / "lm" if coded else None)
    assert writer == "encodec-24khz"
    assert int(tokens.side["size"]) == 6000
    torch.testing.assert_close(tokens.codes.shape, torch.Size([1, 4, 19]))
    assert run("decode", file, "-o", tmp_path / "back.wav", *lm) == 0
    with wave.open(str(tmp_path / "back.wav")) as back:
        assert back.getnframes() == 6000


def test_what_does_not_belong_in_a_format_is_refused(codec: tm.Codec, tmp_path: Path) -> None:
    tokens = codec.encode(torch.zeros(1, 1, 700))
    with pytest.raises(ValueError, match=r"\.ecdc files hold tokens of EnCodec, got those of Identity"):
        transcode.write_tokens(tokens, tmp_path / "a.ecdc", torch.nn.Identity())
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        transcode.write_tokens(tokens, tmp_path / "a.mmt", codec, lm=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        transcode.write_tokens(tokens, tmp_path / "a.ecdc", codec, lm=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(ecdc.MODELS))
def test_the_format_s_models_are_those_of_the_cards(name: str) -> None:
    """What the file format says of a model's tokens is what its card says."""
    assert registry.get_card(CARDS[name]).spec == ecdc.MODELS[name]
