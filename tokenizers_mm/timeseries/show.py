"""How reports show series: a panel per channel with the original behind the reconstruction, the error, and ribbons of tokens."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.timeseries import files
from tokenizers_mm.tokens import Tokens, TokenSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANNELS = 4  # panels at most
SAMPLES = 384  # of each panel at most, from the start
WIDTH, HEIGHT = 4.2, 0.85  # inches of a panel: labels stay legible at the width that reports give it
INK, OURS, WRONG = "#b8c0cc", "#1f5fa8", "#c2504a"


def render(path: str | Path, spec: TokenSpec, original: str | Path | None = None) -> Exhibit:
    """A series as a report shows it: alone, or over its original with the error below.

    Args:
        path: The file.
        spec: Gives the channels.
        original: The file that it is a reconstruction of.

    Raises:
        FileNotFoundError, ValueError: As :func:`tokenizers_mm.timeseries.files.read`.
    """
    signal = _read(path, spec)
    reference = None if original is None else _read(original, spec)
    if reference is not None and reference.shape != signal.shape:
        raise ValueError(f"{path} is {list(signal.shape)}, its original {list(reference.shape)}")
    shown = min(SAMPLES, signal.shape[1])
    caption = f"{min(CHANNELS, len(signal))} of {len(signal)} channels, samples 0 to {shown} of {signal.shape[1]}"
    if reference is not None:
        caption += "; blue: reconstruction, grey: original, red: error"
    return Exhibit(caption=caption, image=panels(signal, reference), share=shown / signal.shape[1])


def panels(signal: Tensor, reference: Tensor | None = None, tokens: Tokens | None = None) -> bytes:
    """A picture of the first channels of a series ``[C, N]``, its original, and the ids of its tokens, as WebP."""
    count = min(CHANNELS, len(signal))
    figure, axes = _figure(count)
    for channel, axis in enumerate(axes):
        _panel(axis, signal[channel, :SAMPLES], None if reference is None else reference[channel, :SAMPLES])
        if tokens is not None:
            _ribbon(axis, tokens.grid(0)[channel, :, 0], tokens.spec)
    return _image(figure)


def forecast_panels(
    context: Tensor,
    target: Tensor | None,
    quantiles: Tensor,
    levels: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    kind: str = "webp",
) -> bytes:
    """A picture of forecasts: the context, what came, the median and bands between pairs of quantiles.

    Args:
        context: ``[C, N]``.
        target: ``[C, H]``, where it is known.
        quantiles: ``[C, H, K]``.
        levels: Of the quantiles, rising.
        names: Of the channels.
        kind: ``"webp"``, ``"png"`` or ``"svg"``.
    """
    count = min(CHANNELS, len(context))
    figure, axes = _figure(count)
    ahead = range(context.shape[1], context.shape[1] + quantiles.shape[1])
    for channel, axis in enumerate(axes):
        axis.plot(context[channel].tolist(), color="#4a5565", linewidth=0.9)
        if target is not None:
            axis.plot(ahead, target[channel].tolist(), color=INK, linewidth=1.6)
        for low in range(len(levels) // 2):
            edges = (quantiles[channel, :, low].tolist(), quantiles[channel, :, -1 - low].tolist())
            axis.fill_between(ahead, *edges, color=OURS, alpha=0.18, linewidth=0)
        axis.plot(ahead, quantiles[channel, :, len(levels) // 2].tolist(), color=OURS, linewidth=1.1)
        axis.axvline(context.shape[1] - 0.5, color="#9aa3af", linewidth=0.6, linestyle=":")
        if names is not None:
            axis.set_title(names[channel][:60], fontsize=6, loc="left", pad=2, color="#4a5565", parse_math=False)
    return _image(figure, kind)


def _figure(count: int) -> tuple[Any, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT * count + 0.25), dpi=170, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    for axis in axes:
        axis.tick_params(labelsize=6, length=2, colors="#4a5565")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    return figure, list(axes)


def _panel(axis: Axes, signal: Tensor, reference: Tensor | None) -> None:
    if reference is None:
        axis.plot(signal.tolist(), color="#4a5565", linewidth=0.9)
        return
    axis.plot(reference.tolist(), color=INK, linewidth=2.2, solid_capstyle="round")
    axis.plot(signal.tolist(), color=OURS, linewidth=0.9)
    low, high = axis.get_ylim()
    base = low - 0.22 * (high - low)
    axis.plot((signal - reference + base).tolist(), color=WRONG, linewidth=0.7)
    axis.axhline(base, color=WRONG, linewidth=0.3)


def _ribbon(axis: Axes, ids: Tensor, spec: TokenSpec) -> None:
    """Ids as colours below the curve, each as wide as the samples that it stands for."""
    hop = spec.hop[-1] if spec.hop else 1
    shown = ids[: SAMPLES // hop].float()
    low, high = axis.get_ylim()
    height = 0.12 * (high - low)
    extent = (-0.5, len(shown) * hop - 0.5, low - 1.3 * height, low - 0.3 * height)
    axis.imshow(
        shown[None].numpy(), aspect="auto", extent=extent, cmap="turbo", vmin=0, vmax=spec.codebook_sizes[0] - 1
    )
    axis.set_ylim(low - 1.5 * height, high)


@lru_cache(maxsize=4)
def _read(path: str | Path, spec: TokenSpec) -> Tensor:
    return files.read(path, spec)


def _image(figure: Any, kind: str = "webp") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, **({"pil_kwargs": {"quality": 90}} if kind == "webp" else {}))
    return file.getvalue()
