"""EEG from the command line: files and folders to tokens and back, options of reading, evaluation, probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tokenizers_mm as tm
from tokenizers_mm import cli, registry, transcode
from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.eeg import files
from tokenizers_mm.eeg.files import Event
from tokenizers_mm.evaluation import probe as probes
from tokenizers_mm.evaluation.class_tokens import consistency, histograms, uniqueness, used_by_class
from tokenizers_mm.evaluation.run import evaluate
from tokenizers_mm.evaluation.suite import load_suite
from tokenizers_mm.reading import reading
from tokenizers_mm.tokens import Tokens, TokenSpec

SAMPLES = registry.data_path("eval") / "samples" / "eeg"


class LevelCodec(Codec):
    """The mean of every tenth of a second of each channel in steps of some microvolts."""

    padding_safe = False
    size_dims = 2

    def __init__(self, step: float = 4.0, levels: int = 64) -> None:
        super().__init__()
        self.step, self.levels = step, levels
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # a folder without weights is none
        self.spec = TokenSpec("eeg", (levels,), axes=("channel", "time"), hop=(1, 20), sample_rate=200, channels=0)

    def _encode(self, x: torch.Tensor, lengths: torch.Tensor) -> Tokens:
        steps = -(-x.shape[-1] // 20)
        frames = torch.nn.functional.pad(x, (0, steps * 20 - x.shape[-1])).unflatten(-1, (steps, 20))
        ids = (frames.mean(dim=-1) / self.step + self.levels / 2).round().clamp(0, self.levels - 1).long()
        shapes = torch.tensor(ids.shape[1:]).expand(len(x), -1)
        return Tokens(ids.flatten(1)[..., None], self.spec, shapes=shapes)

    def _decode(self, tokens: Tokens) -> torch.Tensor:
        grid = tokens.ids[..., 0].unflatten(1, tuple(tokens.shapes[0].tolist()))
        return ((grid - self.levels / 2) * self.step).repeat_interleave(20, dim=-1)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> CodecOutput:
        raise NotImplementedError


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    tm.register(LevelCodec)
    LevelCodec().save_pretrained(tmp_path / "codec")
    return tmp_path / "codec"


def run(*args: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    assert int(stop.value.code or 0) == code


def test_a_file_becomes_tokens_and_edf_again(codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = SAMPLES / "closed-10-20.edf"
    run("encode", source, "-c", codec, "-o", tmp_path / "x.mmt", "--window", 2)
    run("decode", tmp_path / "x.mmt", "-c", codec, "-o", tmp_path / "y.edf", "--window", 3)
    info = files.info(tmp_path / "y.edf")
    assert (info.sample_rate, info.frames, len(info.names)) == (200.0, 2000, 19)
    x, y = (files.read(path, LevelCodec().spec) for path in (source, tmp_path / "y.edf"))
    torch.testing.assert_close(y, LevelCodec().eval().reconstruct(x[None])[0], atol=0.02, rtol=0)
    run("decode", tmp_path / "x.mmt", "-c", codec)
    assert (tmp_path / "x.edf").is_file()  # the first of the formats where none is named
    run("info", tmp_path / "x.mmt")
    assert "item 0: grid (19, 100)" in capsys.readouterr().out


@pytest.mark.parametrize("montage", [None, "O2,C3,Fp1-P7"])
def test_electrodes_keep_their_names_through_tokens(montage: str | None, codec: Path, tmp_path: Path) -> None:
    source = next(SAMPLES.glob("*.edf"))
    names = files.info(source).names if montage is None else tuple(montage.split(","))
    tokens, back = tmp_path / "y.mmt", tmp_path / "y.edf"
    coder = tm.load(codec)
    transcode.encode_file(coder, source, tokens, reading={} if montage is None else {"montage": montage})
    assert Tokens.load(tokens).names == names
    transcode.decode_file(coder, Tokens.load(tokens), tokens, back)
    assert files.info(back).names == names


def test_a_scalable_codec_is_evaluated_at_a_bitrate(tmp_path: Path) -> None:
    report = evaluate(
        ["eeg-waveform@0.02", "eeg-waveform"],
        limit=1,
        baselines=(),
        metrics=["snr"],
        output=tmp_path / "r.json",
        progress=False,
    )
    low, full = report.codecs
    assert (low.codec, low.nominal_rate, full.nominal_rate) == ("eeg-waveform@0.02", 20, 100)
    assert low.metrics["snr"].mean < full.metrics["snr"].mean
    assert low.fingerprint == full.fingerprint


@pytest.mark.parametrize(
    ("source", "message"), [("tfm-small@0.02", "one bitrate only"), ("eeg-waveform@0.001", "at least 0.02")]
)
def test_bitrates_that_a_codec_does_not_have_are_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate([source], progress=False)


def test_a_folder_is_searched_and_read_with_options(codec: Path, tmp_path: Path) -> None:
    run("encode", SAMPLES, "-c", codec, "-o", tmp_path / "out", "--read", "montage=C3,C4", code=1)
    made = sorted((tmp_path / "out").glob("*.mmt"))
    assert len(made) == len(list(SAMPLES.glob("*.edf"))) - 1  # the bipolar one has no C3
    assert {tm.Tokens.load(path).shape[0] for path in made} == {2}


class PickyCodec(LevelCodec):
    """Takes two electrodes in an order of its own."""

    @property
    def reading(self) -> dict[str, Any]:
        return {"montage": ["O2", "C3"]}


def test_a_codec_of_certain_electrodes_gets_them_in_its_order(tmp_path: Path) -> None:
    codec, source = PickyCodec().eval(), SAMPLES / "closed-10-20.edf"
    transcode.encode_file(codec, source, tmp_path / "x.mmt")
    x = files.read(source, codec.spec, preprocessing={"montage": "O2,C3"})
    assert torch.equal(tm.Tokens.load(tmp_path / "x.mmt").ids, codec.encode(x[None]).ids)
    report = evaluate([codec], data=source, metrics=["correlation"], baselines=(), progress=False)
    assert report.codecs[0].items[0].size == (2, 2000)


def test_wrong_options_are_one_red_line(codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, fault in (
        ("montage=XX", "unknown electrode 'XX'"),
        ("lowcut=1", "got 'lowcut'"),
        ("highpass", "NAME=VALUE"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["encode", str(SAMPLES), "-c", str(codec), "-o", str(tmp_path / "o"), "--read", option])
        assert stop.value.code == 1
        assert fault in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(ValueError, match="audio files are read without options, got gain"):
        reading("audio", {"gain": 2})


def test_hours_are_coded_in_constant_memory(codec: Path, tmp_path: Path) -> None:
    minute = 20 * torch.randn(4, 6000)
    files.write(tmp_path / "long.edf", (minute for _ in range(30)), TokenSpec("eeg", (1,), sample_rate=100, channels=0))
    model = tm.load(codec)
    done = transcode.encode_file(model, tmp_path / "long.edf", tmp_path / "long.mmt")
    assert done.seconds == 1800
    back = transcode.decode_file(
        model, tm.Tokens.load(tmp_path / "long.mmt"), tmp_path / "long.mmt", tmp_path / "back.bdf"
    )
    assert back.steps == 4 * 18000
    assert files.info(tmp_path / "back.bdf").seconds == 1800


def test_the_default_suite_runs_with_rates_per_channel_and_a_page(codec: Path, tmp_path: Path) -> None:
    report, page = tmp_path / "r.json", tmp_path / "r.html"
    run("eval", codec, "--limit", 2, "--no-baselines", "--output", report, "--html", page)
    content = json.loads(report.read_text())
    assert {result["rate_unit"] for result in content["codecs"]} == {"bit/s/channel"}
    ours = content["codecs"][0]
    assert ours["nominal_rate"] == pytest.approx(60)  # ten ids of six bits a second
    assert not any(item["error"] for result in content["codecs"] for item in result["items"])
    assert "most frequent of" in page.read_text()  # the vocabulary


def test_options_of_a_suite_reach_the_reader(codec: Path, tmp_path: Path) -> None:
    suite = yaml.safe_load((registry.data_path("eval") / "suites" / "eeg.yaml").read_text())
    path = tmp_path / "mine.yaml"
    options = {
        "name": "mine",
        "reading": {"montage": "C3"},
        "metrics": ["mae"],
        "headline": ["mae"],
        "baselines": ["dct-2"],
    }
    path.write_text(yaml.safe_dump({**suite, **options, "stability": False}))
    report = evaluate([codec], suite=path, progress=False)
    sizes = {item.name: item.size for item in report.codecs[0].items}
    assert sizes["closed-10-20.edf"] == (1, 2000)
    assert [result.rate_unit for result in report.codecs] == ["bit/s/channel"] * 2
    assert "no electrode C3" in str(report.codecs[0].errors["both-tcp16.edf"])
    assert load_suite(path).digest != load_suite("eeg").digest


# -- probes ------------------------------------------------------------------------------------------------------------


def labelled_set(folder: Path) -> Path:
    """Recordings where ``a`` has a rhythm at C3 and ``b`` one at C4."""
    rows = ["path,split"]
    for split, trials in (("train", 20), ("valid", 12), ("test", 12)):
        generator = torch.Generator().manual_seed(trials)
        x = 4 * torch.randn(2, 200 * 2 * trials, generator=generator)
        events = []
        for trial in range(trials):
            here = slice(400 * trial, 400 * trial + 400)
            x[trial % 2, here] += 20 * torch.sin(2 * torch.pi * 2 * torch.arange(400) / 200)
            events.append(Event(2.0 * trial, 2.0, "ab"[trial % 2]))
        spec = TokenSpec("eeg", (1,), sample_rate=200, channels=0)
        files.write(folder / f"{split}.npz", x, spec, names=("C3", "C4"), events=tuple(events))
        rows.append(f"{split}.npz,{split}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    plan = {
        "name": "toy", "modality": "eeg", "data": str(folder / "manifest.csv"), "classes": ["a", "b"],
        "options": {"window_seconds": 2.0, "reading": {"highpass": 0.5}},
    }  # fmt: skip
    (folder / "toy.yaml").write_text(yaml.safe_dump(plan))
    return folder / "toy.yaml"


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
def test_a_probe_finds_what_tokens_hold_and_no_more(
    codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = labelled_set(tmp_path)
    run("probe", codec, "--suite", plan, "-o", tmp_path / "p.json")
    assert "band power" in capsys.readouterr().out
    content = json.loads((tmp_path / "p.json").read_text())
    scores = {result["features"]: result["balanced_accuracy"] for result in content["results"]}
    assert scores["band power (no codec)"] == 1
    assert scores["token histogram per channel"] == 1  # which channel it is in tells the classes apart
    assert scores["token histogram"] < 0.9  # all channels together do not
    assert content["counts"] == {"train": [10, 10], "valid": [6, 6], "test": [6, 6]}


def test_wrong_probes_are_named(codec: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no probe 'nothing': expected one of"):
        probes.load_plan("nothing")
    (tmp_path / "bad.yaml").write_text("name: x\nmodality: eeg\ndata: d\nclasses: [a]\n")
    with pytest.raises(ValueError, match=r"bad\.yaml: .*classes"):
        probes.load_plan(tmp_path / "bad.yaml")
    assert probes.load_plan("eeg-motor").classes == ("T0", "T1", "T2")


def test_tokens_of_classes_by_hand() -> None:
    assert uniqueness([frozenset({1, 2, 3, 4}), frozenset({4, 5})]) == pytest.approx((0.75 * 0.5) ** 0.5)
    assert uniqueness([frozenset({1}), frozenset({1})]) == 0
    assert uniqueness([frozenset({1})]) is None
    labels = torch.tensor([0] * 6 + [1] * 6)
    apart = torch.nn.functional.one_hot(labels, 4).float()
    assert consistency(apart, labels) == 1
    assert consistency(apart[:4], labels[:4]) is None
    spec = TokenSpec("eeg", (4,), axes=("channel", "time"), hop=(1, 1), sample_rate=1, channels=0)
    tokens = Tokens(torch.tensor([[0, 0, 3, 1]])[..., None], spec, shapes=torch.tensor([[2, 2]]))
    assert histograms(tokens).tolist() == [[0.5, 0.25, 0, 0.25]]
    assert histograms(tokens, per_row=True).tolist() == [[1, 0, 0, 0, 0, 0.5, 0, 0.5]]
    assert used_by_class(tokens, torch.tensor([1])) == [frozenset({0, 1, 3})]
