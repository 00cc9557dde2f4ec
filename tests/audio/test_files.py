"""Audio files: what is written comes back, blocks are seamless, damage is reported by name."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm import resampling
from tokenizers_mm.audio import files
from tokenizers_mm.tokens import TokenSpec


def audio(rate: float = 24000, channels: int = 1) -> TokenSpec:
    return TokenSpec("audio", (2,), sample_rate=rate, channels=channels)


def tone(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> torch.Tensor:
    """A 300 Hz tone per channel plus a little noise, [C, N]."""
    time = torch.arange(round(seconds * rate)) / rate
    noise = torch.randn(channels, len(time), generator=torch.Generator().manual_seed(seed))
    return 0.5 * torch.sin(2 * math.pi * 300 * time) * torch.linspace(0.5, 1, channels)[:, None] + 0.01 * noise


def snr(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()))


# -- write and read


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extension", [e for e in files.EXTENSIONS if e not in (".ogg", ".oga", ".opus", ".mp3")])
def test_lossless_formats_give_back_16_bit_samples_exactly(tmp_path: Path, extension: str, channels: int) -> None:
    spec, path = audio(channels=channels), tmp_path / f"a{extension}"
    x = (tone(0.3, 24000, channels) * 32768).round().clamp(-32768, 32767) / 32768
    files.write(path, x, spec)
    assert torch.equal(files.read(path, spec), x)


@pytest.mark.parametrize("extension", [".ogg", ".oga", ".opus", ".mp3", ".MP3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_give_back_the_same_length_and_nearly_the_same_sound(
    tmp_path: Path, extension: str, channels: int
) -> None:
    spec, path = audio(channels=channels), tmp_path / f"a{extension}"
    x = tone(1.0, 24000, channels)
    files.write(path, x, spec)
    y = files.read(path, spec)
    assert y.shape == x.shape
    assert snr(x, y) > 12


def test_clipping_saturates_and_never_wraps(tmp_path: Path) -> None:
    x = torch.tensor([[-3.0, -1.0, 0.99999, 1.0, 1.5, 100.0]])
    files.write(tmp_path / "a.wav", x, audio())
    y = files.read(tmp_path / "a.wav", audio())
    torch.testing.assert_close(y, x.clamp(-1, 1), atol=1 / 32768, rtol=0)


def test_writing_makes_folders_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.flac"
    files.write(path, tone(0.1, 24000), audio())
    before = path.read_bytes()

    def breaking() -> object:
        yield tone(0.1, 24000)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="broke"):
        files.write(path, breaking(), audio())
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.flac"]


def test_pieces_write_the_same_file_as_the_whole(tmp_path: Path) -> None:
    x = tone(1.0, 24000, 2)
    files.write(tmp_path / "whole.wav", x, audio(channels=2))
    files.write(tmp_path / "pieces.wav", (p for p in x.split(1001, dim=1)), audio(channels=2))
    assert (tmp_path / "whole.wav").read_bytes() == (tmp_path / "pieces.wav").read_bytes()


@pytest.mark.parametrize(
    ("signal", "error", "message"),
    [
        (torch.full((1, 10), math.nan), ValueError, "finite"),
        (torch.zeros(1, 0), ValueError, "no samples"),
        (torch.zeros(10), ValueError, r"\[1, N\], got \[10\]"),
        (torch.zeros(2, 10), ValueError, r"\[1, N\], got \[2, 10\]"),
        (torch.zeros(1, 10, dtype=torch.int16), TypeError, "int16"),
        ([1.0, 2.0], TypeError, "float"),
    ],
)
def test_unwritable_signals_are_refused(tmp_path: Path, signal: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        files.write(tmp_path / "a.wav", signal, audio())  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_unwritable_targets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.wav"):
        files.write(tmp_path / "folder.wav", tone(0.1, 24000), audio())
    with pytest.raises(ValueError, match=r"a\.xyz.*\.wav, \.flac"):
        files.write(tmp_path / "a.xyz", tone(0.1, 24000), audio())
    with pytest.raises(ValueError, match=r"a\.mp3 as MP3 at 7000 Hz"):
        files.write(tmp_path / "a.mp3", tone(0.1, 7000), audio(7000))


# -- channels, rates, excerpts


def test_channels_are_averaged_copied_or_refused(tmp_path: Path) -> None:
    stereo, path = tone(0.1, 24000, 2), tmp_path / "stereo.wav"
    soundfile.write(path, stereo.T.numpy(), 24000, "FLOAT")
    torch.testing.assert_close(files.read(path, audio()), stereo.mean(0, keepdim=True))
    torch.testing.assert_close(files.read(path, audio(channels=0)), stereo)
    mono = tmp_path / "mono.wav"
    soundfile.write(mono, stereo[0].numpy(), 24000, "FLOAT")
    torch.testing.assert_close(files.read(mono, audio(channels=2)), stereo[:1].repeat(2, 1))
    with pytest.raises(ValueError, match=r"stereo\.wav has 2 channels.*3"):
        files.read(path, audio(channels=3))


@settings(max_examples=40, deadline=None)
@given(
    rates=st.sampled_from(
        [(8000, 24000), (44100, 16000), (48000, 24000), (22050, 24000), (24000, 44100), (11025, 8000)]
    ),
    n=st.integers(1, 30000),
)
def test_resample_matches_torchaudio_and_has_the_exact_length(rates: tuple[int, int], n: int) -> None:
    from torchaudio.functional import resample

    x = torch.rand(2, n, generator=torch.Generator().manual_seed(n)) - 0.5
    y = files.resample(x, *rates)
    assert y.shape == (2, -(-n * rates[1] // rates[0]))
    oracle = resample(x, *rates)
    torch.testing.assert_close(y[:, : oracle.shape[1]], oracle[:, : y.shape[1]], atol=1e-5, rtol=0)


def test_awkward_ratios_use_the_same_filter_without_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tone(0.5, 44100, 2)
    tabled = files.resample(x, 44100, 16000)
    monkeypatch.setattr(resampling, "_TABLE", 0)
    torch.testing.assert_close(files.resample(x, 44100, 16000), tabled, atol=1e-5, rtol=0)
    monkeypatch.undo()
    sine = torch.sin(torch.arange(44101) / 44101 * 2 * math.pi * 300)[None]
    y = files.resample(sine, 44101, 24000)  # coprime: a table would hold 10**9 taps
    assert snr(torch.sin(torch.arange(24000) / 24000 * 2 * math.pi * 300)[100:-100], y[0, 100:-100]) > 40


def test_resampling_keeps_pitch_and_removes_what_would_alias() -> None:
    time = torch.arange(44100) / 44100
    low, high = torch.sin(2 * math.pi * 1000 * time), torch.sin(2 * math.pi * 11000 * time)
    y = files.resample((low + high)[None], 44100, 16000)
    wanted = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)
    assert snr(wanted[100:-100], y[0, 100:-100]) > 40


def test_an_excerpt_is_that_part_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    files.write(path, tone(2.0, 44100), audio(44100))
    whole, part = files.read(path, audio()), files.read(path, audio(), offset=0.5, seconds=1)
    assert part.shape == (1, 24000)
    assert snr(whole[:, 12100:35900], part[:, 100:-100]) > 60
    with pytest.raises(ValueError, match="no samples from sample"):
        files.read(path, audio(), offset=3)


def test_info_reads_the_header(tmp_path: Path) -> None:
    files.write(tmp_path / "a.flac", tone(1.5, 44100, 2), audio(44100, 2))
    assert files.info(tmp_path / "a.flac") == files.AudioInfo(44100, 2, 66150, 1.5, "FLAC/PCM_16")


# -- blocks


@pytest.mark.parametrize("extension", [".wav", ".mp3", ".ogg"])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.013, 0.5, 60])
def test_blocks_join_to_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, rate: int, seconds: float
) -> None:
    monkeypatch.setattr(files, "_PIECE", 3001)  # many borders
    spec, path = audio(24000), tmp_path / f"a{extension}"
    files.write(path, tone(1.237, rate, 2), audio(rate, 2))
    whole, parts = files.read(path, spec), list(files.blocks(path, spec, seconds))
    assert {p.shape[1] for p in parts[:-1]} <= {round(seconds * 24000)}
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
    assert whole.shape[1] == math.ceil(files.info(path).frames * 24000 / rate)


@settings(max_examples=60, deadline=None)
@given(
    rates=st.tuples(st.integers(1000, 9000), st.integers(1000, 9000)),
    sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=6),
)
def test_resampling_runs_on_across_pieces_of_any_size(rates: tuple[int, int], sizes: list[int]) -> None:
    x = torch.rand(1, sum(sizes), generator=torch.Generator().manual_seed(sum(sizes))) - 0.5
    joined = torch.cat(list(resampling.resampled(iter(x.split(sizes, dim=1)), *rates)), dim=1)
    torch.testing.assert_close(joined, files.resample(x, *rates), atol=1e-5, rtol=0)


def test_three_hours_are_never_in_memory(tmp_path: Path) -> None:
    path, hour = tmp_path / "long.wav", np.zeros((8000 * 3600, 1), dtype=np.int16)
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16") as file:
        for _ in range(3):
            file.write(hour)
    del hour
    tracemalloc.start()
    samples = largest = 0
    for block in files.blocks(path, audio(16000), 10.0):
        samples, largest = samples + block.shape[1], max(largest, block.untyped_storage().nbytes())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples == 3 * 3600 * 16000
    assert largest == 10 * 16000 * 4
    assert peak < 20e6  # decoded whole, the file takes 350 MB


# -- bad files


def _broken(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.wav"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not audio " * 100)
    elif kind == "raw":
        path = path.with_suffix(".raw")
        path.write_bytes(b"\0" * 1000)
    elif kind == "no-samples":
        soundfile.write(path, np.zeros((0, 1)), 16000)
    elif kind == "nan":
        soundfile.write(path, np.array([0.0, np.nan, 0.0]), 16000, "FLOAT")
    elif kind == "rate":
        soundfile.write(path, np.zeros(100), 3)
    elif kind.startswith("truncated"):
        path = path.with_suffix(f".{kind.split('-')[1]}")
        files.write(path, tone(2.0, 24000), audio())
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("missing", FileNotFoundError, "no audio file"),
        ("folder", IsADirectoryError, "folder"),
        ("empty", ValueError, "empty"),
        ("text", ValueError, "not an audio file"),
        ("raw", ValueError, "not an audio file"),
        ("no-samples", ValueError, "no samples"),
        ("nan", ValueError, "NaN"),
        ("rate", ValueError, "3 Hz"),
        ("truncated-wav", ValueError, "truncated"),
        ("truncated-flac", ValueError, "truncated"),
        ("truncated-mp3", ValueError, "truncated"),
        ("truncated-aiff", ValueError, "truncated"),
    ],
)
def test_a_bad_file_gives_one_error_that_names_it(tmp_path: Path, kind: str, error: type, message: str) -> None:
    path = _broken(tmp_path, kind)
    for use in (lambda: files.read(path, audio()), lambda: list(files.blocks(path, audio(), 1.0))):
        with pytest.raises(error, match=message) as caught:
            use()
        assert type(caught.value) is error
        assert path.name in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_damage_gives_samples_or_one_error(tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.flac"
    files.write(path, tone(0.05, 24000), audio())
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(junk)] = junk
    path.write_bytes(data)
    try:
        x = files.read(path, audio())
    except ValueError as error:
        x, message = None, str(error)
    assert torch.isfinite(x).all() if x is not None else "damaged.flac" in message


def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    files.write(path, tone(0.5, 24000), audio())
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the 36 bits of STREAMINFO that count samples, all set
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.flac is (damaged|truncated)"):
        files.read(path, audio())


def test_a_stream_that_does_not_know_its_length_is_read_to_its_end(tmp_path: Path) -> None:
    path, x = tmp_path / "a.flac", tone(0.5, 24000)
    files.write(path, x, audio())
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # zero stands for unknown, as encoders write into a pipe
    data[22:26] = b"\0" * 4
    path.write_bytes(data)
    assert files.read(path, audio()).shape == x.shape
    assert files.info(path).seconds == 0.5


def test_specs_of_other_modalities_are_refused(tmp_path: Path) -> None:
    files.write(tmp_path / "a.wav", tone(0.1, 24000), audio())
    with pytest.raises(ValueError, match="audio spec"):
        files.read(tmp_path / "a.wav", TokenSpec("image", (2,)))
