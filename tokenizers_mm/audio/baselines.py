"""Classical audio coders: Opus (libsndfile), Codec 2 (the programs c2enc and c2dec) and 16-bit PCM.

Opus: RFC 6716. libsndfile offers its bitrate, variable, as a compression level from 1 (6 kbit/s per channel) to 0 (256 kbit/s);
an Ogg file of it carries about 800 bytes of headers and 1 kbit/s of framing, which ``payload`` leaves out.
Codec 2 (Rowe, 2010 on) is a vocoder for 8 kHz speech; its delay, the same for all clips, is taken out.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from functools import partial

import numpy as np
import soundfile
import torch
from torch import Tensor

from tokenizers_mm.audio.files import resample
from tokenizers_mm.evaluation.baseline import Baseline
from tokenizers_mm.tokens import TokenSpec

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
OPUS_BITRATES = (6000, 256000)  # bit/s per channel that compression levels 1 and 0 stand for
CODEC2_RATE = 8000
CODEC2_DELAY = 160  # samples at 8 kHz (20 ms), where STOI over speech is highest for modes 1200 to 3200
CODEC2_TIMEOUT = 600  # seconds for one clip


def _rate(spec: TokenSpec) -> int:
    if spec.sample_rate is None or spec.sample_rate != int(spec.sample_rate):
        raise ValueError(f"spec must have a whole sample_rate in Hz, got {spec.sample_rate}")
    return int(spec.sample_rate)


def _to_int16(signal: Tensor) -> np.ndarray:
    """``[C, N]`` in [-1, 1] as interleaved little-endian 16-bit samples ``[N, C]``."""
    return (signal.clamp(-1, 1) * 32768).round().clamp(-32768, 32767).T.numpy().astype("<i2")


def _from_int16(data: bytes, channels: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, "<i2").reshape(-1, channels).T.astype(np.float32) / 32768)


# -- PCM -------------------------------------------------------------------------------------------


def _pcm_encode(signal: Tensor, spec: TokenSpec) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _to_int16(signal), _rate(spec), format="WAV", subtype="PCM_16")
    return file.getvalue()


def _pcm_decode(data: bytes, spec: TokenSpec) -> Tensor:
    values, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return torch.from_numpy(values.T.copy())


def _pcm_payload(data: bytes) -> int:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        return file.frames * file.channels * 2


# -- Opus ------------------------------------------------------------------------------------------


def _opus_rate(spec: TokenSpec) -> int:
    """The lowest rate of Opus that holds the signal's band."""
    return next((rate for rate in OPUS_RATES if rate >= _rate(spec)), OPUS_RATES[-1])


def _opus_encode(signal: Tensor, spec: TokenSpec, bitrate: int) -> bytes:
    low, high = OPUS_BITRATES
    level = 1 - (bitrate / len(signal) - low) / (high - low)
    if not 0 <= level <= 1:
        raise ValueError(f"{bitrate} bit/s are outside of what Opus takes for {len(signal)} channels")
    values = resample(signal, _rate(spec), _opus_rate(spec)).clamp(-1, 1).T.contiguous().numpy()
    file = io.BytesIO()
    soundfile.write(file, values, _opus_rate(spec), format="OGG", subtype="OPUS", compression_level=level)
    return file.getvalue()


def _opus_decode(data: bytes, spec: TokenSpec) -> Tensor:
    values, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return resample(torch.from_numpy(values.T.copy()), rate, _rate(spec))


def _opus_payload(data: bytes) -> int:
    """Bytes of the Ogg stream's packets without its two header packets (RFC 3533, RFC 7845)."""
    packets, position, packet = [], 0, 0
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            raise ValueError(f"no Ogg page at byte {position}")
        count = data[position + 26]
        lacing = data[position + 27 : position + 27 + count]
        for segment in lacing:
            packet += segment
            if segment < 255:
                packets.append(packet)
                packet = 0
        position += 27 + count + sum(lacing)
    return sum(packets[2:])


def _opus_unavailable(spec: TokenSpec) -> str | None:
    if "OPUS" not in soundfile.available_subtypes("OGG"):
        return "this libsndfile cannot write Opus"
    return None


def _opus(kbps: int) -> Baseline:
    return Baseline(
        f"Opus {kbps}k",
        f"Opus in Ogg by libsndfile, variable bitrate of {kbps} kbit/s; nominal rate without headers and framing.",
        partial(_opus_encode, bitrate=1000 * kbps),
        _opus_decode,
        _opus_unavailable,
        _opus_payload,
    )


# -- Codec 2 ---------------------------------------------------------------------------------------


def _codec2_run(program: str, mode: str, data: bytes) -> bytes:
    done = subprocess.run([program, mode, "-", "-"], input=data, capture_output=True, timeout=CODEC2_TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{program} {mode} fails with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def _codec2_encode(signal: Tensor, spec: TokenSpec, mode: str) -> bytes:
    if len(signal) != 1:
        raise ValueError(f"Codec 2 takes mono, got {len(signal)} channels")
    narrow = resample(signal, _rate(spec), CODEC2_RATE)
    period = CODEC2_RATE * 40 // 1000  # whole frames, plus what the delay pushes out
    tail = CODEC2_DELAY + -(narrow.shape[1] + CODEC2_DELAY) % period
    return _codec2_run("c2enc", mode, _to_int16(torch.nn.functional.pad(narrow, (0, tail))).tobytes())


def _codec2_decode(data: bytes, spec: TokenSpec, mode: str) -> Tensor:
    narrow = _from_int16(_codec2_run("c2dec", mode, data), 1)
    return resample(narrow[:, CODEC2_DELAY:], CODEC2_RATE, _rate(spec))


def _codec2_unavailable(spec: TokenSpec) -> str | None:
    if missing := [program for program in ("c2enc", "c2dec") if shutil.which(program) is None]:
        return f"needs the program {' and '.join(missing)} (Debian's package codec2)"
    return None if spec.channels == 1 else f"takes mono, the codec has {spec.channels or 'any number of'} channels"


def _codec2(mode: str) -> Baseline:
    return Baseline(
        f"Codec 2 {mode}",
        f"c2enc and c2dec in mode {mode} at 8 kHz, 20 ms of delay taken out.",
        partial(_codec2_encode, mode=mode),
        partial(_codec2_decode, mode=mode),
        _codec2_unavailable,
    )


BASELINES: dict[str, Baseline] = {
    **{f"opus-{kbps}": _opus(kbps) for kbps in (6, 8, 12, 16, 24, 32, 64)},
    **{f"codec2-{mode}": _codec2(mode) for mode in ("1200", "2400", "3200")},
    "pcm16": Baseline("16-bit PCM", "WAV with 16 bits per sample.", _pcm_encode, _pcm_decode, payload=_pcm_payload),
}
