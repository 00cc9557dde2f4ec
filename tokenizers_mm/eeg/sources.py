"""Where EEG for training comes from: folders, manifests, and public corpora in the layout in which they are handed out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers_mm.eeg import corpora
from tokenizers_mm.eeg.corpora import Clip
from tokenizers_mm.eeg.recordings import READERS, open_recording
from tokenizers_mm.manifest import manifest_paths

Kind = Literal["folder", "manifest", "eegbci", "TUEV", "TUAB", "CHB-MIT", "Sleep-EDF"]

__all__ = ["Clip", "EEGSource", "Kind"]


@dataclass(frozen=True)
class EEGSource:
    """Where recordings come from.

    Args:
        path: A folder (searched with its subfolders), a manifest CSV (column ``path``, relative to the CSV), or the root folder
            of a corpus.
        split: Manifest: keep the rows whose column ``split`` says this. TUEV, TUAB, CHB-MIT, Sleep-EDF: ``train``, ``valid`` or
            ``test`` as in :mod:`tokenizers_mm.eeg.corpora`. By default everything.
        kind: What ``path`` is; by default a manifest where it ends in ``.csv``, else a folder. ``eegbci`` is PhysioNet's motor
            movement and imagery set, in any folder structure, fetched by MNE-Python where ``download`` says so.
        classes: Folder, manifest, eegbci: codes of the events to cut out, in the order of their labels (``["T1", "T2"]``: labels
            0 and 1). None takes whole recordings without labels. The other corpora bring their own classes.
        event_offset: Seconds from an event's onset to the start of its window.
        subjects: eegbci: numbers of subjects; by default all that there are, or the first where they are to be fetched.
        runs: eegbci: numbers of runs; by default all that there are.
        seizure_labels: CHB-MIT: ``overlap`` calls a window positive where it touches a seizure. ``border`` only where a seizure
            begins or ends in it, as the scripts behind the published figures do, so that the middle of long seizures is negative.
        download: eegbci: fetch what is not there yet.
    """

    path: str
    split: str | None = None
    kind: Kind | None = None
    classes: list[str] | None = None
    event_offset: float = 0.0
    subjects: list[int] | None = None
    runs: list[int] | None = None
    seizure_labels: Literal["overlap", "border"] = "overlap"
    download: bool = False

    def clips(self, window_seconds: float) -> list[Clip]:
        """Stretches of recordings, in a fixed order.

        Args:
            window_seconds: Length of the windows that will be cut; an event's stretch is one of them.

        Raises:
            FileNotFoundError: If the folder, the manifest or a file that belongs to it does not exist.
            ValueError: If the manifest lacks a column, or nothing matches.
        """
        kind = self.kind or ("manifest" if self.path.lower().endswith(".csv") else "folder")
        if kind in ("folder", "eegbci") and self.split is not None:
            raise ValueError(f"split is for manifests and corpora that have one, {self.path} is a {kind} source")
        if kind in ("folder", "manifest", "eegbci"):
            found = self._plain(self._paths(kind), window_seconds)
        else:
            if not Path(self.path).is_dir():
                raise FileNotFoundError(f"no folder at {self.path}")
            found = self._corpus(kind, window_seconds)
        if not found:
            what = "recording" if self.classes is None else f"event of {self.classes}"
            raise ValueError(f"no {what} in {kind} {self.path}" + (f", split {self.split!r}" if self.split else ""))
        return found

    def _paths(self, kind: str) -> Sequence[Path]:
        if kind == "manifest":
            return manifest_paths(Path(self.path), self.split)
        if kind == "eegbci":
            return corpora.eegbci(Path(self.path), self.subjects, self.runs, download=self.download)
        folder = Path(self.path)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder at {folder}")
        return sorted(p for p in folder.rglob("*") if p.suffix.lower() in READERS and not p.name.startswith("."))

    def _plain(self, paths: Sequence[Path], window_seconds: float) -> list[Clip]:
        if self.classes is None:
            return [Clip(path) for path in paths]
        labels = {code: label for label, code in enumerate(self.classes)}
        found = []
        for path in paths:
            recording = open_recording(path)
            for event in recording.events:
                start = event.onset + self.event_offset
                inside = start >= 0 and start + window_seconds <= recording.seconds + 1e-6
                if event.code in labels and inside:
                    found.append(Clip(path, start, start + window_seconds, labels[event.code]))
        return found

    def _corpus(self, kind: str, window_seconds: float) -> list[Clip]:
        root = Path(self.path)
        if kind == "TUEV":
            return corpora.tuev(root, self.split, window_seconds)
        if kind == "TUAB":
            return corpora.tuab(root, self.split)
        if kind == "CHB-MIT":
            return corpora.chb_mit(root, self.split, window_seconds, border=self.seizure_labels == "border")
        return corpora.sleep_edf(root, self.split)
