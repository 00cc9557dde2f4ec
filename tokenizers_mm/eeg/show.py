"""How reports show EEG: traces with their reconstruction over them, spectrograms below; and what frequent tokens stand for."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm import bitstream
from tokenizers_mm.eeg import files
from tokenizers_mm.eeg.spectra import density
from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.tokens import TokenSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SECONDS = 12.0  # of each recording that a report carries
CHANNELS = 8  # most traces in a picture
TOP = 45.0  # Hz
RANGE = 40.0  # dB below the strongest point of the original that are shown
VOCABULARY = 24  # tokens in a picture
INK, GREY = "#b5364d", "#8a8f98"


def render(path: str | Path, spec: TokenSpec, original: str | Path | None = None) -> Exhibit:
    """The first :data:`SECONDS` of a recording: traces of some channels, and the spectrogram of all below.

    Args:
        path: The file.
        spec: Gives the rate and channels to read it with.
        original: The file that it is a reconstruction of, whose traces are drawn in grey underneath.

    Raises:
        FileNotFoundError, ValueError: As :func:`tokenizers_mm.eeg.files.read`.
    """
    about = files.info(path)
    signal = _read(path, spec)
    reference = signal if original is None else _read(original, spec)
    rate = float(spec.sample_rate or about.sample_rate)
    figure = picture(reference, None if original is None else signal, rate, about.names)
    seconds = signal.shape[1] / rate
    limit = min(TOP, rate / 2)
    drawn = "Traces" if original is None else "Reconstruction over the original in grey"
    return Exhibit(
        caption=f"{drawn}, {lane(reference):.0f} microvolts from one channel to the next; below, the mean spectrogram of all "
        f"channels, 0 to {limit:g} Hz, {RANGE:g} dB below the original's strongest point",
        image=_webp(figure),
        seconds=seconds,
        share=min(1.0, seconds / max(about.seconds, 1e-9)),
        bottom=f"0 to {limit:g} Hz",
    )


def picture(reference: Tensor, estimate: Tensor | None, rate: float, names: Iterable[str]) -> Figure:
    """Traces above, a spectrogram below, one time axis that fills the whole width.

    Args:
        reference: ``[C, N]`` in microvolts.
        estimate: The same; None shows the reference alone.
        rate: Hz.
        names: Of the channels.
    """
    from matplotlib.figure import Figure

    chosen = spread(len(reference), CHANNELS)
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(chosen)), dpi=100)
    share = 1.2 / figure.get_figheight()
    traces = figure.add_axes((0, share, 1, 1 - share))
    spectrum = figure.add_axes((0, 0, 1, share))
    step, labels = lane(reference), list(names)
    for row, channel in enumerate(chosen):
        for signal, colour, width in (
            (reference, GREY if estimate is not None else "#2b3a4d", 0.9),
            (estimate, INK, 0.8),
        ):
            if signal is not None:
                x = signal[channel] - reference[channel].mean()
                traces.plot(
                    torch.arange(len(x)) / rate, x.clamp(-step, step) - row * step, color=colour, linewidth=width
                )
        traces.text(
            0.004 * len(reference[0]) / rate, 0.28 * step - row * step, labels[channel], fontsize=7, color="#222"
        )
    traces.set(xlim=(0, reference.shape[1] / rate), ylim=(-(len(chosen) - 0.4) * step, 0.6 * step))
    _spectrogram(spectrum, estimate if estimate is not None else reference, reference, rate)
    for axes in (traces, spectrum):
        axes.set_axis_off()
    return figure


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spread."""
    return sorted({round(i) for i in torch.linspace(0, count - 1, min(count, most)).tolist()})


def lane(reference: Tensor) -> float:
    """Microvolts from one trace to the next: four standard deviations of a channel in the middle."""
    spreads = reference.std(dim=1) if reference.shape[1] > 1 else reference.abs()[:, 0]
    return max(1.0, 4 * float(spreads.median()))


def _spectrogram(axes: Axes, signal: Tensor, reference: Tensor, rate: float) -> None:
    seconds = min(1.0, signal.shape[1] / rate)
    levels = []
    for x in (signal, reference):
        power, frequencies = density(x.double(), rate, seconds)
        levels.append(10 * power.mean(dim=0)[frequencies <= TOP].clamp(min=1e-6).log10())
    top = float(levels[1].max())
    axes.imshow(
        levels[0], origin="lower", aspect="auto", vmin=top - RANGE, vmax=top, cmap="magma", interpolation="nearest"
    )


def overview(items: Iterable[tuple[Path, Path]], spec: TokenSpec) -> Exhibit | None:
    """The vocabulary: mean spectra of the recordings where each of the most frequent tokens of the first codebook stands.

    Args:
        items: Files of originals and of their tokens.
        spec: The codec's.

    Returns:
        A picture of the mean spectrum of each token, in dB against the mean of its channel; None where there is nothing to show.
    """
    counts, sums, frequencies = Counter[int](), dict[int, Tensor](), torch.zeros(0)
    for original, tokens in items:
        found = _token_spectra(original, tokens, spec)
        if found is None:
            continue
        ids, levels, frequencies = found
        for token in ids.unique().tolist():
            rows = levels[ids == token]
            counts[token] += len(rows)
            sums[token] = sums.get(token, 0) + rows.sum(dim=0)
    if not counts:
        return None
    common = [token for token, _ in counts.most_common(VOCABULARY)]
    spectra = {token: sums[token] / counts[token] for token in common}
    figure = _vocabulary(spectra, counts, frequencies)
    share = sum(counts[token] for token in common) / counts.total()
    return Exhibit(
        caption=f"The {len(common)} most frequent of {len(counts)} tokens ({share:.0%} of all): mean spectrum where each stands, "
        "in dB against the mean of its channel, sorted by where it is strongest",
        image=_webp(figure),
    )


def _token_spectra(original: Path, tokens: Path, spec: TokenSpec) -> tuple[Tensor, Tensor, Tensor] | None:
    """Ids of the first codebook, levels in dB against the channel's mean ``[steps, F]``, and frequencies in Hz."""
    signal, grid = files.read(original, spec).double(), bitstream.load(tokens).grid(0)
    if spec.hop is None or spec.sample_rate is None or grid.ndim != 3 or len(grid) != len(signal):
        return None
    hop, size = spec.hop[-1], max(spec.hop[-1] + spec.overlap, round(spec.sample_rate))
    padded = torch.nn.functional.pad(signal, (0, max(0, (grid.shape[1] - 1) * hop + size - signal.shape[1])))
    frames = padded.unfold(1, size, hop)[:, : grid.shape[1]]
    frames = frames - frames.mean(dim=2, keepdim=True)
    power = torch.fft.rfft(frames * torch.hann_window(size, dtype=frames.dtype)).abs().square()
    frequencies = torch.fft.rfftfreq(size, 1 / spec.sample_rate)
    shown = (frequencies > 0) & (frequencies <= TOP)
    levels = 10 * power[..., shown].clamp(min=1e-6).log10()
    levels = levels - levels.mean(dim=1, keepdim=True)
    return grid[:, : frames.shape[1], 0].flatten(), levels.flatten(0, 1), frequencies[shown]


def _vocabulary(spectra: dict[int, Tensor], counts: Counter[int], frequencies: Tensor) -> Figure:
    from matplotlib.figure import Figure

    order = sorted(spectra, key=lambda token: int(spectra[token].argmax()))
    figure = Figure(figsize=(8, 1.1 + 0.17 * len(order)), dpi=100, layout="constrained")
    axes, bars = figure.subplots(1, 2, width_ratios=(5, 1), sharey=True)
    levels = torch.stack([spectra[token] for token in order])
    limit = max(1.0, float(levels.abs().quantile(0.98)))
    extent = (float(frequencies[0]), float(frequencies[-1]), len(order) - 0.5, -0.5)
    image = axes.imshow(
        levels, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent, interpolation="nearest"
    )
    axes.set_yticks(range(len(order)), [str(token) for token in order], fontsize=7)
    axes.set(xlabel="Hz", ylabel="token")
    bars.barh(range(len(order)), [100 * counts[token] / counts.total() for token in order], color=GREY)
    bars.set(xlabel="% of tokens")
    bars.tick_params(axis="y", left=False, labelleft=False)
    figure.colorbar(image, ax=axes, label="dB", pad=0.01)
    return figure


@lru_cache(maxsize=4)
def _read(path: str | Path, spec: TokenSpec) -> Tensor:
    return files.read(path, spec, seconds=SECONDS)


def _webp(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    file = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(file, "WEBP", quality=85, method=4)
    return file.getvalue()
