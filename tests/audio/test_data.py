"""Audio data: every example is a function of its number, so that ranks, workers and resumed runs agree."""

from __future__ import annotations

import csv
import math
import warnings
from itertools import islice
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tokenizers_mm.audio import data as data_module
from tokenizers_mm.audio.data import AudioDataModule, AudioSource, FixedClips, RandomSegments, ResumableLoader, collate
from tokenizers_mm.audio.sources import Clips
from tokenizers_mm.tokens import TokenSpec
from tokenizers_mm.training import loader as loader_module

RATE = 8000
SPEC = TokenSpec("audio", (2,), sample_rate=RATE)


def ramp(path: Path, start: int, samples: int, rate: int = RATE) -> Path:
    """A file whose samples count up from ``start``: an excerpt tells where it comes from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.arange(start, start + samples, dtype=np.int16), rate, "PCM_16")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clips of 500, 3000 and 9000 samples."""
    for name, start, samples in (("a", 1, 500), ("sub/b", 1000, 3000), ("sub/deep/c", 10000, 9000)):
        ramp(tmp_path / "clips" / f"{name}.wav", start, samples)
    return tmp_path / "clips"


def module(folder: Path, **options: object) -> AudioDataModule:
    defaults = {"sample_rate": RATE, "segment_seconds": 0.125, "batch_size": 2, "gain_db": None, "valid_gain_db": None}
    source = AudioSource(str(folder))
    built = AudioDataModule(source, source, source, **{**defaults, **options})  # type: ignore[arg-type]
    built.setup("fit")
    return built


def counts(x: torch.Tensor) -> torch.Tensor:
    return (x * 32768).round().long()


# -- sources


def test_folders_are_searched_in_a_fixed_order_and_other_files_ignored(folder: Path) -> None:
    (folder / "notes.txt").write_text("no audio")
    ramp(folder / ".hidden.wav", 0, 10)
    assert [p.name for p in AudioSource(str(folder)).paths()] == ["a.wav", "b.wav", "c.wav"]


def test_manifests_give_the_rows_of_a_split(folder: Path) -> None:
    manifest = folder / "list.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ["path", "speaker", "split"],
                ["a.wav", "x", "train"],
                ["sub/b.wav", "y", "valid"],
                ["sub/deep/c.wav", "x", "train"],
            ]
        )
    assert len(AudioSource(str(manifest)).paths()) == 3
    assert AudioSource(str(manifest), split="train").paths() == [folder / "a.wav", folder / "sub/deep/c.wav"]
    with pytest.raises(ValueError, match=r"no audio file in manifest .*'nope'"):
        AudioSource(str(manifest), split="nope").paths()
    manifest.write_text("file,split\na.wav,train\n")
    with pytest.raises(ValueError, match=r"'path'.*\['file', 'split'\]"):
        AudioSource(str(manifest)).paths()


@pytest.mark.parametrize("path", ["nowhere", "nowhere.csv"])
def test_missing_sources_are_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        AudioSource(str(tmp_path / path)).paths()


@pytest.mark.parametrize("kind", ["LibriTTS", "LibriSpeech", "SpeechCommands"])
def test_torchaudio_datasets_on_disk_need_no_decoder_of_torchaudio(tmp_path: Path, kind: str) -> None:
    if kind == "SpeechCommands":
        root = tmp_path / kind / "speech_commands_v0.02"
        wanted = [ramp(root / "yes" / f"{n:08x}_nohash_0.wav", 0, 100) for n in range(3)]
        (root / "validation_list.txt").write_text("yes/00000001_nohash_0.wav\n")
        (root / "testing_list.txt").write_text("yes/00000002_nohash_0.wav\n")
        source, wanted = AudioSource(str(tmp_path), split="training", kind=kind), wanted[:1]
    else:
        extension = ".wav" if kind == "LibriTTS" else ".flac"
        root = tmp_path / kind / "dev-clean" / "12" / "34"
        wanted = [ramp(root / f"12_34_{n}{extension}", 0, 100) for n in range(3)]
        source = AudioSource(str(tmp_path), split="dev-clean", kind=kind)  # type: ignore[arg-type]
    assert source.paths() == wanted
    assert len(Clips([source], SPEC)) == len(wanted)
    with pytest.raises(FileNotFoundError, match=f"no {kind} under"):
        AudioSource(str(tmp_path / "elsewhere"), kind=kind).paths()  # type: ignore[arg-type]


def test_sources_come_from_yaml(folder: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AudioDataModule, "data")
    text = (
        "class_path: tokenizers_mm.audio.data.AudioDataModule\ninit_args:\n  gain_db: [-6, -1]\n  speeds: [0.9, 1.1]\n"
    )
    sources = f"  train: {{path: {folder}}}\n  valid: [{{path: {folder}/sub}}, {{path: m.csv, split: valid, kind: manifest}}]\n"
    config = parser.parse_args([f"--data={text}{sources}", f"--data.train.path={folder}/sub"])
    config = parser.parse_string(parser.dump(config))  # as a run folder keeps it
    built = parser.instantiate_classes(config).data
    assert built.gain_db == (-6, -1)
    assert built.sources["train"] == [AudioSource(f"{folder}/sub")]
    assert built.sources["valid"] == [
        AudioSource(f"{folder}/sub"),
        AudioSource("m.csv", split="valid", kind="manifest"),
    ]


# -- broken files


@pytest.mark.parametrize("cache", [False, True])
def test_broken_files_are_skipped_with_one_warning_that_names_them(folder: Path, cache: bool) -> None:
    (folder / "empty.wav").touch()
    (folder / "text.flac").write_text("not audio")
    cut = ramp(folder / "cut.flac", 0, 20000)
    cut.write_bytes(cut.read_bytes()[:-2000])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clips = Clips([AudioSource(str(folder))], SPEC, cache=cache)
    assert [p.name for p in clips.paths] == ["a.wav", "b.wav", "c.wav"]
    (message,) = [str(w.message) for w in caught]
    assert "3 of 6" in message
    assert all(name in message for name in ("empty.wav", "text.flac", "cut.flac"))


def test_a_long_list_of_broken_files_is_cut_short(folder: Path) -> None:
    for n in range(40):
        (folder / f"broken{n:02}.wav").touch()
    with pytest.warns(UserWarning, match=r"40 of 43 .*broken00.wav.*and 35 more$"):
        Clips([AudioSource(str(folder))], SPEC)


def test_a_source_without_a_readable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no audio file in folder"):
        Clips([AudioSource(str(tmp_path))], SPEC)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(ValueError, match=r"none of 1 audio files can be read: .*empty\.wav"):
        Clips([AudioSource(str(tmp_path))], SPEC)


def test_damage_found_while_training_costs_one_warning_and_no_crash(tmp_path: Path) -> None:
    good, bad = np.full(8000, 0.5), np.full(8000, 0.5)
    bad[:2000] = np.nan  # the end, which the scan decodes, is sound
    soundfile.write(tmp_path / "bad.wav", bad, RATE, "FLOAT")
    soundfile.write(tmp_path / "good.wav", good, RATE, "FLOAT")
    segments = RandomSegments(Clips([AudioSource(str(tmp_path))], SPEC), 8000)
    with pytest.warns(UserWarning, match=r"bad\.wav") as caught:
        examples = [segments[i] for i in range(10)]
    assert len(caught) == 1
    assert all(torch.equal(x, torch.full((1, 8000), 0.5)) for x in examples)


# -- segments


@pytest.mark.parametrize("cache", [False, True])
@settings(max_examples=20, deadline=None)
@given(index=st.integers(0, 10**12), seed=st.integers(0, 10))
def test_a_segment_is_consecutive_samples_of_one_clip(
    tmp_path_factory: pytest.TempPathFactory, cache: bool, index: int, seed: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "ramps"
    if not root.exists():
        ramp(root / "short.wav", 1, 300)
        ramp(root / "long.wav", 1000, 31000)
    clips = Clips([AudioSource(str(root))], SPEC, cache=cache)
    x = counts(RandomSegments(clips, 1000, seed=seed)[index])[0]
    if x[0] < 1000:
        assert torch.equal(x, torch.arange(1, 301).repeat(4)[:1000])  # tiled
    else:
        assert (x.diff() == 1).all()


def test_cached_and_uncached_examples_are_the_same(folder: Path) -> None:
    ramp(folder / "other_rate.wav", 500, 20000, rate=22050)
    options = {"gain_db": (-6.0, -1.0), "speeds": [0.9, 1.0, 1.1], "batch_size": 16}
    plain, cached = (module(folder, cache=cache, **options) for cache in (False, True))
    for a, b in zip(plain.train_dataloader(), cached.train_dataloader(), strict=True):
        torch.testing.assert_close(a["signal"], b["signal"], atol=2e-3, rtol=0)


def test_every_second_of_audio_is_equally_likely(tmp_path: Path) -> None:
    ramp(tmp_path / "a.wav", 0, 1000)
    ramp(tmp_path / "b.wav", 1000, 20000)
    segments = RandomSegments(Clips([AudioSource(str(tmp_path))], SPEC, cache=True), 1000)
    assert len(segments) == 21
    starts = [int(counts(segments[i])[0, 0]) for i in range(21 * 40)]
    for turn in range(40):  # each pass visits the short clip once, the long one twenty times
        assert sum(start < 1000 for start in starts[21 * turn : 21 * (turn + 1)]) == 1
    quarters = np.histogram([s for s in starts if s >= 1000], bins=4, range=(1000, 20000))[0]
    assert quarters.min() > 150  # of 800


def test_long_files_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(RATE * 600, dtype=np.int16), RATE, "PCM_16")
    segments = RandomSegments(Clips([AudioSource(str(tmp_path))], SPEC), RATE)
    read: list[float] = []
    original = data_module.files.read
    monkeypatch.setattr(data_module.files, "read", lambda *a, **k: read.append(k["seconds"]) or original(*a, **k))
    assert [segments[i].shape for i in range(5)] == [(1, RATE)] * 5
    assert len(read) == 5
    assert max(read) < 21


@settings(max_examples=25, deadline=None)
@given(index=st.integers(0, 10**6))
def test_peak_level_is_in_the_range(tmp_path_factory: pytest.TempPathFactory, index: int) -> None:
    root = tmp_path_factory.getbasetemp() / "square"
    if not root.exists():
        root.mkdir()
        soundfile.write(root / "a.wav", np.sign(np.sin(np.arange(4000))) * 0.01, RATE, "FLOAT")
    segments = RandomSegments(Clips([AudioSource(str(root))], SPEC), 1000, gain_db=(-6, -1))
    level = 20 * math.log10(float(segments[index].abs().max()))
    assert -6.01 <= level <= -0.99


def test_silence_stays_silent(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(2000, dtype=np.int16), RATE, "PCM_16")
    for cache in (False, True):
        clips = Clips([AudioSource(str(tmp_path))], SPEC, cache=cache)
        assert RandomSegments(clips, 1000, gain_db=(-6, -1))[0].abs().max() == 0


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_moves_the_pitch_and_keeps_the_length(tmp_path: Path, speed: float) -> None:
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * np.arange(3 * RATE) / RATE), RATE)
    x = RandomSegments(Clips([AudioSource(str(tmp_path))], SPEC), RATE, speeds=[speed])[0]
    assert x.shape == (1, RATE)
    assert int(torch.fft.rfft(x[0]).abs().argmax()) == pytest.approx(1000 * speed, abs=2)


# -- validation


def test_validation_is_the_first_segment_or_the_whole_of_every_clip(folder: Path) -> None:
    (first,) = list(module(folder, batch_size=8).val_dataloader())
    assert counts(first["signal"])[:, 0, 0].tolist() == [1, 1000, 10000]
    assert first["lengths"].tolist() == [1000] * 3
    (whole,) = list(module(folder, batch_size=8, whole_valid=True).val_dataloader())
    assert whole["lengths"].tolist() == [500, 3000, 9000]
    assert whole["signal"].shape == (3, 1, 9000)
    assert whole["signal"][0, :, 500:].abs().max() == 0
    (level,) = list(module(folder, batch_size=8, valid_gain_db=-3.0, whole_valid=True).val_dataloader())
    torch.testing.assert_close(level["signal"].abs().amax(dim=(1, 2)), torch.full((3,), 10 ** (-3 / 20)))


def test_test_clips_are_whole_and_unscaled(folder: Path) -> None:
    built = module(folder, valid_gain_db=-3.0, batch_size=8)
    built.setup("test")
    (batch,) = list(built.test_dataloader())
    assert counts(batch["signal"]).amax(dim=(1, 2)).tolist() == [500, 3999, 18999]


def test_stereo_batches(folder: Path) -> None:
    (batch,) = list(module(folder, channels=2, batch_size=8).val_dataloader())
    assert batch["signal"].shape == (3, 2, 1000)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_collate_pads_with_zeros(lengths: list[int]) -> None:
    batch = collate([torch.ones(2, n) for n in lengths])
    assert batch["lengths"].tolist() == lengths
    assert batch["signal"].shape == (len(lengths), 2, max(lengths))
    assert batch["signal"].sum(dim=(1, 2)).tolist() == [2 * n for n in lengths]


# -- order, ranks, workers, resume


def stream(loader: ResumableLoader, batches: int) -> list[torch.Tensor]:
    """The next batches, over as many epochs as it takes."""
    found: list[torch.Tensor] = []
    while len(found) < batches:
        found += [batch["signal"] for batch in islice(loader, batches - len(found))]
    return found


def test_workers_do_not_change_the_batches(folder: Path) -> None:
    options = {"gain_db": (-6.0, -1.0), "speeds": [0.9, 1.1], "examples_per_epoch": 6}
    alone, helped = (stream(module(folder, num_workers=n, **options).train_dataloader(), 5) for n in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_ranks_share_the_examples_without_overlap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = module(folder, batch_size=3, examples_per_epoch=24)
    alone = torch.cat(stream(built.train_dataloader(), 8))
    parts = []
    for rank in range(2):
        monkeypatch.setattr(loader_module, "world", lambda rank=rank: (rank, 2))
        loader = built.train_dataloader()
        assert len(loader) == 4
        parts.append(stream(loader, 4))
    together = torch.cat([batch for step in zip(*parts, strict=True) for batch in step])
    assert torch.equal(together, alone)


@settings(max_examples=15, deadline=None)
@given(stop=st.integers(0, 12), per_epoch=st.integers(1, 20))
def test_a_restored_loader_goes_on_where_it_stopped(
    tmp_path_factory: pytest.TempPathFactory, stop: int, per_epoch: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "resume"
    if not root.exists():
        ramp(root / "a.wav", 1, 30000)
    built = module(root, cache=True, examples_per_epoch=per_epoch)
    whole, first, second = stream(built.train_dataloader(), 15), built.train_dataloader(), built.train_dataloader()
    start = stream(first, stop)
    second.load_state_dict(first.state_dict())
    resumed = start + stream(second, 15 - stop)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_loading_draws_nothing_from_the_global_generator(folder: Path) -> None:
    built = module(folder, speeds=[0.9, 1.1], gain_db=(-6.0, -1.0))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(built.train_dataloader())
    list(built.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_and_epochs_differ(folder: Path) -> None:
    loader = module(folder).train_dataloader()
    first, second = (torch.cat([b["signal"] for b in loader]) for _ in range(2))
    other = torch.cat([b["signal"] for b in module(folder, seed=1).train_dataloader()])
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


class Recorder(L.LightningModule):
    """A module whose weights and record depend on every batch it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.ones(1)), []  # type: ignore[var-annotated]

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.seen.append(batch["signal"].double().sum().item())
        return (self.weight * batch["signal"].std() - 0.1).square().sum()

    def validation_step(self, batch: dict[str, torch.Tensor]) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Kill(Callback):
    """Stops the process' run right after a step, as a lost machine would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


@pytest.mark.parametrize(("kill", "workers"), [(1, 0), (3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (8, 0), (11, 0)])
def test_a_killed_lightning_run_sees_the_batches_that_it_would_have_seen(folder: Path, kill: int, workers: int) -> None:
    def fit(kill: int | None, resume: Path | None = None) -> Recorder:
        torch.manual_seed(0)
        saver = ModelCheckpoint(folder / "saved", save_last=True, every_n_train_steps=1, enable_version_counter=False)
        trainer = L.Trainer(
            max_steps=13,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            val_check_interval=2,
            num_sanity_val_steps=1,
            callbacks=[saver, *([Kill(kill)] if kill else [])],
        )
        model = Recorder()
        built = module(folder, examples_per_epoch=9, num_workers=workers, gain_db=(-6.0, -1.0))
        try:
            trainer.fit(model, datamodule=built, ckpt_path=resume, weights_only=True)
        except RuntimeError as error:
            if "killed" not in str(error):
                raise
        return model

    whole, first = fit(None), fit(kill)
    second = fit(None, folder / "saved" / "last.ckpt")
    assert len(whole.seen) == 13
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)


def test_without_validation_clips_lightning_still_trains(folder: Path) -> None:
    built = AudioDataModule(AudioSource(str(folder)), sample_rate=RATE, segment_seconds=0.1, batch_size=2)
    model = Recorder()
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, datamodule=built)
    assert len(model.seen) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"segment_seconds": 0.0}, "segment_seconds"),
        ({"speeds": [10.0]}, r"speeds.*10"),
        ({"gain_db": (-1.0, -6.0)}, r"gain_db.*\(-1.0, -6.0\)"),
        ({"examples_per_epoch": 0}, "examples_per_epoch"),
    ],
)
def test_numbers_out_of_range_are_refused(folder: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioDataModule(AudioSource(str(folder)), **options)


def test_fixed_clips_are_deterministic(folder: Path) -> None:
    clips = FixedClips(Clips([AudioSource(str(folder))], SPEC), 700)
    assert all(torch.equal(clips[i], clips[i]) for i in range(len(clips)))
