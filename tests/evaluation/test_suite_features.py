"""What a suite can ask for beside metrics: baselines, conditions, models, stability; batches, files kept, several rates."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from toy_codecs import RATE, Coarse, Faulty

from tokenizers_mm import bitstream, registry
from tokenizers_mm.audio import WavTokenizer, files
from tokenizers_mm.audio.baselines import BASELINES
from tokenizers_mm.audio.conditions import CONDITIONS
from tokenizers_mm.audio.metrics import compute
from tokenizers_mm.evaluation import baseline as baselines_module
from tokenizers_mm.evaluation.frechet import frechet_distance
from tokenizers_mm.evaluation.report import Report
from tokenizers_mm.evaluation.run import evaluate as evaluate_all
from tokenizers_mm.evaluation.stability import STABILITY, stability
from tokenizers_mm.evaluation.suite import load_suite

QUICK = ["si_sdr", "mel"]


def evaluate(codecs: list, **options: object) -> Report:
    return evaluate_all(codecs, **{"baselines": (), "metrics": QUICK, "progress": False, **options})  # type: ignore[arg-type]


def suite_file(tmp_path: Path, **keys: object) -> Path:
    content = {"name": "mine", "modality": "audio", "data": "samples", "metrics": ["mel"], "headline": ["mel"], **keys}
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in content.items()))
    return path


def test_baselines_stand_in_the_same_table_with_the_bytes_they_write(folder: Path):
    report = evaluate([Coarse()], data=folder, baselines=["pcm16", "opus-24"])
    assert [(r.codec, r.kind) for r in report.codecs] == [
        ("Coarse", "codec"),
        ("16-bit PCM", "baseline"),
        ("Opus 24k", "baseline"),
    ]
    pcm, opus = report.codecs[1:]
    assert pcm.nominal_rate == pytest.approx(256)
    assert pcm.file_rate == pytest.approx(256 + 3 * 44 * 8 / sum(i.seconds for i in pcm.items) / 1000)
    assert pcm.metrics["si_sdr"].mean > 60
    assert opus.file_rate > opus.nominal_rate > 0
    assert pcm.health is pcm.token_rate is None
    x = files.read(folder / "a.wav", Coarse().spec)
    data, y = BASELINES["opus-24"](x, Coarse().spec)
    assert opus.items[0].file_bytes == len(data)
    assert opus.items[0].metrics == compute(x, y, Coarse().spec, QUICK)
    assert set(report.settings.baselines) == {"16-bit PCM", "Opus 24k"}


def test_a_baseline_that_cannot_run_is_named_not_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    report = evaluate([Coarse()], data=folder, baselines=["codec2-1200"])
    assert len(report.codecs) == 1
    assert any("Codec 2 1200 did not run: needs the program c2enc" in note for note in report.notes())


def test_a_baseline_that_fails_on_a_clip_is_an_item_error(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def encode(signal: Tensor, spec: object) -> bytes:
        if signal.shape[1] < RATE:
            raise RuntimeError("too short for me")
        return b"x"

    odd = baselines_module.Baseline("odd", "", encode, lambda data, spec: torch.zeros(1, RATE // 2))
    monkeypatch.setattr(registry.wing("audio", "baselines"), "BASELINES", {**BASELINES, "odd": odd})
    result = evaluate([Coarse()], data=folder, baselines=["odd"]).codecs[1]
    assert result.errors == dict.fromkeys(("b.flac", "sub/c.wav"), "RuntimeError: too short for me")
    assert result.nominal_rate == pytest.approx(8 / 1000)


def test_conditions_change_what_the_codec_gets_and_is_compared_with(folder: Path):
    report = evaluate([Coarse()], data=folder, conditions=["clean", "noisy"], baselines=["pcm16"])
    assert [(r.codec, r.condition) for r in report.codecs] == [
        ("Coarse", "clean"),
        ("16-bit PCM", "clean"),
        ("Coarse", "noisy"),
        ("16-bit PCM", "noisy"),
    ]
    codec = Coarse()
    noisy = CONDITIONS["noisy"].apply(files.read(folder / "a.wav", codec.spec), codec.spec, "a.wav")
    expected = compute(noisy, codec.reconstruct(noisy[None])[0], codec.spec, QUICK)
    assert report.codecs[2].items[0].metrics == expected
    assert report.codecs[0].items[0].metrics != expected
    assert report.settings.conditions["noisy"] == CONDITIONS["noisy"].definition


def tiny(**options: object) -> WavTokenizer:
    torch.manual_seed(0)
    sizes = {"n_filters": 4, "encoder_dim": 32, "dim": 32, "intermediate_dim": 64, "layers": 2}
    quantizer = {"kind": "vq", "codebook_size": 64}
    return WavTokenizer(sample_rate=RATE, strides=(2, 4, 5, 8), quantizer=quantizer, **sizes, **options).eval()


@pytest.mark.parametrize("codec", [Coarse(hop=8), tiny(), tiny(causal=True)], ids=["coarse", "offline", "causal"])
def test_the_batch_size_does_not_change_a_number(folder: Path, codec: Coarse | WavTokenizer):
    options = {"data": folder, "metrics": ["mel", "snr", "mr_stft"]}
    one, three = (evaluate([codec], batch_size=size, **options).codecs[0] for size in (1, 3))
    assert one.health == three.health
    for a, b in zip(one.items, three.items, strict=True):
        assert (a.steps, a.bits, a.file_bytes, a.seconds) == (b.steps, b.bits, b.file_bytes, b.seconds)
        assert a.metrics == pytest.approx(b.metrics, rel=1e-4)


def test_one_bad_clip_does_not_take_its_batch_down(folder: Path):
    (folder / "broken.wav").write_bytes(b"RIFF no more")
    (result,) = evaluate([Faulty()], data=folder, batch_size=4).codecs
    assert {name: error.partition(":")[0] for name, error in result.errors.items()} == {
        "broken.wav": "ValueError",
        "sub/c.wav": "RuntimeError",
    }
    assert result.metrics["mel"].failures == {"the reconstruction holds NaN or infinity": 2}


def test_what_was_heard_and_made_is_kept(folder: Path, tmp_path: Path):
    keep = tmp_path / "out" / "kept"
    keep.parent.mkdir()
    report = evaluate([Coarse()], data=folder, keep=keep, output=tmp_path / "out" / "r.json", baselines=["pcm16"])
    assert report.kept == "kept"
    codec = Coarse()
    for item in report.codecs[0].items:
        x = files.read(folder / item.name, codec.spec)
        tokens = bitstream.load(keep / item.kept.tokens)
        assert tokens == codec.encode(x[None])
        assert torch.equal(files.read(keep / item.kept.original, codec.spec), x)
        back = files.read(keep / item.kept.reconstruction, codec.spec)
        assert torch.allclose(back, codec.decode(tokens)[0], atol=1 / 32768)
    kept = report.codecs[1].items[0].kept
    assert kept.tokens is None
    assert kept.original == report.codecs[0].items[0].kept.original


def test_a_reconstruction_of_nan_is_measured_as_such_and_not_kept(folder: Path, tmp_path: Path):
    (result,) = evaluate([Faulty()], data=folder, keep=tmp_path / "kept", limit=1).codecs
    assert result.items[0].kept.reconstruction is None
    assert result.items[0].kept.tokens is not None


def test_models_of_the_user_fill_the_metrics_that_need_them(folder: Path):
    def embeddings(signal: Tensor, rate: int) -> Tensor:
        return signal[: len(signal) // 2 * 2].reshape(-1, 2)

    report = evaluate(
        [Coarse()],
        data=folder,
        metrics=["utmos", "fad", "dwer", "mel"],
        models={"utmos": lambda signal, rate: float(signal.abs().max()), "fad": embeddings},
    )
    (result,) = report.codecs
    assert list(result.metrics) == ["utmos", "fad", "dwer", "mel"]
    assert result.metrics["utmos"].count == 3
    assert result.metrics["dwer"].mean is None
    assert result.metrics["dwer"].failures == {"no model 'transcribe' given": 3}
    codec = Coarse()
    pairs = [
        (x, codec.reconstruct(x[None])[0]) for x in (files.read(folder / i.name, codec.spec) for i in result.items)
    ]
    expected = frechet_distance(
        *(torch.cat([embeddings(x[0], RATE) for x in side]) for side in zip(*pairs, strict=True))
    )
    assert result.metrics["fad"].mean == pytest.approx(expected, rel=1e-5)
    assert (result.metrics["fad"].count, result.metrics["fad"].failures) == (3, {})
    assert set(report.settings.models) == {"utmos", "fad"}
    assert [note for note in report.notes() if "want of a model" in note] == [
        "not measured, for want of a model (transcribe): dWER"
    ]


def test_a_transcript_column_reaches_wer(folder: Path):
    (folder / "manifest.csv").write_text("path,text\na.wav,one two\nb.flac,\n")
    report = evaluate([Coarse()], data=folder, metrics=["wer"], models={"transcribe": lambda signal, rate: "one too"})
    summary = report.codecs[0].metrics["wer"]
    assert (summary.mean, summary.count, summary.failed) == (0.5, 1, 1)


def test_stability_is_measured_when_the_suite_asks(folder: Path, tmp_path: Path):
    suite = suite_file(tmp_path, stability="true", conditions="[clean, quiet]")
    report = evaluate_all([Coarse()], data=folder, suite=suite, progress=False)
    clean, quiet = report.codecs
    assert set(clean.stability) == set(STABILITY)
    x = files.read(folder / "a.wav", Coarse().spec)
    assert clean.items[0].stability == stability(Coarse(), x[None])
    assert clean.stability["shift_by_hop"].mean == 1
    assert quiet.stability == {}


def test_codecs_of_several_rates_are_compared_each_at_its_own_and_that_is_said(folder: Path):
    report = evaluate([Coarse(), Coarse(sample_rate=8000)], data=folder, baselines=["pcm16"])
    assert [r.codec for r in report.codecs[2:]] == ["16-bit PCM (16000 Hz, 1 ch)", "16-bit PCM (8000 Hz, 1 ch)"]
    assert any("codecs run at 8000 Hz and 16000 Hz" in note for note in report.notes())
    assert report.codecs[1].items[0].seconds == report.codecs[0].items[0].seconds == 1


def test_other_data_than_the_suite_wants_is_said(folder: Path, tmp_path: Path):
    report = evaluate_all([Coarse()], data=folder, suite=suite_file(tmp_path, fingerprint="a" * 64), progress=False)
    assert any("not the mine suite's files" in note for note in report.notes())


def test_data_that_lists_files_that_are_not_there(folder: Path):
    (folder / "manifest.csv").write_text("path\na.wav\ngone.wav\n")
    (result,) = evaluate([Coarse()], data=folder).codecs
    assert set(result.errors) == {"gone.wav"}
    assert "FileNotFoundError" in result.errors["gone.wav"]
    assert result.metrics["mel"].count == 1


def test_a_modality_without_baselines_and_conditions_needs_neither_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    torch.save(torch.linspace(-1, 1, 90)[None], tmp_path / "one.radar")
    real = registry.wing
    rooms = {
        "files": SimpleNamespace(EXTENSIONS=(".radar",), read=lambda path, spec: torch.load(path)),
        "metrics": real("audio", "metrics"),
    }
    monkeypatch.setattr(registry, "wing", lambda modality, room: rooms[room])
    suite = suite_file(tmp_path, modality="radar")
    report = evaluate_all([Coarse("radar")], data=tmp_path, suite=suite, metrics=["l1"], progress=False)
    assert report.codecs[0].metrics["l1"].mean == pytest.approx(0, abs=math.inf)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metrics": "[pesq_bw]"}, r"metrics: unknown \['pesq_bw'\]: did you mean 'pesq_wb'"),
        ({"baselines": "[opus-7]"}, r"baselines: unknown \['opus-7'\]: did you mean 'opus-"),
        ({"conditions": "[clean, nosy]"}, r"conditions: unknown \['nosy'\]: did you mean 'noisy'"),
        ({"conditions": "[]"}, "conditions: "),
        ({"metrics": "[mel, mel]"}, r"metrics: \['mel'\] come twice"),
        ({"modality": "smell"}, "modality: no wing 'smell'"),
        ({"baselines": "opus-6"}, "baselines: Input should be a valid tuple"),
        ({"stability": "3"}, "stability: Input should be a valid boolean"),
        ({"fingerprint": "abc"}, "fingerprint: String should match"),
        ({"condition": "[clean]"}, "condition: Extra inputs"),
    ],
)
def test_a_suite_that_names_what_is_not_there_says_file_key_and_fault(tmp_path: Path, keys: dict, message: str):
    with pytest.raises(ValueError, match=rf"mine\.yaml: {message}"):
        load_suite(suite_file(tmp_path, **keys))


def test_a_suite_whose_data_is_elsewhere_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
):
    suite = suite_file(tmp_path, data="${CLIPS_ARE_HERE}/clips")
    monkeypatch.delenv("CLIPS_ARE_HERE", raising=False)
    with pytest.raises(ValueError, match="'mine' finds its data through CLIPS_ARE_HERE"):
        evaluate([Coarse()], suite=suite)
    monkeypatch.setenv("CLIPS_ARE_HERE", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"'mine' wants its data at .*gone/clips, which it finds through CLIPS"):
        evaluate([Coarse()], suite=suite)
    monkeypatch.setenv("CLIPS_ARE_HERE", str(folder.parent))
    assert evaluate([Coarse()], suite=suite).data["files"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baselines": ["opus"]}, r"unknown baselines \['opus'\]"),
        ({"conditions": ["loud"]}, r"unknown conditions \['loud'\]"),
        ({"models": {"mos": max}}, r"unknown models \['mos'\]: expected some of \['dnsmos', "),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
    ],
)
def test_wrong_names_are_refused_before_any_work(folder: Path, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        evaluate([Coarse()], data=folder, **arguments)
