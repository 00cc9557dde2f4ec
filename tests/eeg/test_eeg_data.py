"""EEG in batches: what example number i holds, labels of events, and the splits and labels of public corpora, on made files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenizers_mm.eeg import corpora, files
from tokenizers_mm.eeg.data import EEGDataModule, EEGSource
from tokenizers_mm.eeg.files import Event
from tokenizers_mm.tokens import TokenSpec

NAMES = ("Fp1", "C3", "Cz", "C4", "O1")


def record(
    path: Path,
    seconds: float,
    *,
    rate: int = 100,
    names: tuple[str, ...] = NAMES,
    events: tuple[Event, ...] = (),
) -> Path:
    """A recording whose first channel counts its seconds in tens of microvolts."""
    samples = round(seconds * rate)
    x = torch.randn(len(names), samples, generator=torch.Generator().manual_seed(samples))
    x[0] = torch.arange(samples) / rate * 10
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, x, TokenSpec("eeg", (1,), sample_rate=rate, channels=0), names=names, events=events)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record(
        tmp_path / "a.edf", 30, events=(Event(4, 2, "T1"), Event(10, 2, "T2"), Event(15, 2, "T0"), Event(28.5, 1, "T1"))
    )
    record(tmp_path / "b.npz", 21, rate=160, events=(Event(1, 2, "T2"),))
    (tmp_path / "manifest.csv").write_text("path,split\na.edf,train\nb.npz,train\na.edf,valid\n")
    return tmp_path


def module(folder: Path, **options: object) -> EEGDataModule:
    manifest = str(folder / "manifest.csv")
    defaults = {"sample_rate": 100, "window_seconds": 5.0, "batch_size": 4, "seed": 3}
    data = EEGDataModule(EEGSource(manifest, "train"), EEGSource(manifest, "valid"), **{**defaults, **options})  # type: ignore[arg-type]
    data.setup("fit")
    return data


def test_batches_have_the_shape_that_training_takes(folder: Path) -> None:
    data = module(folder)
    batch = next(iter(data.train_dataloader()))
    assert batch["signal"].shape == (4, 5, 500)
    assert batch["signal"].dtype == torch.float32
    assert batch["lengths"].tolist() == [500] * 4
    assert "label" not in batch
    starts = torch.cat([b["signal"][:, 0, 0] for b in data.val_dataloader()])
    torch.testing.assert_close(starts, torch.arange(6) * 50.0, atol=0.05, rtol=0)  # windows one after the other


@pytest.mark.parametrize(
    "options", [{}, {"highpass": 1.0, "lowpass": 40.0, "notch": 50.0, "reference": "average"}, {"sample_rate": 160}]
)
def test_windows_read_from_disk_are_those_kept_in_memory(folder: Path, options: dict) -> None:
    kept, read = (module(folder, cache=cache, **options) for cache in (True, False))
    for a, b in zip(kept.train_dataloader(), read.train_dataloader(), strict=True):
        torch.testing.assert_close(a["signal"], b["signal"], atol=1e-3, rtol=0)


def test_an_example_is_a_function_of_its_number(folder: Path) -> None:
    first, second = module(folder).train_dataloader(), module(folder, num_workers=1).train_dataloader()
    a, b = ([batch["signal"] for _ in range(2) for batch in loader] for loader in (first, second))
    torch.testing.assert_close(a, b)
    resumed = module(folder).train_dataloader()
    resumed.load_state_dict({"examples_seen": 8})
    torch.testing.assert_close(next(iter(resumed))["signal"], a[2])
    assert not torch.equal(a[0], a[len(a) // 2])  # the second pass has other places


def test_channels_as_items_take_recordings_of_any_montage(folder: Path) -> None:
    record(folder / "c.edf", 12, names=("F3", "F4"))
    source = EEGSource(str(folder))
    with pytest.raises(ValueError, match=r"recordings have \[2, 5\] channels: name a montage"):
        EEGDataModule(source, sample_rate=100).setup("fit")
    data = EEGDataModule(source, sample_rate=100, items="channel", batch_size=3)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["signal"].shape == (3, 1, 1000)
    assert len(data.windows["train"]) == 3 * 5 + 2 * 5 + 2


def test_events_become_labelled_windows(folder: Path) -> None:
    manifest = str(folder / "manifest.csv")
    source = EEGSource(manifest, "train", classes=["T1", "T2"], event_offset=0.5)
    data = EEGDataModule(source, source, sample_rate=100, window_seconds=2.0, montage="Fp1")
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert batch["label"].tolist() == [0, 1, 1]  # the last T1 would pass the end, T0 is no class
    torch.testing.assert_close(batch["signal"][:, 0, 0], torch.tensor([45.0, 105.0, 15.0]), atol=0.1, rtol=0)
    plain = EEGSource(manifest, "train")
    with pytest.raises(ValueError, match="all give labels or none"):
        EEGDataModule([source, plain], window_seconds=2.0).setup("fit")


def test_broken_files_are_skipped_with_a_warning_and_none_left_is_an_error(folder: Path) -> None:
    data = (folder / "a.edf").read_bytes()
    (folder / "a.edf").write_bytes(data[:-500])
    with pytest.warns(UserWarning, match=r"1 of 2 EEG files are skipped: .*a\.edf is truncated"):
        EEGDataModule(EEGSource(str(folder / "manifest.csv"), "train"), window_seconds=5.0).setup("fit")
    (folder / "b.npz").unlink()
    with pytest.raises(ValueError, match="none of 2 EEG files can be read"):
        EEGDataModule(EEGSource(str(folder / "manifest.csv"), "train"), window_seconds=5.0).setup("fit")


def test_wrong_settings_are_named(folder: Path) -> None:
    source = EEGSource(str(folder))
    for options, fault in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"montage": "C3,XX"}, "unknown electrode 'XX'"),
        ({"highpass": -1}, "positive frequencies"),
        ({"window_seconds": 0}, "window_seconds"),
    ):
        with pytest.raises(ValueError, match=fault):
            EEGDataModule(source, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no clip of 2 is as long as a window of 60 s"):
        EEGDataModule(source, window_seconds=60).setup("fit")
    with pytest.raises(ValueError, match="split is for manifests"):
        EEGSource(str(folder), "train").clips(1)
    with pytest.raises(FileNotFoundError):
        EEGSource(str(folder / "none")).clips(1)


# -- corpora -----------------------------------------------------------------------------------------------------------


def test_eegbci_by_subject_and_run(tmp_path: Path) -> None:
    for subject, run in ((1, 3), (1, 4), (2, 3)):
        record(tmp_path / "x" / f"S{subject:03d}" / f"S{subject:03d}R{run:02d}.edf", 10, events=(Event(2, 4, "T1"),))
    source = EEGSource(str(tmp_path), kind="eegbci", classes=["T1"], subjects=[1], runs=[4])
    (clip,) = source.clips(4.0)
    assert (clip.path.name, clip.start, clip.stop, clip.label) == ("S001R04.edf", 2, 6, 0)
    assert len(EEGSource(str(tmp_path), kind="eegbci").clips(4.0)) == 3


def test_tuev_has_one_window_for_an_event_of_many_channels_and_never_wraps(tmp_path: Path) -> None:
    for subject in range(10):
        path = record(tmp_path / "edf" / "train" / f"subject{subject}" / f"subject{subject}_1.edf", 20)
        path.with_suffix(".rec").write_text("0,0.5,1.5,1\n3,0.5,1.5,1\n0,10,11,6\n1,19,20,3\n")
    path = record(tmp_path / "edf" / "eval" / "000" / "bckg_000_a_.edf", 20)
    path.with_suffix(".rec").write_text("0,4,5,6\n")
    sides = {split: EEGSource(str(tmp_path), split, "TUEV").clips(5.0) for split in ("train", "valid", "test")}
    assert {split: len(clips) for split, clips in sides.items()} == {"train": 24, "valid": 6, "test": 1}
    of_subject = {split: {clip.path.parent.name for clip in clips} for split, clips in sides.items()}
    assert not of_subject["train"] & of_subject["valid"]
    first = sides["train"][:3]
    assert [(clip.start, clip.stop, clip.label) for clip in first] == [(0, 5, 0), (8, 13, 5), (15, 20, 2)]
    assert (sides["test"][0].start, sides["test"][0].label) == (2, 5)
    assert sides["valid"] == EEGSource(str(tmp_path), "valid", "TUEV").clips(5.0)  # the same subjects every time
    path.with_suffix(".rec").write_text("0,4,5,9\n")
    with pytest.raises(ValueError, match=r"bckg_000_a_\.rec, line 1: expected channel,start,end,label of 1 to 6"):
        EEGSource(str(tmp_path), "test", "TUEV").clips(5.0)


def test_tuab_splits_by_subject_also_where_one_has_both_classes(tmp_path: Path) -> None:
    for kind in ("normal", "abnormal"):
        for subject in range(10):
            record(tmp_path / "edf" / "train" / kind / "01_tcp_ar" / f"subj{subject}_s001_t000.edf", 25, rate=50)
        record(tmp_path / "edf" / "eval" / kind / "01_tcp_ar" / f"test{kind}_s001_t000.edf", 25, rate=50)
    sides = {split: EEGSource(str(tmp_path), split, "TUAB").clips(10.0) for split in ("train", "valid", "test")}
    subjects = {split: {clip.path.stem.split("_")[0] for clip in clips} for split, clips in sides.items()}
    assert not subjects["train"] & subjects["valid"]
    assert 2 <= len(subjects["valid"]) <= 4
    assert sorted(clip.label for clip in sides["test"]) == [0, 1]  # type: ignore[type-var]
    data = EEGDataModule(EEGSource(str(tmp_path), "test", "TUAB"), sample_rate=50, window_seconds=10.0)
    data.setup("fit")
    assert len(data.windows["train"]) == 4  # two windows of each 25 s


SUMMARY = """Data Sampling Rate: 256 Hz
File Name: chb23_06.edf
File Start Time: 08:57:57
Number of Seizures in File: 1
Seizure 1 Start Time: 12 seconds
Seizure 1 End Time: 48 seconds

File Name: chb23_07.edf
Number of Seizures in File: 0
"""


def test_chb_mit_windows_inside_a_seizure_are_positive(tmp_path: Path) -> None:
    for name in ("chb23_06", "chb23_07"):
        record(tmp_path / "chb23" / f"{name}.edf", 60, rate=20)
    (tmp_path / "chb23" / "chb23-summary.txt").write_text(SUMMARY)
    assert corpora.chb_mit(tmp_path, "train", 10.0) == []
    labels = {}
    for rule in ("overlap", "border"):
        clips = EEGSource(str(tmp_path), "test", "CHB-MIT", seizure_labels=rule).clips(10.0)  # type: ignore[arg-type]
        labels[rule] = [clip.label for clip in clips if clip.path.stem == "chb23_06"]
        assert not any(clip.label for clip in clips if clip.path.stem == "chb23_07")
    extra = [1] * 6  # every five seconds from 11 to 49, the last that fit
    assert labels["overlap"] == [0, 1, 1, 1, 1, 0, *extra]
    assert labels["border"] == [0, 1, 0, 0, 1, 0, *extra]  # the middle of the seizure is called background


def test_sleep_edf_scores_stages_and_trims_the_day(tmp_path: Path) -> None:
    names = ("EEG Fpz-Cz", "EEG Pz-Oz")
    stages = [
        (0, 4000, "W"),
        (4000, 60, "1"),
        (4060, 90, "2"),
        (4150, 60, "4"),
        (4210, 30, "?"),
        (4240, 30, "R"),
        (4270, 3000, "W"),
    ]
    for night in ("SC4001E0", "SC4011E0", "SC4012E0", "SC4021E0"):
        record(tmp_path / "sleep-cassette" / f"{night}-PSG.edf", 7300, rate=10, names=names)
        hypnogram = tmp_path / "sleep-cassette" / f"{night[:7]}C-Hypnogram.edf"
        events = tuple(Event(start, length, f"Sleep stage {stage}") for start, length, stage in stages)
        record(hypnogram, 100, rate=10, names=("C3",), events=events)
    clips = EEGSource(str(tmp_path), kind="Sleep-EDF").clips(30.0)
    night = [clip for clip in clips if clip.path.name.startswith("SC4001")]
    assert [clip.label for clip in night] == [0, 1, 2, 3, 4, 0]
    assert (night[0].start, night[0].stop, night[-1].stop) == (2200, 4000, 6070)
    sides = {
        s: {c.path.name[:5] for c in EEGSource(str(tmp_path), s, "Sleep-EDF").clips(30.0)} for s in ("train", "valid")
    }
    assert not sides["train"] & sides["valid"]


@pytest.mark.skipif("TOKENIZERS_MM_DATA" not in os.environ, reason="wants real recordings")
def test_real_recordings_of_two_montages_in_one_batch() -> None:
    manifest = str(Path(os.environ["TOKENIZERS_MM_DATA"]) / "eeg" / "manifest.csv")
    data = EEGDataModule(EEGSource(manifest, "valid"), montage="tcp16", highpass=0.5, notch=60)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))["signal"]
    assert batch.shape == (16, 16, 2000)
    assert 5 < float(batch.std()) < 200
    np.testing.assert_allclose(batch.mean(dim=(1, 2)).numpy(), 0, atol=10)
