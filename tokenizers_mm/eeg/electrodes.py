"""Electrode names and montages: one spelling for what recorders write, and the derivations that models were trained on.

Names are those of the 10-10 system (American Clinical Neurophysiology Society, Guideline 2, 2016): T7 T8 P7 P8 for the older
T3 T4 T5 T6. A bipolar derivation is written ``anode-cathode``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_OLD = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
_REGIONS = "FP|AFP|AFF|AF|FFT|FFC|FTT|FCC|FT|FC|F|TTP|TPP|TP|T|CCP|CPP|CP|C|PPO|PO|P|POO|OI|O|I|NZ|N|A|M"
_NAME = re.compile(rf"({_REGIONS})(10|[1-9]|Z)(H?)")
_REFERENCES = {
    "REF",
    "LE",
    "AR",
    "AVG",
    "AV",
    "CAR",
    "LER",
    "RE",
    "A1",
    "A2",
    "M1",
    "M2",
    "A1A2",
    "M1M2",
    "TP9",
    "TP10",
}
_NOT_EEG = re.compile(
    r"E[OCKM]G|EKG|[HV]EO|STATUS|TRIG|STIM|STI \d|EVENT|MARKER|ANNOTATION|RESP|PHOTIC|IBI|BURST|SUPPR|SPO2|PULSE|TEMP|"
    r"^DC|^VNS|^LUE|^RLE|GYR|ACC|OXY|PLETH|SNORE|THOR|ABDO|FLOW|^BP$|^\.$|^-$|^$",
)

TEN_TWENTY: tuple[str, ...] = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2",
)  # fmt: skip
TCP16: tuple[str, ...] = (
    "Fp1-F7", "F7-T7", "T7-P7", "P7-O1", "Fp2-F8", "F8-T8", "T8-P8", "P8-O2",
    "Fp1-F3", "F3-C3", "C3-P3", "P3-O1", "Fp2-F4", "F4-C4", "C4-P4", "P4-O2",
)  # fmt: skip
MONTAGES: dict[str, tuple[str, ...]] = {"10-20": TEN_TWENTY, "tcp16": TCP16}
"""Named lists of channels: the 19 electrodes of the 10-20 system, and the 16 derivations of the temporal central parasagittal
montage in the order of TUH's corpora, BIOT and TFM-Tokenizer."""


def canonical(name: str) -> str:
    """One spelling of an electrode or a derivation; a name that is neither comes back without blanks at its ends.

    ``"EEG FP1-REF"``, ``"Fp1."``, ``"fp1"`` are ``"Fp1"``; ``"T3"`` is ``"T7"``; ``"FP1-F7"`` is ``"Fp1-F7"``; ``"T8-P8-1"``, the
    second of two channels of that name, is ``"T8-P8"``.
    """
    text = re.sub(r"^(EEG|POL)[\s_-]+", "", name.strip().upper()).replace(" ", "").rstrip(".")
    text = re.sub(r"^([^-]+-[^-]+)-\d$", r"\1", text)
    first, dash, second = text.partition("-")
    anode = _electrode(first)
    if anode is None:
        return name.strip()
    if not dash or second in _REFERENCES:
        return anode
    cathode = _electrode(second)
    return name.strip() if cathode is None else f"{anode}-{cathode}"


def _electrode(text: str) -> str | None:
    """A single electrode in upper case in its one spelling, or None."""
    text = _OLD.get(text, text)
    match = _NAME.fullmatch(text) or re.fullmatch(r"(NZ|IZ)()()", text)
    if match is None:
        return None
    region, place, half = match.groups()
    region = region.replace("FP", "Fp").replace("NZ", "Nz").replace("IZ", "Iz") if region != "AFP" else "AFp"
    return region + place.replace("Z", "z") + half.lower()


def is_electrode(name: str) -> bool:
    """Whether a name, in any spelling, is one electrode of the 10-10 or 10-5 system."""
    return "-" not in canonical(name) and _electrode(canonical(name).upper()) is not None


def is_eeg(name: str) -> bool:
    """Whether a channel of a file that does not say what its channels are is EEG: not eye, heart, muscle, trigger or gauge."""
    return not _NOT_EEG.search(name.strip().upper()) or is_electrode(name)


def montage_names(montage: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The channels that a montage's name or a list of names stands for, in one spelling; None for None and ``"all"``.

    A string may also list names with commas: ``"C3,C4,Fp1-F7"``.

    Raises:
        ValueError: If a name is no electrode, or comes twice.
    """
    if montage is None or montage == "all":
        return None
    if isinstance(montage, str):
        names = MONTAGES.get(montage.lower()) or tuple(part.strip() for part in montage.split(","))
    else:
        names = tuple(montage)
    known = tuple(canonical(name) for name in names)
    for name, given in zip(known, names, strict=True):
        if not all(is_electrode(part) for part in name.split("-", 1)):
            hint = f"expected {', '.join(MONTAGES)}, or electrodes such as C3 or Fp1-F7"
            raise ValueError(f"montage: unknown electrode {given!r}: {hint}")
    if not known or len(set(known)) < len(known):
        raise ValueError(f"montage must name different channels, got {list(names)}")
    return known


def derivation(names: Sequence[str], montage: Sequence[str], origin: str) -> np.ndarray:
    """The matrix that makes a montage from recorded channels.

    A derivation that was recorded as such is taken; otherwise it is the difference of two electrodes against one reference.

    Args:
        names: Of the recorded channels, any spelling; of channels with equal names the first counts.
        montage: Wanted channels, as :func:`montage_names` gives them.
        origin: What errors call the recording.

    Returns:
        float32 ``[len(montage), len(names)]``.

    Raises:
        ValueError: If an electrode is missing; the message names it and those that there are.
    """
    place: dict[str, int] = {}
    for index, name in enumerate(names):
        place.setdefault(canonical(name), index)
    matrix = np.zeros((len(montage), len(names)), dtype=np.float32)
    for row, wanted in enumerate(montage):
        parts = [wanted] if wanted in place else wanted.split("-", 1)
        if missing := [part for part in parts if part not in place]:
            have = ", ".join(list(place)[:40]) + (", ..." if len(place) > 40 else "")
            raise ValueError(f"{origin} has no electrode {missing[0]} for the channel {wanted}: it has {have}")
        for part, sign in zip(parts, (1.0, -1.0), strict=False):
            matrix[row, place[part]] = sign
    return matrix


def rereference(names: Sequence[str], reference: str | Sequence[str], origin: str) -> np.ndarray:
    """The matrix that subtracts a reference from every channel.

    Args:
        names: Of the recorded channels, any spelling.
        reference: ``"average"`` of all of them, or electrodes (a list, or names with commas) whose mean is subtracted.
        origin: What errors call the recording.

    Returns:
        float32 ``[C, C]``.

    Raises:
        ValueError: If an electrode is missing, or a channel is a derivation already.
    """
    if derived := [name for name in names if "-" in canonical(name) and not is_electrode(name)]:
        raise ValueError(f"{origin}: {derived[0]} is a derivation of two electrodes, which has no reference to change")
    if reference == "average":
        weights = np.full(len(names), 1 / len(names), dtype=np.float32)
    else:
        wanted = montage_names(reference) or ()
        weights = derivation(names, wanted, origin).mean(axis=0)
    return np.eye(len(names), dtype=np.float32) - weights
