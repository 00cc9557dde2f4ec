"""Report: what an evaluation found, as dataclasses, JSON and tables."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tokenizers_mm.evaluation.health import TokenHealth
from tokenizers_mm.evaluation.keep import Kept
from tokenizers_mm.evaluation.metric import Metric

SCHEMA = 1
MISSING = "–"
IDS_PER_CODE = 10  # ids per entry from which use and perplexity are worth comparing


@dataclass(frozen=True)
class Summary:
    """One number over a set of clips.

    Args:
        mean: Mean of what was measured; None if nothing was.
        ci95: Half width of the 95 % confidence interval of the mean (Student's t); None below two values.
        count: Clips measured.
        failures: Clips left out, by reason.
    """

    mean: float | None
    ci95: float | None
    count: int
    failures: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Iterable[float | None], reasons: Iterable[str] = ()) -> Summary:
        measured = torch.tensor([v for v in values if v is not None], dtype=torch.float64)
        n = len(measured)
        mean = float(measured.mean()) if n else None
        return cls(mean, _half_width(measured) if n > 1 else None, n, dict(Counter(reasons)))

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def _half_width(values: Tensor) -> float:
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1)) * float(values.std()) / math.sqrt(n)


@dataclass(frozen=True)
class ItemResult:
    """One codec on one file.

    Args:
        name: Path below the data folder.
        error: Why there is nothing else, or None.
        size: Original size in samples along each dimension.
        seconds: Duration, None where there is no time.
        steps: Token steps.
        bits: Ideal bits of the ids with equally likely codes.
        file_bytes: Size of the item's own ``.mmt`` file.
        encode_seconds: Wall-clock time.
        decode_seconds: Wall-clock time.
        metrics: Value by metric key, None where it is not defined.
        reasons: Why a metric is None.
        kept: Files of the original, the reconstruction and the tokens, if they were kept.
    """

    name: str
    error: str | None = None
    size: tuple[int, ...] = ()
    seconds: float | None = None
    steps: int = 0
    bits: float = 0.0
    file_bytes: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    metrics: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    kept: Kept | None = None

    @property
    def extent(self) -> float:
        """What rates refer to: seconds, or samples (pixels) where there is no time."""
        return self.seconds if self.seconds is not None else float(math.prod(self.size))


@dataclass(frozen=True)
class CodecResult:
    """One codec on all files.

    Args:
        codec: Name, folder or class.
        config: The codec's ``__init__`` arguments.
        spec: Its :class:`TokenSpec` as a mapping.
        parameters: Numbers in the network.
        device: Where it ran.
        rate_unit: ``"kbit/s"``, or ``"bit/sample"`` where there is no time.
        nominal_rate: Of ids with equally likely codes.
        file_rate: Of all tokens saved as one ``.mmt`` file, everything included.
        token_rate: Ids per second (or per sample).
        encode: Seconds of computing per second of signal (per item where there is no time).
        decode: The same for decoding.
        metrics: Summary by metric key.
        health: Use of the codebooks over the set; None if every item failed.
        items: Results by file.
        kind: ``"baseline"`` for a classical coder, which has no tokens.
        condition: What was done to the signals before; they are compared with what the codec was given.
    """

    codec: str
    config: dict[str, Any]
    spec: dict[str, Any]
    parameters: int
    device: str
    rate_unit: str
    nominal_rate: float | None
    file_rate: float | None
    token_rate: float | None
    encode: Summary
    decode: Summary
    metrics: dict[str, Summary]
    health: TokenHealth | None
    items: tuple[ItemResult, ...]
    kind: Literal["codec", "baseline"] = "codec"
    condition: str = "clean"

    @property
    def errors(self) -> dict[str, str]:
        """Items that failed altogether, with their error."""
        return {item.name: item.error for item in self.items if item.error is not None}


@dataclass(frozen=True)
class Report:
    """Results of codecs on one data set.

    Args:
        suite: Name of the suite.
        modality: Wing of the codecs.
        data: Name, split, number of files and fingerprint.
        definitions: The metrics, by key.
        headline: Metric keys that the summary table shows.
        codecs: One result per codec.
        machine: Processor, cores, threads, operating system.
        versions: Of Python and the packages that matter.
        command: How it was made.
        date: UTC, ISO 8601.
        schema: Version of this layout.
        kept: Folder of the kept files, relative to the report's JSON file (to where the process ran if there is none).
    """

    suite: str
    modality: str
    data: dict[str, Any]
    definitions: dict[str, Metric]
    headline: tuple[str, ...]
    codecs: tuple[CodecResult, ...]
    machine: dict[str, str | int]
    versions: dict[str, str]
    command: str
    date: str
    schema: int = SCHEMA
    kept: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        plain = {key: value for key, value in vars(self).items() if key not in ("definitions", "codecs")}
        definitions = {key: metric.describe() for key, metric in self.definitions.items()}
        return {**plain, "definitions": definitions, "codecs": [asdict(codec) for codec in self.codecs]}

    def to_json(self) -> str:
        """The report as strict JSON (no NaN or infinity)."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=1)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    def notes(self) -> list[str]:
        """What the numbers leave out, in words: items that failed, metrics that were not defined, too few ids."""
        lines = []
        for result in self.codecs:
            lines += [f"{result.codec}: {name} failed: {error}" for name, error in result.errors.items()]
            for key, summary in result.metrics.items():
                total = summary.count + summary.failed
                lines += [
                    f"{result.codec}: {self.definitions[key].name} left out {count} of {total}: {reason}"
                    for reason, count in summary.failures.items()
                ]
            books = result.health.codebooks if result.health else ()
            if few := [book for book in books if book.count < IDS_PER_CODE * book.size]:
                lines.append(
                    f"{result.codec}: use and perplexity come from {few[0].count} ids for {few[0].size} entries: "
                    "too few to tell rare entries from dead ones"
                )
        return lines

    def table(self) -> Table:
        """One row per codec: cost, headline metrics, use of the codebooks, speed. Fits 80 columns."""
        split = f" ({self.data['split']})" if self.data["split"] else ""
        table = Table(
            title=f"{self.suite}: {self.data['files']} files of {self.data['name']}{split}",
            caption="mean ± 95 % confidence; ↑ higher is better, ↓ lower; * see notes\n" + self._where(),
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
            show_lines=len(self.codecs) > 1,
        )
        table.add_column("codec", overflow="fold", min_width=10)
        rate, timed = self.codecs[0].rate_unit, self.codecs[0].rate_unit == "kbit/s"
        headers = (f"{rate}\nas file", *map(self._header, self.headline), "in use\nperpl.")
        for header in (*headers, f"enc {'s/s' if timed else 's'}\ndec ↓"):
            table.add_column(header, justify="right", no_wrap=True)
        best = {key: self._best(key) for key in self.headline}
        for i, result in enumerate(self.codecs):
            health = result.health
            table.add_row(
                escape(result.codec) + (f"\n{len(result.errors)} failed *" if result.errors else ""),
                f"{_number(result.nominal_rate, 2)}\n{_number(result.file_rate, 2)}",
                *(self._cell(result, key, "\n", i == best[key]) for key in self.headline),
                f"{health.mean('utilisation'):.1%}\n{health.mean('perplexity'):.0f}" if health else MISSING,
                f"{_number(result.encode.mean, 3)}\n{_number(result.decode.mean, 3)}",
            )
        return table

    def details(self) -> Table:
        """One row per metric, one column per codec."""
        table = Table(title="all metrics", caption="mean ± 95 % confidence; * see notes", box=box.SIMPLE_HEAD)
        table.add_column("metric", no_wrap=True)
        for result in self.codecs:
            table.add_column(escape(result.codec), justify="right")
        for key in self.definitions:
            best = self._best(key)
            cells = [self._cell(result, key, " ", i == best) for i, result in enumerate(self.codecs)]
            table.add_row(self._header(key).replace("\n", " "), *cells)
        return table

    def _where(self) -> str:
        return f"{self.machine['cpu']}, {self.machine['threads']} thread(s)"

    def _header(self, key: str) -> str:
        metric = self.definitions[key]
        return f"{metric.name}\n{metric.unit + ' ' if metric.unit else ''}{metric.arrow}"

    def _best(self, key: str) -> int | None:
        """Index of the codec with the best mean, where several can be compared."""
        means: Sequence[float | None] = [result.metrics[key].mean for result in self.codecs]
        ranked = [(mean, i) for i, mean in enumerate(means) if mean is not None]
        if len(ranked) < 2:
            return None
        return max(ranked)[1] if self.definitions[key].better == "higher" else min(ranked)[1]

    def _cell(self, result: CodecResult, key: str, gap: str, best: bool) -> Text:
        summary, digits = result.metrics[key], self.definitions[key].digits
        text = _number(summary.mean, digits) + ("*" if summary.failures else "")
        if summary.ci95 is not None:
            text += f"{gap}±{summary.ci95:.{digits}f}"
        return Text(text, style="bold" if best else "")


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"
