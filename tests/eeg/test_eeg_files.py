"""EEG files: one recording in every format, pieces equal to the whole, MNE as the oracle, clear words for what is broken."""

from __future__ import annotations

import os
import tracemalloc
import warnings
from pathlib import Path

import mne
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizers_mm.eeg import files, filters
from tokenizers_mm.eeg.files import Event, Preprocessing
from tokenizers_mm.tokens import TokenSpec

NAMES = ("Fp1", "F7", "C3", "Cz", "C4", "O1")


def spec(rate: float | None = 200, channels: int = 0) -> TokenSpec:
    return TokenSpec("eeg", (4,), axes=("channel", "time"), hop=(1, 100), sample_rate=rate, channels=channels)


def noise(channels: int, samples: int, seed: int = 0) -> Tensor:
    """Smooth noise of 40 microvolts with an offset."""
    x = torch.randn(channels, samples + 8, generator=torch.Generator().manual_seed(seed))
    return 40 * x.unfold(1, 9, 1).mean(dim=2) * 3 + 5


def archive(path: Path, signal: np.ndarray, names: tuple[str, ...], rate: float = 200, **more: object) -> Path:
    np.savez(path, signal_uv=signal, channels=np.array(names), sfreq=rate, **more)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Tensor]:
    """One recording in every format that MNE can make here, and its samples."""
    folder, x = tmp_path_factory.mktemp("formats"), noise(len(NAMES), 1600)
    paths = {kind: folder / f"x.{kind}" for kind in ("edf", "bdf", "npz")}
    for path in paths.values():
        files.write(path, x, spec(), names=NAMES, events=(Event(1.5, 2.0, "T1"),))
    info = mne.create_info(list(NAMES), 200.0, "eeg")
    raw = mne.io.RawArray(x.double().numpy() * 1e-6, info, verbose="error")
    raw.set_annotations(mne.Annotations([1.5], [2.0], ["T1"]))
    paths["fif"] = folder / "x_raw.fif"
    raw.save(paths["fif"], verbose="error")
    paths["vhdr"] = brainvision(folder, x)
    return paths, x


def brainvision(folder: Path, x: Tensor) -> Path:
    """A BrainVision recording: header, marker file, 32-bit floats in microvolts."""
    x.T.contiguous().numpy().astype("<f4").tofile(folder / "x.eeg")
    channels = "\n".join(f"Ch{i + 1}={name},,1,µV" for i, name in enumerate(NAMES))
    (folder / "x.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=x.eeg\n"
        f"MarkerFile=x.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels={len(NAMES)}\n"
        "SamplingInterval=5000\n\n[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\n" + channels + "\n",
        encoding="utf-8",
    )
    (folder / "x.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=x.eeg\n\n"
        "[Marker Infos]\nMk1=Comment,T1,301,400,0\n",
        encoding="utf-8",
    )
    return folder / "x.vhdr"


@pytest.mark.parametrize("kind", ["edf", "bdf", "npz", "fif", "vhdr"])
def test_every_format_gives_the_same_microvolts_names_and_events(formats, kind: str) -> None:
    paths, x = formats
    info = files.info(paths[kind])
    assert (info.names, info.sample_rate, info.frames, info.seconds) == (NAMES, 200.0, 1600, 8.0)
    assert [(e.onset, e.duration) for e in info.events] == [(1.5, 2.0)]
    assert info.events[0].code.endswith("T1")
    tolerance = {"edf": 2 * float(x.abs().max()) / 65000, "fif": 1e-3}.get(kind, 1e-4)
    torch.testing.assert_close(files.read(paths[kind], spec()), x, atol=tolerance, rtol=0)


def test_eeglab_files_are_read(tmp_path: Path) -> None:
    from scipy.io import savemat

    x = noise(3, 400)
    places = np.zeros(3, dtype=[("labels", object), ("type", object), ("X", float), ("Y", float), ("Z", float)])
    places["labels"], places["type"] = ("C3", "Cz", "C4"), "EEG"
    content = {
        "data": x.numpy(), "nbchan": 3.0, "trials": 1.0, "srate": 200.0, "pnts": 400.0, "xmin": 0.0, "xmax": 1.995,
        "chanlocs": places, "event": np.zeros(0), "setname": "x", "epoch": np.zeros(0), "chaninfo": {"nosedir": "+X"},
        "ref": "common",
    }  # fmt: skip
    savemat(tmp_path / "x.set", {"EEG": content}, appendmat=False)
    torch.testing.assert_close(files.read(tmp_path / "x.set", spec()), x, atol=1e-3, rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 900),
    rate=st.sampled_from([100.0, 128.5, 160.0, 200.0, 256.0]),
    channels=st.integers(1, 20),
    cut=st.integers(1, 900),
    kind=st.sampled_from(["edf", "bdf", "npz"]),
)
def test_writing_keeps_length_rate_and_values(
    tmp_path_factory, n: int, rate: float, channels: int, cut: int, kind: str
) -> None:
    path, x = tmp_path_factory.mktemp("out") / f"y.{kind}", noise(channels, n)
    files.write(path, iter(x.split(cut, dim=1)), spec(rate))
    info = files.info(path)
    assert (info.frames, info.sample_rate, len(info.names)) == (n, rate, channels)
    step = {"edf": 2 / 65000, "bdf": 2e-6, "npz": 0}[kind] * max(1.0, float(x.abs().max()))
    torch.testing.assert_close(files.read(path, spec(rate)), x, atol=step + 1e-5, rtol=0)


def test_mne_and_edfio_read_what_we_write_as_we_do(tmp_path: Path) -> None:
    x = noise(4, 777)
    files.write(tmp_path / "x.edf", x, spec(160), names=("C3", "Cz", "C4", "Pz"))
    raw = mne.io.read_raw_edf(tmp_path / "x.edf", verbose="error")
    assert raw.ch_names == ["C3", "Cz", "C4", "Pz"]
    assert raw.info["sfreq"] == 160
    np.testing.assert_allclose(raw.get_data()[:, :777] * 1e6, x.numpy(), atol=0.01)
    assert raw.annotations[-1]["description"] == "BAD_ACQ_SKIP"  # what fills the last record


@pytest.mark.parametrize("unit", ["uV", "mV", "V", "nV", ""])
def test_units_become_microvolts(tmp_path: Path, unit: str) -> None:
    x = noise(2, 400)
    files.write(tmp_path / "x.edf", x, spec())
    data = (tmp_path / "x.edf").read_bytes()
    at = 256 + 3 * (16 + 80)  # two channels and the annotations
    changed = data[:at] + unit.ljust(8).encode() * 2 + data[at + 16 :]
    (tmp_path / "y.edf").write_bytes(changed)
    factor = {"uV": 1, "mV": 1e3, "V": 1e6, "nV": 1e-3, "": 1}[unit]
    torch.testing.assert_close(files.read(tmp_path / "y.edf", spec()), x * factor, rtol=1e-3, atol=0.01 * factor)


# -- preprocessing -----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 3000),
    seconds=st.floats(0.05, 5),
    rate=st.sampled_from([100, 160, 200, 250, 256]),
    band=st.sampled_from([(None, None), (0.5, None), (None, 40.0), (1.0, 45.0)]),
    notch=st.sampled_from([None, 50.0, 60.0]),
)
def test_pieces_joined_are_the_whole(tmp_path_factory, samples: int, seconds: float, rate: int, band, notch) -> None:
    path = archive(tmp_path_factory.mktemp("x") / "x.npz", noise(3, samples).numpy(), ("C3", "Cz", "C4"), 160)
    steps = Preprocessing("average", "C3,C4-Cz", *band, notch)
    whole = files.read(path, spec(rate), preprocessing=steps)
    parts = list(files.blocks(path, spec(rate), seconds, preprocessing=steps))
    assert {part.shape[1] for part in parts[:-1]} <= {round(seconds * rate)}
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=0)
    assert whole.shape == (2, -(-samples * rate // 160))


def test_small_blocks_of_the_recording_change_nothing() -> None:
    x, taps = noise(2, 5000), filters.kernel(200, (0.5, 40.0), 50)
    whole = filters.apply(x, taps)
    for size in (1, 7, 300, 4999):
        pieces = torch.cat(list(filters.applied(iter(x.split(size, dim=1)), taps)), dim=1) if size > 1 else whole
        torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("band", [(0.1, 75.0), (0.5, 40.0), (None, 30.0), (1.0, None)])
def test_band_pass_is_mnes(band: tuple[float | None, float | None]) -> None:
    x = noise(2, 160 * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = mne.filter.filter_data(x.double().numpy(), 160.0, *band, verbose="error")
    ours = filters.apply(x, filters.kernel(160, band))
    inside = slice(20 * 160 - 800, 20 * 160 + 800)  # MNE goes on beyond the ends with zeros after the reflection
    error = np.sqrt(np.mean((ours[:, inside].numpy() - oracle[:, inside]) ** 2))
    assert error < 0.01 * oracle.std()


@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_a_notch_removes_mains_and_leaves_the_rhythms(mains: float) -> None:
    time = torch.arange(4000) / 200
    alpha, hum = (torch.sin(2 * torch.pi * f * time)[None] for f in (10.0, mains))
    y = filters.apply(alpha + hum, filters.kernel(200, (0.5, None), mains))
    assert float((y - alpha)[:, 800:-800].abs().max()) < 0.02


def test_filters_do_not_shift_in_time_and_take_flat_channels() -> None:
    x = torch.zeros(2, 2000)
    x[0, 1000] = 100
    y = filters.apply(x, filters.kernel(200, (1.0, 40.0)))
    assert int(y[0].argmax()) == 1000
    assert not y[1].any()


def test_montage_and_reference(tmp_path: Path) -> None:
    x = noise(6, 200)
    path = archive(tmp_path / "x.npz", x.numpy(), ("EEG FP1-REF", "EEG F7-REF", "EEG C3-REF", "Cz..", "c4", "EOG left"))
    eeg = x[:5]
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(files.read(path, spec()), eeg, **close)
    read = lambda **options: files.read(path, spec(), preprocessing=options)  # noqa: E731
    torch.testing.assert_close(read(montage="Fp1-F7,C4"), torch.stack([x[0] - x[1], x[4]]), **close)
    torch.testing.assert_close(read(reference="average"), eeg - eeg.mean(dim=0), **close)
    torch.testing.assert_close(read(reference="C3,C4", montage=["Cz"]), x[3:4] - (x[2] + x[4]) / 2, **close)


def test_sixteen_channels_are_the_temporal_central_parasagittal_montage(tmp_path: Path) -> None:
    from tokenizers_mm.eeg.electrodes import TCP16, TEN_TWENTY

    x = noise(19, 200)
    old = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}
    path = archive(tmp_path / "x.npz", x.numpy(), tuple(f"EEG {old.get(n, n).upper()}-LE" for n in TEN_TWENTY))
    y = files.read(path, spec(channels=16))
    assert y.shape == (16, 200)
    torch.testing.assert_close(y[1], x[TEN_TWENTY.index("F7")] - x[TEN_TWENTY.index("T7")], atol=1e-4, rtol=0)
    files.write(tmp_path / "y.edf", y, spec(channels=16))
    assert files.info(tmp_path / "y.edf").names == TCP16
    again = files.read(tmp_path / "y.edf", spec(channels=16))  # recorded derivations are taken as they are
    torch.testing.assert_close(again, y, atol=0.02, rtol=0)
    assert files.read(path, spec(channels=19)).shape == (19, 200)
    with pytest.raises(ValueError, match=r"x\.npz has 19 channels, expected 5"):
        files.read(path, spec(channels=5))


def test_resampling_keeps_rhythms_and_removes_what_would_alias(tmp_path: Path) -> None:
    time = torch.arange(5120) / 512
    x = torch.stack([torch.sin(2 * torch.pi * 10 * time), torch.sin(2 * torch.pi * 160 * time)]) * 50
    path = archive(tmp_path / "x.npz", x.numpy(), ("C3", "C4"), 512)
    y = files.read(path, spec())
    wanted = 50 * torch.sin(2 * torch.pi * 10 * torch.arange(2000) / 200)
    assert float((y[0] - wanted)[200:-200].abs().max()) < 0.1
    assert float(y[1, 200:-200].abs().max()) < 0.1


def test_a_stretch_is_read_alone(tmp_path: Path) -> None:
    x = noise(3, 2000)
    path = archive(tmp_path / "x.npz", x.numpy(), ("C3", "Cz", "C4"))
    torch.testing.assert_close(files.read(path, spec(), offset=2.5, seconds=1.0), x[:, 500:700])
    with pytest.raises(ValueError, match="no samples from 11 s"):
        files.read(path, spec(), offset=11)


def test_an_edf_signal_that_is_no_eeg_does_not_set_the_rate(tmp_path: Path) -> None:
    import pyedflib

    header = {
        "dimension": "uV",
        "physical_min": -500.0,
        "physical_max": 500.0,
        "digital_min": -32767,
        "digital_max": 32767,
    }
    with pyedflib.EdfWriter(str(tmp_path / "x.edf"), 2, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for i, (label, rate) in enumerate((("EEG C3-REF", 100), ("EMG chin", 400))):
            file.setSignalHeader(
                i, {"label": label, "sample_frequency": rate, "transducer": "", "prefilter": "", **header}
            )
        file.writeSamples([np.full(300, 7.0), np.full(1200, 9.0)])
    info = files.info(tmp_path / "x.edf")
    assert (info.names, info.sample_rate, info.frames) == (("EEG C3-REF",), 100.0, 300)


# -- bad input ---------------------------------------------------------------------------------------------------------


def broken_files(folder: Path) -> dict[str, Path]:
    x = noise(3, 1000)
    files.write(folder / "whole.edf", x, spec())
    data = (folder / "whole.edf").read_bytes()
    (folder / "short.edf").write_bytes(data[: len(data) - 900])
    (folder / "header.edf").write_bytes(data[:100])
    (folder / "text.edf").write_text("this is no EEG" * 300)
    (folder / "empty.edf").touch()
    (folder / "x.wav").write_bytes(b"RIFF")
    (folder / "cut.fif").write_bytes(b"\0" * 64)
    (folder / "half.npz").write_bytes(archive(folder / "full.npz", x.numpy(), ("C3", "Cz", "C4")).read_bytes()[:5000])
    np.savez(folder / "lacks.npz", signal_uv=x.numpy())
    np.savez(folder / "names.npz", signal_uv=x.numpy(), channels=np.array(["C3"]), sfreq=200.0)
    np.savez(folder / "rate.npz", signal_uv=x.numpy(), channels=np.array(["C3", "Cz", "C4"]), sfreq=np.float64("nan"))
    np.savez(folder / "pickled.npz", signal_uv=np.array([{}], dtype=object), channels=np.array(["C3"]), sfreq=200.0)
    nan = x.numpy().copy()
    nan[1, 300:320] = np.nan
    archive(folder / "nan.npz", nan, ("C3", "Cz", "C4"))
    archive(folder / "eog.npz", x.numpy(), ("EOG", "ECG", "EMG"))
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("short.edf", "truncated: its header promises 5 records, 4 are there"),
        ("header.edf", "not an EDF file, or its header is damaged"),
        ("text.edf", "not an EDF file, or its header is damaged"),
        ("empty.edf", "is an empty file"),
        ("x.wav", "no EEG file that is read here: expected one of .edf"),
        ("cut.fif", "not a fif|not a FIF"),
        ("half.npz", "not a whole NumPy archive"),
        ("lacks.npz", r"lacks the arrays \['channels', 'sfreq'\]"),
        ("names.npz", "one row per channel"),
        ("rate.npz", "claims a sample rate of nan Hz"),
        ("pickled.npz", "not a whole NumPy archive"),
        ("nan.npz", "NaN or infinity in channel Cz at 1.5 s"),
        ("eog.npz", "holds no EEG channel"),
    ],
)
def test_each_fault_is_one_error_that_names_file_and_fault(tmp_path: Path, name: str, fault: str) -> None:
    path = broken_files(tmp_path)[name]
    with pytest.raises(ValueError, match=fault) as error:
        files.read(path, spec())
    assert name in str(error.value)


def test_missing_files_folders_and_electrodes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.edf"):
        files.read(tmp_path / "no.edf", spec())
    with pytest.raises(IsADirectoryError):
        files.read(tmp_path, spec())
    path = archive(tmp_path / "x.npz", noise(2, 200).numpy(), ("C3", "C4"))
    with pytest.raises(ValueError, match=r"x\.npz has no electrode Pz for the channel Cz-Pz|no electrode Cz"):
        files.read(path, spec(), preprocessing={"montage": "Cz-Pz"})
    with pytest.raises(ValueError, match="unknown electrode 'Q7'"):
        files.read(path, spec(), preprocessing={"montage": "C3,Q7"})
    with pytest.raises(ValueError, match=r"reference, montage, highpass.*got 'lowcut'"):
        files.read(path, spec(), preprocessing={"lowcut": 1})
    with pytest.raises(ValueError, match="lower to a higher"):
        files.read(path, spec(), preprocessing={"highpass": 40, "lowpass": 4})
    with pytest.raises(ValueError, match="begins at 120 Hz"):
        files.read(path, spec(), preprocessing={"highpass": 120})


def test_odd_recordings_come_back_right(tmp_path: Path) -> None:
    flat = np.zeros((2, 400), dtype=np.int16)  # integers, and nothing in them
    assert not files.read(archive(tmp_path / "flat.npz", flat, ("C3", "C4")), spec()).any()
    second = archive(tmp_path / "second.npz", noise(2, 160).numpy(), ("C3", "C4"), 160)
    steps = {"highpass": 0.1, "lowpass": 75, "notch": 60}  # a filter of half a minute on a second
    assert files.read(second, spec(), preprocessing=steps).shape == (2, 200)
    many = archive(tmp_path / "many.npz", noise(300, 100).numpy(), tuple(f"E{i}" for i in range(300)))
    assert files.read(many, spec()).shape == (300, 100)
    rate = archive(tmp_path / "rate.npz", noise(2, 1234).numpy(), ("C3", "C4"), 123.4)
    assert files.read(rate, spec()).shape == (2, 2000)


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 5, dtype=torch.int16), torch.full((2, 5), float("nan")), torch.zeros(5)]
)
def test_signals_that_no_file_can_hold_are_refused_and_leave_nothing_behind(tmp_path: Path, bad: Tensor) -> None:
    with pytest.raises((ValueError, TypeError)):
        files.write(tmp_path / "x.edf", bad, spec())
    with pytest.raises(ValueError, match="extension must be one of"):
        files.write(tmp_path / "x.fif", torch.zeros(2, 5), spec())
    assert not list(tmp_path.iterdir())


def test_an_hour_is_never_in_memory(tmp_path: Path) -> None:
    minute = noise(8, 60 * 250)
    files.write(tmp_path / "long.edf", (minute for _ in range(60)), spec(250))
    next(files.blocks(tmp_path / "long.edf", spec(), 10))
    tracemalloc.start()
    total = sum(
        block.shape[1] for block in files.blocks(tmp_path / "long.edf", spec(), 10, preprocessing={"highpass": 1})
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 3600 * 200
    assert peak < 60e6  # the whole is 230 MB as MNE would hold it


@pytest.mark.skipif("TOKENIZERS_MM_DATA" not in os.environ, reason="wants real recordings")
def test_a_real_edf_holds_what_its_archive_holds() -> None:
    folder = Path(os.environ["TOKENIZERS_MM_DATA"]) / "eeg"
    a, b = (files.read(folder / name, spec(None)) for name in ("S001R02.edf", "S001R02_64ch.npz"))
    torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
