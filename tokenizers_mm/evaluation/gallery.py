"""Gallery: the items of an evaluation with what a page shows of each: pictures, sound, token ids."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tokenizers_mm import bitstream, registry
from tokenizers_mm.evaluation.exhibit import Exhibit
from tokenizers_mm.evaluation.html_table import measured
from tokenizers_mm.evaluation.report import ItemResult, Report
from tokenizers_mm.tokens import TokenSpec

MEDIA_BYTES = 32e6  # of pictures and sound in one page: mail servers and phones refuse much more
Render = Callable[..., Exhibit]
Overview = Callable[[Sequence[tuple[Path, Path]], TokenSpec], Exhibit | None]


def worst_first(report: Report) -> list[str]:
    """Names of all items: those that failed for any codec, then by the mean over the codecs of the first metric in the table.

    Where there are codecs, baselines do not count; items for which the metric is not defined come last.
    """
    results = [r for r in report.codecs if r.kind != "baseline"] or list(report.codecs)
    key = next((key for key in measured(report) if not report.definitions[key].of_set), "")
    sign = 1 if key and report.definitions[key].better == "higher" else -1
    values: dict[str, list[float]] = {}
    failed = set()
    for item in (item for result in results for item in result.items):
        found = values.setdefault(item.name, [])
        if item.error is not None:
            failed.add(item.name)
        elif (value := item.metrics.get(key)) is not None:
            found.append(sign * value)

    def rank(name: str) -> tuple[int, float, str]:
        if name in failed:
            return 0, 0.0, name
        return (1, sum(values[name]) / len(values[name]), name) if values[name] else (2, 0.0, name)

    return sorted(values, key=rank)


@dataclass
class Gallery:
    """Media of the first items, until the limit or :data:`MEDIA_BYTES` is reached.

    Args:
        report: Whose items.
        folder: The kept files, or None for none.
        limit: At most so many items.
    """

    report: Report
    folder: Path | None
    limit: int
    missing: list[str] = field(default_factory=list, init=False)
    """Kept files that could not be shown, with the reason."""

    def collect(self, names: list[str]) -> dict[str, str]:
        """JSON by item name: ``originals`` (by kept path) and ``versions`` (by the codec's index in the report)."""
        if self.folder is None or self.limit == 0:
            return {}
        render: Render = registry.wing(self.report.modality, "show").render
        by_name = [{item.name: item for item in result.items} for result in self.report.codecs]
        found: dict[str, str] = {}
        size = 0
        for name in names:
            if len(found) == self.limit:
                break
            media = self._item([items.get(name) for items in by_name], render)
            text = json.dumps(media, sort_keys=True)
            if not media["versions"]:
                continue
            if size + len(text) > MEDIA_BYTES:
                break
            found[name], size = text, size + len(text)
        return found

    def overviews(self) -> dict[int, dict[str, Any]]:
        """What a wing's ``show.overview`` makes of all of a codec's kept originals and tokens, by its index in the report."""
        overview: Overview | None = getattr(registry.wing(self.report.modality, "show"), "overview", None)
        if self.folder is None or overview is None:
            return {}
        found = {}
        for index, result in enumerate(self.report.codecs):
            kept = [item.kept for item in result.items if item.kept and item.kept.original and item.kept.tokens]
            try:
                pairs = [(self._path(str(files.original)), self._path(str(files.tokens))) for files in kept]
                exhibit = overview(pairs, TokenSpec.from_dict(result.spec)) if pairs else None
            except (OSError, ValueError) as error:
                self.missing.append(f"overview of {result.codec}: {error}")
                continue
            if exhibit is not None:
                found[index] = exhibit.to_dict()
        return found

    def _item(self, items: list[ItemResult | None], render: Render) -> dict[str, Any]:
        originals: dict[str, Any] = {}
        versions: dict[int, Any] = {}
        for index, (result, item) in enumerate(zip(self.report.codecs, items, strict=True)):
            if item is None or item.kept is None:
                continue
            spec, kept = TokenSpec.from_dict(result.spec), item.kept
            if kept.original and kept.original not in originals:
                shown = self._shown(kept.original, spec, render)
                originals[kept.original] = shown and {**shown, "rate": spec.sample_rate}
            shown = self._shown(kept.reconstruction, spec, render, kept.original)
            ids = self._ids(kept.tokens, shown["share"] if shown else 1.0)
            if shown or ids:
                strip = self._strip(kept.strip, spec)
                versions[index] = {**(shown or {}), "original": kept.original, "ids": ids, "strip": strip}
        return {"originals": {path: shown for path, shown in originals.items() if shown}, "versions": versions}

    def _shown(self, name: str | None, spec: TokenSpec, render: Render, original: str | None = None) -> dict | None:
        if name is None:
            return None
        try:
            return render(self._path(name), spec, original and self._path(original)).to_dict()
        except (OSError, ValueError) as error:
            self.missing.append(f"{name}: {error}")
            return None

    def _strip(self, name: str | None, spec: TokenSpec) -> dict | None:
        """The picture of what first scales decode to, and its caption."""
        render = getattr(registry.wing(self.report.modality, "show"), "render_strip", None)
        if name is None or render is None:
            return None
        try:
            shown = render(self._path(name), spec).to_dict()
        except (OSError, ValueError) as error:
            self.missing.append(f"{name}: {error}")
            return None
        return {"image": shown["image"], "caption": shown["caption"]}

    def _ids(self, name: str | None, share: float) -> dict[str, Any] | None:
        """The ids as rows of the ribbon: one per codebook and row of the grid, the grid's last axis to the right."""
        if name is None:
            return None
        try:
            tokens = bitstream.load(self._path(name))
        except (OSError, ValueError) as error:
            self.missing.append(f"{name}: {error}")
            return None
        grid = np.moveaxis(tokens.grid(0).numpy(), -1, 0)  # Q, *shape
        books, columns = len(grid), grid.shape[-1]
        rows = grid.reshape(-1, columns)[:, : round(columns * share)]
        packed = base64.b64encode(rows.astype("<u4").tobytes()).decode()
        return {"books": books, "rows": len(rows), "columns": rows.shape[1], "data": packed}

    def _path(self, name: str) -> Path:
        """A kept file; a report from elsewhere must not make the page read other files."""
        folder = (self.folder or Path()).resolve()
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ValueError("is outside of the folder of kept files")
        return path
