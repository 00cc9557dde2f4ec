"""Public EEG corpora in the folders in which they are handed out: their labels, and splits by subject.

TUEV and TUAB (Obeid and Picone, "The Temple University Hospital EEG data corpus", 2016), CHB-MIT (Shoeb, 2009) and the motor set
of BCI2000 (Schalk et al., 2004) are split as BIOT, LaBraM and TFM-Tokenizer split them, Sleep-EDF (Kemp et al., 2000) by subject.
Where we differ: subjects are sorted before they are drawn (a Python set has no order that lasts), nobody is on two sides of a
split, a TUEV window never wraps from a recording's end to its start, and a CHB-MIT window inside a seizure is positive.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenizers_mm.eeg.recordings import edf_events, open_recording

TUEV_CLASSES = ("SPSW", "GPED", "PLED", "EYEM", "ARTF", "BCKG")
TUAB_CLASSES = ("normal", "abnormal")
CHB_MIT_CLASSES = ("background", "seizure")
SLEEP_CLASSES = ("W", "N1", "N2", "N3", "R")

_SEED = 5  # of the validation subjects, the published scripts'
_STAGES = {"W": 0, "1": 1, "2": 2, "3": 3, "4": 3, "R": 4}  # R&K stages 3 and 4 are one in the AASM's rules
_WAKE = 1800.0  # seconds of waking kept before and after a night: recordings go on for a day


@dataclass(frozen=True)
class Clip:
    """A stretch of a recording.

    Args:
        path: The file.
        start: Seconds from its start.
        stop: Seconds, None for the end.
        label: Its class, None where there is none.
    """

    path: Path
    start: float = 0.0
    stop: float | None = None
    label: int | None = None


def eegbci(root: Path, subjects: Sequence[int] | None, runs: Sequence[int] | None, *, download: bool) -> list[Path]:
    """Files ``S001R01.edf`` ... below ``root``, of some subjects and runs.

    Raises:
        FileNotFoundError: If there are none and they are not to be fetched.
    """
    if download:
        from mne.datasets import eegbci as mne_eegbci

        root.mkdir(parents=True, exist_ok=True)
        wanted = list(subjects or [1]), list(runs or range(1, 15))
        files = mne_eegbci.load_data(*wanted, path=str(root), update_path=False, verbose="error")
        return sorted(Path(file) for file in files)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {root} (download: true fetches eegbci to it)")
    found = []
    for path in sorted(root.rglob("*.edf")):
        if match := re.fullmatch(r"S(\d{3})R(\d{2})", path.stem):
            subject, run = int(match[1]), int(match[2])
            if (subjects is None or subject in subjects) and (runs is None or run in runs):
                found.append(path)
    return found


def tuev(root: Path, split: str | None, window_seconds: float) -> list[Clip]:
    """Windows around the events of TUEV's ``.rec`` files (``channel,start,end,label`` with labels 1 to 6).

    ``edf/eval`` is the test split; a fifth of the subjects (folders) of ``edf/train`` is ``valid``. An event that several
    channels carry is one window, with the event in its middle; near a recording's ends it is moved inside.

    Raises:
        FileNotFoundError: If a recording has no event file.
        ValueError: If an event file is damaged.
    """
    found = []
    for path in _official(root, split, lambda path: path.parent.name, lambda path: ""):
        marks = path.with_suffix(".rec")
        if not marks.is_file():
            raise FileNotFoundError(f"{path} has no event file {marks.name} beside it")
        seconds = open_recording(path).seconds
        for start, end, label in sorted(set(_rec(marks))) if seconds >= window_seconds else ():
            first = min(max(0.0, (start + end - window_seconds) / 2), seconds - window_seconds)
            found.append(Clip(path, first, first + window_seconds, label - 1))
    return found


def _rec(path: Path) -> Iterable[tuple[float, float, int]]:
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                _, start, end, label = (float(value) for value in row)
                if not 1 <= label <= len(TUEV_CLASSES) or not 0 <= start <= end:
                    raise ValueError
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: expected channel,start,end,label of 1 to 6, got {row}"
                ) from None
            yield start, end, int(label)


def tuab(root: Path, split: str | None) -> list[Clip]:
    """Recordings of ``edf/train`` and ``edf/eval``, each with folders ``normal`` and ``abnormal``.

    ``edf/eval`` is the test split; a fifth of the training subjects of each class is ``valid``, with all of its recordings.
    """

    def kind(path: Path) -> str:
        return "abnormal" if "abnormal" in path.parts else "normal"

    files = _official(root, split, lambda path: path.stem.split("_")[0], kind)
    return [Clip(path, label=TUAB_CLASSES.index(kind(path))) for path in files]


def chb_mit(root: Path, split: str | None, window_seconds: float, *, border: bool = False) -> list[Clip]:
    """Windows of folders ``chb01`` to ``chb24``, labelled by their ``-summary.txt``; 21 and 22 are ``valid``, 23 and 24 ``test``.

    Besides the windows that tile a recording there is one every half window from a second before each seizure to a second
    after it. (chb21 is the child of chb01, recorded later: the published split has it on two sides.)

    Args:
        root: The corpus.
        split: ``train``, ``valid``, ``test`` or None for all.
        window_seconds: Length of a window.
        border: Call a tiled window positive only where a seizure begins or ends in it.

    Raises:
        FileNotFoundError: If a folder has no summary.
    """
    _check_split(split)
    splits = {"chb21": "valid", "chb22": "valid", "chb23": "test", "chb24": "test"}
    found = []
    for folder in sorted(p for p in root.iterdir() if re.fullmatch(r"chb\d\d", p.name)):
        if split not in (None, splits.get(folder.name, "train")):
            continue
        summary = folder / f"{folder.name}-summary.txt"
        if not summary.is_file():
            raise FileNotFoundError(f"{folder} has no {summary.name}")
        seizures = _seizures(summary.read_text(encoding="utf-8", errors="replace"))
        for path in sorted(folder.glob("*.edf")):
            found += _chb_windows(path, seizures.get(path.name, []), window_seconds, border)
    return found


def _chb_windows(path: Path, seizures: list[tuple[float, float]], window: float, border: bool) -> list[Clip]:
    seconds, clips = open_recording(path).seconds, []
    for first in np.arange(0.0, seconds - window + 1e-6, window).tolist():
        last = first + window
        touched = any(start < last and end > first for start, end in seizures)
        cut = any(first < edge < last for seizure in seizures for edge in seizure)
        clips.append(Clip(path, first, last, int(cut if border else touched)))
    for start, end in seizures:
        for first in np.arange(max(0.0, start - 1), min(end + 1, seconds) - window + 1e-6, window / 2).tolist():
            clips.append(Clip(path, first, first + window, 1))
    return clips


def _seizures(text: str) -> dict[str, list[tuple[float, float]]]:
    """Start and end of the seizures of each file that a summary names."""
    found: dict[str, list[tuple[float, float]]] = {}
    for part in re.split(r"File Name:\s*", text)[1:]:
        starts, ends = (
            [float(value) for value in re.findall(rf"Seizure(?: \d+)? {edge} Time:\s*(\d+)", part)]
            for edge in ("Start", "End")
        )
        found[part.split()[0]] = list(zip(starts, ends, strict=True))
    return found


def sleep_edf(root: Path, split: str | None) -> list[Clip]:
    """Scored stretches of nights ``SC4ssNE0-PSG.edf`` with their ``-Hypnogram.edf``: W, N1, N2, N3 (stages 3 and 4), R.

    Of the day around a night only half an hour of waking before and after sleep counts; movement and unscored stretches do not.
    A fifth of the subjects is ``test``, a tenth ``valid``, with all of their nights.

    Raises:
        FileNotFoundError: If a night has no hypnogram.
    """
    _check_split(split)
    nights = sorted(root.rglob("*-PSG.edf"))
    sides = _sides(sorted({path.name[:5] for path in nights}))
    found = []
    for path in nights:
        if split not in (None, sides[path.name[:5]]):
            continue
        scored = sorted(path.parent.glob(f"{path.name[:7]}*-Hypnogram.edf"))
        if not scored:
            raise FileNotFoundError(f"{path} has no hypnogram {path.name[:7]}*-Hypnogram.edf beside it")
        found += _stages_of(path, scored[0])
    return found


def _stages_of(path: Path, hypnogram: Path) -> list[Clip]:
    end, stages = open_recording(path).seconds, []
    for event in edf_events(hypnogram):
        if (match := re.fullmatch(r"Sleep stage ([W1234R])", event.code)) and event.onset < end:
            stages.append((event.onset, min(end, event.onset + event.duration), _STAGES[match[1]]))
    asleep = [stage for stage in stages if stage[2] > 0]
    if not asleep:
        return []
    first, last = asleep[0][0] - _WAKE, asleep[-1][1] + _WAKE
    inside = ((max(start, first), min(stop, last), label) for start, stop, label in stages)
    return [Clip(path, start, stop, label) for start, stop, label in inside if stop > start]


def _official(
    root: Path, split: str | None, subject: Callable[[Path], str], group: Callable[[Path], str]
) -> list[Path]:
    """Files of a corpus with folders ``edf/train`` and ``edf/eval``; a fifth of each group's training subjects is ``valid``."""
    _check_split(split)
    base = root / "edf" if (root / "edf").is_dir() else root
    train, test = (sorted((base / part).rglob("*.edf")) for part in ("train", "eval"))
    random, held_out = np.random.default_rng(_SEED), set[str]()
    for name in sorted({group(path) for path in train}):
        subjects = sorted({subject(path) for path in train if group(path) == name})
        held_out |= set(random.permutation(subjects)[: len(subjects) // 5].tolist())
    sides = {
        "train": [path for path in train if subject(path) not in held_out],
        "valid": [path for path in train if subject(path) in held_out],
        "test": test,
    }
    return [path for name, files in sides.items() if split in (None, name) for path in files]


def _sides(subjects: list[str]) -> dict[str, str]:
    """A side of the split for each subject: a fifth ``test``, a tenth (at least one of three) ``valid``."""
    order = np.random.default_rng(_SEED).permutation(subjects).tolist()
    test, valid = len(order) // 5, max(len(order) // 10, len(order) >= 3)
    return {name: "test" if i < test else "valid" if i < test + valid else "train" for i, name in enumerate(order)}


def _check_split(split: str | None) -> None:
    if split not in (None, "train", "valid", "test"):
        raise ValueError(f"split must be train, valid, test or None for all, got {split!r}")
