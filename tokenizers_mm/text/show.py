"""How reports show text: an excerpt in words, and over all texts of a codec a bar of positions a line for each."""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers_mm import bitstream
from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.text import files
from tokenizers_mm.text.metrics import lines, positions
from tokenizers_mm.tokens import TokenSpec

if TYPE_CHECKING:
    from tokenizers_mm.text.merge_eval import Budget

EXCERPT = 280  # characters
FILES = 60  # bars at most
OURS, REFERENCE, INK = "#1f5fa8", "#c2504a", "#4a5565"


def render(path: str | Path, spec: TokenSpec, original: str | Path | None = None) -> Exhibit:
    """A text as a report shows it: how it begins, or where it first differs from its original.

    Raises:
        FileNotFoundError, ValueError: As :func:`tokenizers_mm.text.files.read`.
    """
    text = files.read(path, spec)
    share = max(min(1.0, EXCERPT / max(1, len(text))), 1e-6)
    if original is None:
        return Exhibit(caption=_excerpt(text), share=share)
    before = files.read(original, spec)
    if before == text:
        return Exhibit(caption="the same, to the last byte", share=share)
    return Exhibit(caption=_difference(before, text), share=share)


def overview(items: Sequence[tuple[Path, Path]], spec: TokenSpec) -> Exhibit | None:
    """Positions that a model steps through for a line of each text, shortest first: what each language pays where texts are
    parallel; None for a single text."""
    found = []
    for original, tokens in items[:FILES]:
        text = files.read(original, spec)
        if count := lines(text):
            found.append((positions(bitstream.load(tokens)) / count, original.name.partition(".")[0]))
    if len(found) < 2:
        return None
    found.sort()
    low, high = found[0], found[-1]
    caption = (
        f"positions a line: {low[0]:.1f} ({low[1]}) to {high[0]:.1f} ({high[1]}), {high[0] / low[0]:.2f} times as many"
    )
    return Exhibit(caption=caption, image=bars(found), top="positions a line")


def bars(values: Sequence[tuple[float, str]]) -> bytes:
    """A picture of a number per name, that of English in red with a line across, as WebP."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.2, 0.24 * len(values)), 2.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis: Any = figure.subplots()
    names = [name for _, name in values]
    english = next((i for i, name in enumerate(names) if name in ("eng", "en")), None)
    colours = [REFERENCE if i == english else OURS for i in range(len(names))]
    axis.bar(range(len(names)), [value for value, _ in values], color=colours, width=0.8)
    if english is not None:
        axis.axhline(values[english][0], color=REFERENCE, linewidth=0.7, linestyle=":")
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.tick_params(axis="y", labelsize=7, colors=INK)
    axis.set_ylabel("positions a line", fontsize=7, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.01)
    file = io.BytesIO()
    figure.savefig(file, format="webp", pil_kwargs={"quality": 90})
    return file.getvalue()


def merge_curves(found: Sequence[Budget], path: str | Path) -> None:
    """A picture of bits per byte, tokens told right and divergence over the length of merged prefixes.

    Args:
        found: Budgets, that of no merges first.
        path: Image to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    first, *rows = found
    percent = [100 * row.prefix_tokens / first.prefix_tokens for row in rows]
    kinds = (
        ("bits_per_byte", "bits a byte of what follows"),
        ("accuracy", "tokens that follow told right"),
        ("divergence", "nats off in the prefix"),
    )
    for axis, (kind, label) in zip(figure.subplots(1, 3), kinds, strict=True):
        (start,) = getattr(first, kind).values()
        for name in getattr(rows[0], kind):
            axis.plot([100, *percent], [start, *(getattr(row, kind)[name] for row in rows)], marker="o", label=name)
        axis.axhline(start, color=INK, linewidth=0.7, linestyle=":")
        axis.invert_xaxis()
        axis.set_xlabel("tokens of the prefix, % of unmerged")
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(path)


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]} ..."


def _difference(before: str, after: str) -> str:
    start = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    ratio = difflib.SequenceMatcher(
        None, before[start : start + 2000], after[start : start + 2000], autojunk=False
    ).ratio()
    shown = [ascii(text[max(0, start - 20) : start + 60]) for text in (before, after)]
    return f"differs from character {start} on ({ratio:.0%} alike there): {shown[0]} became {shown[1]}"
