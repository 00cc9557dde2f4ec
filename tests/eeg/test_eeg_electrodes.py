"""Electrode names in one spelling, and montages from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizers_mm.eeg.electrodes import MONTAGES, TCP16, TEN_TWENTY, canonical, derivation, is_eeg, montage_names


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("EEG FP1-REF", "Fp1"), ("Fp1.", "Fp1"), ("fp1", "Fp1"), ("EEG T5-LE", "P7"), ("T3", "T7"), ("T4", "T8"), ("T6", "P8"),
        ("FP1-F7", "Fp1-F7"), ("T3-T5", "T7-P7"), ("T8-P8-1", "T8-P8"), ("EEG C3-A2", "C3"), ("EEG Fpz-Cz", "Fpz-Cz"),
        ("Cz..", "Cz"), ("AFZ", "AFz"), ("PO10", "PO10"), ("oz", "Oz"), ("CPZ", "CPz"), ("EOG left ", "EOG left"),
        ("E128", "E128"),
        ("POL F3", "F3"), ("EEG Fp1", "Fp1"), ("IZ", "Iz"),
    ],
)  # fmt: skip
def test_what_recorders_write_is_one_name(written: str, meant: str) -> None:
    assert canonical(written) == meant
    assert canonical(meant) == meant


@given(st.text(max_size=20))
def test_any_name_has_a_spelling_that_stays(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


def test_every_electrode_of_mnes_10_05_system_is_known() -> None:
    import mne

    montage = min(name for name in mne.channels.get_builtin_montages() if name.endswith("_1005"))
    for name in mne.channels.make_standard_montage(montage).ch_names:
        old = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
        assert canonical(name.upper()) == old.get(name, name), name


def test_what_is_no_eeg_is_told_apart() -> None:
    others = [
        "EOG horizontal",
        "ECG",
        "EKG1-REF",
        "EMG chin",
        "Resp oro-nasal",
        "STATUS",
        "STI 014",
        "SpO2",
        "EDF Annotations",
        "-",
    ]
    assert [name for name in others if is_eeg(name)] == []
    assert [name for name in ["Fp1", "EEG 12", "E128", "EEG Pz-Oz", "A1", "C3-P3"] if not is_eeg(name)] == []


def test_montages_have_their_published_order_and_names() -> None:
    assert len(TEN_TWENTY) == 19
    assert [name.replace("T7", "T3").replace("P7", "T5").upper() for name in TCP16[:4]] == [
        "FP1-F7",
        "F7-T3",
        "T3-T5",
        "T5-O1",
    ]
    assert TCP16[4:8] == ("Fp2-F8", "F8-T8", "T8-P8", "P8-O2")
    assert TCP16[8:12] == ("Fp1-F3", "F3-C3", "C3-P3", "P3-O1")
    assert TCP16[12:] == ("Fp2-F4", "F4-C4", "C4-P4", "P4-O2")
    assert montage_names("TCP16") == MONTAGES["tcp16"]
    assert montage_names("t3, FP1-f7") == ("T7", "Fp1-F7")
    with pytest.raises(ValueError, match="different channels"):
        montage_names(["T3", "T7"])


def test_derivations_are_differences() -> None:
    matrix = derivation(["F7", "Fp1", "T3-T5"], ("Fp1-F7", "T7-P7", "F7"), "x")
    np.testing.assert_array_equal(matrix, [[-1, 1, 0], [0, 0, 1], [1, 0, 0]])
