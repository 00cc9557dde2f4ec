"""Make the sample sounds of this folder and their manifest.csv: `python eval/samples/make_samples.py`.

Speech is spoken by espeak-ng (`apt-get install espeak-ng`) and depends on its version; music and noises are computed here
and always come out the same. Sentences and tunes were made up for this purpose.
"""

from __future__ import annotations

import csv
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from tokenizers_mm.audio import files
from tokenizers_mm.tokens import TokenSpec

FOLDER = Path(__file__).resolve().parent
SPEECH_RATE = 16000
LEVEL = 10 ** (-3 / 20)  # every clip peaks at -3 dBFS

# name, split, voice, words per minute, pitch (0 to 99), sentence
SPEECH = [
    (
        "en-1",
        "train",
        "en-gb",
        165,
        45,
        "The lighthouse keeper counted seven boats before the fog rolled over the harbour.",
    ),
    (
        "en-2",
        "train",
        "en-us+f3",
        175,
        55,
        "Please water the tomatoes twice a week, and never in the bright midday sun.",
    ),
    (
        "en-3",
        "train",
        "en-gb-scotland+m3",
        160,
        35,
        "A narrow road winds between the hills, past three stone bridges and a mill.",
    ),
    (
        "en-4",
        "train",
        "en-us+f2",
        185,
        60,
        "We measured the room again, because the new shelf was thirty centimetres too long.",
    ),
    ("en-5", "train", "en-us+m7", 155, 30, "Old clocks tick louder at night, or so my grandfather used to say."),
    ("en-6", "train", "en-gb+f4", 170, 65, "Which of these keys opens the blue door at the end of the corridor?"),
    ("de-1", "train", "de", 165, 45, "Am frühen Morgen roch die ganze Straße nach frischem Brot und nassem Laub."),
    ("de-2", "train", "de+f2", 170, 58, "Der kleine Zug hält an jeder Wiese, damit die Kühe einsteigen können."),
    ("fr-1", "train", "fr", 165, 45, "Le chat du voisin dort toujours sur le piano pendant la leçon de musique."),
    ("fr-2", "train", "fr+f3", 175, 60, "Nous avons planté quatre cerisiers derrière la vieille grange."),
    ("es-1", "train", "es", 165, 42, "La panadera guarda las mejores naranjas para los domingos de lluvia."),
    ("es-2", "train", "es+f2", 175, 60, "Ayer vimos una nube con forma de bicicleta sobre la montaña."),
    ("it-1", "train", "it", 165, 48, "Il barcaiolo canta piano quando la luna si specchia nel canale."),
    ("pl-1", "train", "pl+m3", 160, 38, "Wieczorem sąsiadka podlewa ogród i opowiada bajki swoim kotom."),
    ("ru-1", "train", "ru", 165, 45, "Старый трамвай медленно поднимается на холм мимо жёлтых домов."),
    ("tr-1", "train", "tr+f2", 170, 58, "Balıkçılar sabah erkenden ağlarını toplayıp limana döndüler."),
    ("hi-1", "train", "hi", 165, 45, "नदी के किनारे बच्चे रंगीन पतंग उड़ा रहे हैं।"),
    ("sw-1", "train", "sw+m7", 160, 40, "Watoto wanacheza chini ya mti mkubwa karibu na shule."),
    ("en-10", "train", "en-us+m3", 170, 40, "Thunder shook the windows, yet the baby slept through the whole storm."),
    (
        "en-11",
        "train",
        "en-gb+f2",
        165,
        62,
        "She mixed lemon juice, honey and a spoonful of ginger into the warm water.",
    ),
    ("de-4", "train", "de+f3", 165, 62, "Vier junge Füchse spielen hinter der Scheune im hohen Gras."),
    ("fr-4", "train", "fr+m3", 160, 38, "Chaque jeudi, le facteur apporte une lettre sans timbre."),
    ("es-3", "train", "es+m7", 160, 35, "El viejo faro guía a los barcos que vuelven de noche."),
    ("nl-1", "train", "nl+f2", 170, 58, "De molenaar fietst elke ochtend langs de smalle vaart."),
    ("el-1", "train", "el", 165, 45, "Το μικρό καΐκι γύρισε αργά στο ήσυχο λιμάνι."),
    ("cs-1", "train", "cs+f3", 165, 60, "Na dvoře roste stará jabloň plná červených jablek."),
    ("en-7", "valid", "en-us", 170, 50, "Nine quick foxes borrowed my umbrella and forgot to bring it back."),
    ("pt-1", "valid", "pt+f3", 170, 58, "O relógio da praça atrasa cinco minutos todos os invernos."),
    ("sv-1", "valid", "sv", 165, 44, "Båten gled tyst genom dimman mot den lilla ön."),
    ("en-8", "test", "en-gb", 170, 50, "Her brother painted the garden gate green on Thursday."),
    ("en-9", "test", "en-us+f3", 180, 60, "Could you pass me the heavy box of books, please?"),
    ("de-3", "test", "de+m3", 165, 38, "Zwölf Enten überqueren gemeinsam die breite Brücke."),
    ("fr-3", "test", "fr+f2", 170, 58, "La neige fond vite au bord du lac."),
    ("fi-1", "test", "fi", 165, 45, "Järven rannalla palaa pieni nuotio."),
    ("id-1", "test", "id+f4", 170, 60, "Ibu membeli mangga manis di pasar pagi."),
]


@dataclass(frozen=True)
class Row:
    """One line of the manifest."""

    path: str
    label: str
    language: str
    split: str
    sample_rate: int
    channels: int
    seconds: float
    source: str


@dataclass(frozen=True)
class Clip:
    """A sound [C, N] with its line of the manifest."""

    row: Row
    signal: np.ndarray


def tone(frequency: float, seconds: float, rate: int, *, decay: float, brightness: float = 0.5) -> np.ndarray:
    """A plucked or struck note: harmonics that fall off, the higher the sooner."""
    time = np.arange(round(seconds * rate)) / rate
    note = np.zeros_like(time)
    for k in range(1, 13):
        if k * frequency < 0.45 * rate:
            note += brightness ** (k - 1) * np.exp(-time * decay * k**0.7) * np.sin(2 * np.pi * k * frequency * time)
    return note * np.minimum(1, time / 0.005)


def add(track: np.ndarray, sound: np.ndarray, at: float, rate: int) -> None:
    """Mix a sound into a track at a time in seconds, in place; what hangs over the end is cut."""
    start = round(at * rate)
    piece = sound[: len(track) - start]
    track[start : start + len(piece)] += piece


def melody(seconds: float, rate: int, seed: int, *, beat: float = 0.25, base: float = 262.0) -> np.ndarray:
    """A random walk on the pentatonic scale."""
    random, track, step = np.random.default_rng(seed), np.zeros(round(seconds * rate)), 4
    for at in np.arange(0, seconds - beat, beat):
        step = int(np.clip(step + random.integers(-2, 3), 0, 9))
        semitones = (0, 2, 4, 7, 9)[step % 5] + 12 * (step // 5)
        add(track, random.uniform(0.6, 1) * tone(base * 2 ** (semitones / 12), 3 * beat, rate, decay=5), at, rate)
    return track


def chords(seconds: float, rate: int, *, bar: float = 1.0, base: float = 131.0) -> np.ndarray:
    """Soft triads, one per bar."""
    track = np.zeros(round(seconds * rate))
    for bar_number, root in zip(range(int(np.ceil(seconds / bar))), (0, 9, 5, 7) * 8, strict=False):
        for semitones in (root, root + (3 if root == 9 else 4), root + 7):
            note = tone(base * 2 ** (semitones / 12), 1.5 * bar, rate, decay=1.5, brightness=0.35)
            add(track, note * np.minimum(1, np.arange(len(note)) / (0.08 * rate)), bar_number * bar, rate)
    return track


def drums(seconds: float, rate: int, seed: int, *, beat: float = 0.25) -> np.ndarray:
    """Kick, snare and hi-hat."""
    random, track = np.random.default_rng(seed), np.zeros(round(seconds * rate))
    time = np.arange(round(0.2 * rate)) / rate
    kick = np.sin(2 * np.pi * (45 * time + 6 * (1 - np.exp(-time * 30)))) * np.exp(-time * 18)
    for number, at in enumerate(np.arange(0, seconds, beat)):
        noise = random.standard_normal(len(time))
        add(track, 0.15 * np.diff(noise, prepend=0) * np.exp(-time * 70), at, rate)
        if number % 4 == 0:
            add(track, 1.2 * kick, at, rate)
        if number % 4 == 2:
            add(track, 0.4 * noise * np.exp(-time * 25), at, rate)
    return track


def band(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Melody to the left, chords to the right, drums in the middle: [2, N]."""
    lead, harmony, beat = melody(seconds, rate, seed), chords(seconds, rate), drums(seconds, rate, seed)
    return np.stack([lead + 0.3 * harmony + 0.7 * beat, 0.4 * lead + 0.7 * harmony + 0.7 * beat])


def noise(seconds: float, rate: int, seed: int, *, slope: float, swell: float = 0.0) -> np.ndarray:
    """Gaussian noise whose power falls with frequency to the power of ``slope``; ``swell`` is its loudness' rate in Hz."""
    count = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / rate), 20)
    shaped = np.fft.irfft(spectrum * frequency ** (-slope / 2), count)
    return shaped * (1 + 0.8 * np.sin(2 * np.pi * swell * np.arange(count) / rate))


def sweep(seconds: float, rate: int) -> np.ndarray:
    """A sine that climbs evenly in octaves from 50 Hz to 0.45 of the rate."""
    time, octaves = np.arange(round(seconds * rate)) / rate, np.log2(0.45 * rate / 50)
    return np.sin(2 * np.pi * 50 * seconds / (octaves * np.log(2)) * 2 ** (octaves * time / seconds))


# name, label, split, rate, what makes it
SYNTHETIC: list[tuple[str, str, str, int, Callable[[int], np.ndarray]]] = [
    ("melody-1", "music", "train", 24000, lambda rate: melody(3.0, rate, 1)),
    ("melody-2", "music", "train", 16000, lambda rate: melody(3.0, rate, 2, beat=0.18, base=330)),
    ("chords-1", "music", "train", 16000, lambda rate: chords(3.0, rate)),
    ("drums-1", "music", "train", 16000, lambda rate: drums(2.0, rate, 3)),
    ("pink-1", "noise", "train", 16000, lambda rate: noise(1.5, rate, 4, slope=1)),
    ("wind-1", "noise", "train", 16000, lambda rate: noise(2.0, rate, 5, slope=2, swell=0.7)),
    ("melody-3", "music", "valid", 16000, lambda rate: melody(2.5, rate, 6, beat=0.2, base=294)),
    ("band-1", "music", "test", 44100, lambda rate: band(2.5, rate, 7)),
    ("melody-4", "music", "test", 24000, lambda rate: melody(2.0, rate, 8, beat=0.22, base=220)),
    ("pink-2", "noise", "test", 16000, lambda rate: noise(1.0, rate, 9, slope=1, swell=1.5)),
    ("sweep-1", "tone", "test", 24000, lambda rate: sweep(2.0, rate)),
]


def synthetic_clips() -> list[Clip]:
    """The music, noises and tones, the same on every machine."""
    clips = []
    for name, label, split, rate, make in SYNTHETIC:
        signal = np.atleast_2d(make(rate))
        signal = signal * LEVEL / np.abs(signal).max()
        seconds = round(signal.shape[1] / rate, 3)
        row = Row(f"{name}.flac", label, "", split, rate, len(signal), seconds, "computed by make_samples.py")
        clips.append(Clip(row, signal))
    return clips


def speech_clips() -> list[Clip]:
    """The sentences, spoken by espeak-ng; lossless except for training."""
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout.split()[3]
    clips = []
    for name, split, voice, speed, pitch, text in SPEECH:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "speech.wav"
            command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(path), text]
            subprocess.run(command, check=True)
            signal = files.read(path, spec(SPEECH_RATE, 1)).numpy()
        signal = signal * LEVEL / np.abs(signal).max()
        path_name = f"{name}.{'ogg' if split == 'train' else 'flac'}"
        seconds = round(signal.shape[1] / SPEECH_RATE, 3)
        source = f"espeak-ng {version}, voice {voice}"
        language = voice.split("+")[0].split("-")[0]
        clips.append(Clip(Row(path_name, "speech", language, split, SPEECH_RATE, 1, seconds, source), signal))
    return clips


def spec(rate: int, channels: int) -> TokenSpec:
    return TokenSpec("audio", (1,), sample_rate=rate, channels=channels)


def main() -> None:
    """Write every clip and the manifest."""
    clips = speech_clips() + synthetic_clips()
    for clip in clips:
        signal = torch.from_numpy(clip.signal).float()
        files.write(FOLDER / clip.row.path, signal, spec(clip.row.sample_rate, clip.row.channels))
    with (FOLDER / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(clip.row) for clip in clips)
    total = sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file())
    print(f"{len(clips)} clips, {sum(c.row.seconds for c in clips):.0f} s, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
