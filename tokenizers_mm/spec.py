"""TokenSpec: what one codec's tokens are. :mod:`tokenizers_mm.tokens` shows how each kind of codec maps onto it."""

from __future__ import annotations

import bisect
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from typing import Literal, get_args

Scalable = Literal["none", "columns", "steps", "scales"]


@dataclass(frozen=True)
class TokenSpec:
    """What one codec's tokens are: codebooks, grid, rates.

    Args:
        modality: Wing that the codec belongs to (``"audio"``, ``"image"``, ...).
        codebook_sizes: Entries of each of the Q columns' codebooks.
        axes: Names of the grid axes that the T steps flatten, slowest first.
        hop: Signal samples per step along each axis (one per axis), or None where content decides the length.
        sample_rate: Samples per second of the last axis, in Hz; None where there is no time.
        channels: Signal channels that one item has (1 for mono audio, 3 for RGB); 0 means any number.
        levels: Residual level of each column, non-decreasing; by default column q is level q.
        scales: Steps of each scale of a multi-scale codec, coarse first (``axes=("scale",)``); a single number where all
            signals have as many steps.
        scalable: What can be cut off at the end and still decode: codebook columns, steps, or whole scales.
        window: Samples that a codec of overlapping windows encodes on their own; 0 where the signal is encoded as one. The
            tokens of the windows follow one another along the only axis.
        stride: Samples from one window's start to the next, where there is a window.
        block: Steps along the last axis come in whole multiples of this: a network that attends in fixed windows of steps fills
            its last one.
        overlap: Samples that a step's window reaches past its hop, which the next steps see too: the last ``overlap`` samples of
            a signal have no step of their own.

    Raises:
        ValueError: For sizes, levels, hops or scales that contradict each other.
        TypeError: For a field that is no sequence of whole numbers or names where it should be one.
    """

    modality: str
    codebook_sizes: tuple[int, ...]
    axes: tuple[str, ...] = ("time",)
    hop: tuple[int, ...] | None = None
    sample_rate: float | None = None
    channels: int = 1
    levels: tuple[int, ...] = ()
    scales: tuple[int, ...] = ()
    scalable: Scalable = "none"
    window: int = 0
    stride: int = 0
    block: int = 1
    overlap: int = 0

    def __post_init__(self) -> None:
        for name in ("codebook_sizes", "axes", "hop", "levels", "scales"):
            value = getattr(self, name)
            if name != "hop" or value is not None:
                object.__setattr__(self, name, _plain(name, value, str if name == "axes" else int))
        if self.sample_rate is not None:  # always a float, so that 16000 and 16000.0 share a fingerprint
            if not isinstance(self.sample_rate, Real):
                raise TypeError(f"sample_rate must be a number of Hz or None, got {self.sample_rate!r}")
            object.__setattr__(self, "sample_rate", float(self.sample_rate))
        for name in ("channels", "window", "stride", "block", "overlap"):
            object.__setattr__(self, name, _plain(name, (getattr(self, name),), int)[0])
        if not self.levels:
            object.__setattr__(self, "levels", tuple(range(len(self.codebook_sizes))))
        if not self.modality or not isinstance(self.modality, str):
            raise ValueError(f"modality must name a wing, got {self.modality!r}")
        if not self.codebook_sizes or any(size < 1 or size > 2**62 for size in self.codebook_sizes):
            raise ValueError(f"codebook_sizes must hold sizes from 1 to 2**62, got {self.codebook_sizes}")
        if not self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes must name each grid axis once, got {self.axes}")
        if self.hop is not None and (len(self.hop) != len(self.axes) or any(h < 1 for h in self.hop)):
            raise ValueError(f"hop must give one positive number per axis of {self.axes}, got {self.hop}")
        if self.sample_rate is not None and not (math.isfinite(self.sample_rate) and self.sample_rate > 0):
            raise ValueError(f"sample_rate must be a positive number of Hz or None, got {self.sample_rate}")
        if self.channels < 0:
            raise ValueError(f"channels must be 0 (any) or a positive count, got {self.channels}")
        if self.block < 1 or (self.block > 1 and self.window):
            raise ValueError(f"block must be a positive number of steps, 1 with windows, got {self.block}")
        if self.overlap < 0 or (self.overlap and (self.hop is None or self.window)):
            raise ValueError(f"overlap must be 0 or samples past a hop, without windows, got {self.overlap}")
        if len(self.levels) != self.num_codebooks or list(self.levels) != sorted(self.levels) or self.levels[0] < 0:
            raise ValueError(f"levels must be {self.num_codebooks} non-decreasing numbers from 0, got {self.levels}")
        if any(steps < 1 for steps in self.scales):
            raise ValueError(f"scales must hold positive step counts, got {self.scales}")
        if self.scalable not in get_args(Scalable):
            raise ValueError(f"scalable must be one of {get_args(Scalable)}, got {self.scalable!r}")
        if self.scalable == "scales" and not self.scales:
            raise ValueError("scalable='scales' needs scales, got none")
        if len(self.axes) > 1 and (self.scales or self.scalable == "steps"):
            raise ValueError(f"scales and scalable='steps' need a single axis, got {self.axes}")
        if self.window or self.stride:
            if self.hop is None or len(self.axes) > 1 or self.scales:
                raise ValueError(f"window needs a single axis with a hop, got axes {self.axes} and hop {self.hop}")
            if not self.hop[0] <= self.window or not self.window <= 2 * self.stride <= 2 * self.window:
                raise ValueError(
                    f"window must be at least the hop {self.hop[0]} and stride half of window to all of it, "
                    f"got window {self.window} and stride {self.stride}"
                )

    @property
    def num_codebooks(self) -> int:
        """Q, the number of columns of a step."""
        return len(self.codebook_sizes)

    @property
    def bits_per_step(self) -> float:
        """Ideal bits of one step: the sum of log2 of its codebooks' sizes."""
        return sum(math.log2(size) for size in self.codebook_sizes)

    @property
    def frame_rate(self) -> float | None:
        """Steps per second along the last axis, or None where there is no time."""
        if self.sample_rate is None or self.hop is None:
            return None
        if self.window:
            return self.sample_rate * -(-self.window // self.hop[-1]) / self.stride
        return self.sample_rate / self.hop[-1]

    @property
    def token_rate(self) -> float | None:
        """Ids per second of one row of the grid: steps per second times Q."""
        return None if self.frame_rate is None else self.frame_rate * self.num_codebooks

    @property
    def bitrate(self) -> float | None:
        """Nominal bits per second of one row of the grid, or None where there is no time."""
        return None if self.frame_rate is None else self.frame_rate * self.bits_per_step

    def grid(self, size: int | Sequence[int]) -> tuple[int, ...]:
        """Token grid of a signal of ``size`` samples along each axis: ``ceil(size / hop)``, or that of each window.

        The last axis comes in whole blocks; what its steps overlap counts once, and a signal of any length has a step.

        Raises:
            ValueError: If ``size`` does not fit the axes, or content decides the length.
        """
        sizes = (size,) if isinstance(size, int) else tuple(size)
        if self.scales:
            return (sum(self.scales),)
        if self.hop is None:
            raise ValueError(f"the content of {self.modality} decides its token count, not its size, got size {sizes}")
        if len(sizes) != len(self.axes) or any(s < 0 for s in sizes):
            raise ValueError(f"size must give {len(self.axes)} non-negative numbers for axes {self.axes}, got {sizes}")
        if self.window:
            return (sum(steps * count for steps, count in self._windows(sizes[0])),)
        sizes = (*sizes[:-1], max(min(sizes[-1], 1), sizes[-1] - self.overlap))
        *others, last = (-(-s // h) for s, h in zip(sizes, self.hop, strict=True))
        return (*others, -(-last // self.block) * self.block)

    def steps(self, size: int | Sequence[int]) -> int:
        """Token steps of a signal of ``size`` samples (one number per axis)."""
        return math.prod(self.grid(size))

    def window_steps(self, steps: int) -> list[int]:
        """How many of ``steps`` token steps belong to each window of a signal; one entry where there are no windows.

        Raises:
            ValueError: If no signal has that many steps.
        """
        if not self.window:
            return [steps]
        split = [each for each, count in self._windows(self.samples(steps)) for _ in range(count)]
        if sum(split) != steps:
            raise ValueError(f"no signal has {steps} steps in windows of {self.window} samples every {self.stride}")
        return split

    def samples(self, steps: int) -> int:
        """The longest signal along the last axis that takes no more than ``steps`` steps of that axis.

        Raises:
            ValueError: If content decides the length.
        """
        if self.hop is None:
            raise ValueError(f"the content of {self.modality} decides its token count, so {steps} steps have no size")
        most = (steps - steps % self.block) * self.hop[-1]
        if not self.window:
            return most + (self.overlap if most else 0)
        return bisect.bisect_right(range(1, most + 1), steps, key=self.steps)

    def _windows(self, size: int) -> list[tuple[int, int]]:
        """Steps of a window and how many windows have them, for the windows of ``size`` samples in order."""
        assert self.hop is not None
        hop, count = self.hop[0], -(-size // self.stride)
        full = max(0, (size - self.window) // self.stride + 1)
        rest = [(-(-(size - i * self.stride) // hop), 1) for i in range(full, count)]
        return [(-(-self.window // hop), full), *rest]

    def prefix(self, columns: int) -> TokenSpec:
        """The spec of the first ``columns`` codebooks.

        Raises:
            ValueError: If the codec is not scalable in columns or ``columns`` is out of range.
        """
        if columns == self.num_codebooks:
            return self
        if self.scalable != "columns":
            raise ValueError(f"only codecs scalable in 'columns' take fewer codebooks, this one has {self.scalable!r}")
        if not 1 <= columns <= self.num_codebooks:
            raise ValueError(f"columns must be 1 to {self.num_codebooks}, got {columns}")
        return replace(self, codebook_sizes=self.codebook_sizes[:columns], levels=self.levels[:columns])

    def to_dict(self) -> dict:
        """Plain mapping for JSON: every field, but windows, blocks and overlaps only where there are any."""
        mapping = asdict(self)
        if not self.overlap:
            del mapping["overlap"]
        if self.block == 1:
            del mapping["block"]
        if not self.window:
            del mapping["window"], mapping["stride"]
        return mapping

    @classmethod
    def from_dict(cls, mapping: Mapping) -> TokenSpec:
        """Inverse of :meth:`to_dict`; unknown or missing keys raise ``ValueError``."""
        try:
            return cls(**mapping)
        except TypeError as error:
            raise ValueError(f"not a TokenSpec mapping: {error}") from None

    @property
    def fingerprint(self) -> str:
        """16 hex digits that differ between specs that differ."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(name: str, value: object, kind: type[int] | type[str]) -> tuple:
    """A sequence of NumPy or Python numbers, or of names, as a tuple that JSON takes: equal specs have equal JSON."""
    items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (None,)
    if not all(isinstance(item, Integral if kind is int else kind) for item in items):
        raise TypeError(f"{name} must hold only {'whole numbers' if kind is int else 'names'}, got {value!r}")
    return tuple(kind(item) for item in items)
