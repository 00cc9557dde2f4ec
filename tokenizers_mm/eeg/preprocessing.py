"""What is done to a recording before a codec sees it: reference, montage, filters, resampling; the options by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.eeg import filters
from tokenizers_mm.eeg.electrodes import MONTAGES, derivation, montage_names, rereference
from tokenizers_mm.eeg.recordings import Recording
from tokenizers_mm.resampling import reach, resampled

_ZEROS = 24  # of the resampling filter: 97 % of the band stays, half of the rate is down by 6 dB


@dataclass(frozen=True)
class Preprocessing:
    """Steps in the order in which they are done; by default none.

    Args:
        reference: ``"average"``, or electrodes whose mean is subtracted from all (``"M1,M2"``, or a list).
        montage: Channels to take, in this order: ``"10-20"``, ``"tcp16"``, or electrodes and derivations (``"C3,C4,Fp1-F7"``,
            or a list). None and ``"all"`` take all EEG channels as recorded.
        highpass: Lowest frequency to keep, Hz.
        lowpass: Highest frequency to keep, Hz.
        notch: Mains frequency, Hz; it and its multiples are removed.

    Raises:
        ValueError: For an unknown electrode or frequencies that are not ascending.
    """

    reference: str | Sequence[str] | None = None
    montage: str | Sequence[str] | None = None
    highpass: float | None = None
    lowpass: float | None = None
    notch: float | None = None

    def __post_init__(self) -> None:
        montage_names(self.montage)
        if self.reference not in (None, "average"):
            montage_names(self.reference)
        filters.check((self.highpass, self.lowpass), self.notch)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Preprocessing:
        """From names and values as a command line or a YAML file gives them.

        Raises:
            ValueError: For an unknown option or a value that is no number where one is needed.
        """
        values: dict[str, object] = {}
        for name, value in options.items():
            if name not in cls.__dataclass_fields__:
                raise ValueError(f"EEG files are read with {', '.join(cls.__dataclass_fields__)}, got {name!r}")
            try:
                values[name] = value if name in ("reference", "montage") or value is None else float(str(value))
            except ValueError:
                raise ValueError(f"{name} must be a frequency in Hz, got {value!r}") from None
        return cls(**values)  # type: ignore[arg-type]

    def channels(self, recording: Recording, count: int = 0) -> tuple[str, ...]:
        """Names of what :meth:`pieces` gives, in its order.

        Args:
            recording: The recording.
            count: Channels that are wanted, 0 for any number; without a montage, the named one of that many is taken where the
                recording has another number.

        Raises:
            ValueError: If there is another number of channels.
        """
        names = montage_names(self.montage)
        if names is None and count and len(recording.names) != count:
            names = next((known for known in MONTAGES.values() if len(known) == count), None)
        found = recording.names if names is None else names
        if count and len(found) != count:
            hint = "choose them with the option montage"
            raise ValueError(f"{recording.path} has {len(found)} channels, expected {count}: {hint}")
        return found

    def pieces(
        self,
        recording: Recording,
        rate: float | None = None,
        *,
        channels: int = 0,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[Tensor]:
        """Consecutive pieces ``[C, n]`` of the preprocessed recording, in constant memory.

        Args:
            recording: The recording.
            rate: Wanted rate in Hz; None keeps the recording's.
            channels: Wanted number, see :meth:`channels`.
            start: First sample at the recording's rate.
            stop: Where to end at the recording's rate.

        Raises:
            ValueError: If an electrode is missing, a filter does not fit the rate, or samples are not finite.
        """
        names = self.channels(recording, channels)
        matrix = torch.from_numpy(self._matrix(recording, names)) if self._mixes(recording, names) else None
        taps = filters.kernel(recording.sample_rate, (self.highpass, self.lowpass), self.notch)

        def mixed() -> Iterator[Tensor]:
            for piece in recording.blocks(start, stop):
                yield piece if matrix is None else matrix @ piece

        pieces = filters.applied(mixed(), taps)
        if rate is None:
            return pieces
        return resampled(pieces, *whole_ratio(recording.sample_rate, rate), zeros=_ZEROS)

    def context(self, recording: Recording, rate: float) -> int:
        """Samples at the recording's rate that one preprocessed sample sees on each side."""
        taps = filters.kernel(recording.sample_rate, (self.highpass, self.lowpass), self.notch)
        old, new = whole_ratio(recording.sample_rate, rate)
        return len(taps) // 2 + (0 if old == new else reach(old, new, _ZEROS))

    def _mixes(self, recording: Recording, names: tuple[str, ...]) -> bool:
        return self.reference is not None or names != recording.names

    def _matrix(self, recording: Recording, names: tuple[str, ...]) -> np.ndarray:
        origin = str(recording.path)
        chosen = derivation(recording.names, names, origin) if names != recording.names else None
        same = np.eye(len(recording.names), dtype=np.float32) if chosen is None else chosen
        if self.reference is None:
            return same
        referenced = rereference(recording.names, self.reference, origin)
        return same @ referenced


def whole_ratio(from_rate: float, to_rate: float) -> tuple[int, int]:
    """Two whole numbers in the ratio of two rates, which need not be whole."""
    ratio = Fraction(to_rate).limit_denominator(1000) / Fraction(from_rate).limit_denominator(1000)
    return ratio.denominator, ratio.numerator


def resampled_length(samples: int, from_rate: float, to_rate: float) -> int:
    """Samples of a recording after resampling."""
    old, new = whole_ratio(from_rate, to_rate)
    return -(-samples * new // old)
