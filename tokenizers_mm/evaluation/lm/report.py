"""What an evaluation of language models found, as dataclasses, JSON and a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from tokenizers_mm.evaluation.lm.samples import Samples
from tokenizers_mm.evaluation.lm.scores import Bits, Files
from tokenizers_mm.evaluation.tables import MISSING

SCHEMA = 1


@dataclass(frozen=True)
class Tested:
    """Held-out tokens, and what they cost without a language model.

    Args:
        name: Of the source.
        codec: Name of the codec, where it is known.
        spec: What the tokens are.
        items: How many held-out items.
        ids: And ids.
        train_ids: Ids that n-grams are counted on.
        fingerprint: SHA-256 of the held-out grids and ids.
        nominal: Bits with equally likely ids, per id.
        plain: Bits of the ids as one ``.mmt`` file without a model, per id.
        nominal_rate: The first per second, pixel, byte (:attr:`Bits.rate_unit`); None where items do not say how long they are.
        plain_rate: The second likewise.
        rate_unit: Of what.
    """

    name: str
    codec: str | None
    spec: dict[str, Any]
    items: int
    ids: int
    train_ids: int
    fingerprint: str
    nominal: float
    plain: float
    nominal_rate: float | None
    plain_rate: float | None
    rate_unit: str


@dataclass(frozen=True)
class Row:
    """One model on one source.

    Args:
        source: Name of the source.
        model: Name of the model, or of what stands in its place.
        kind: ``"held-out"`` for other held-out items in the place of drawn ones: what no model can be closer than.
        parameters: Numbers in a network, or counts in an n-gram.
        fingerprint: Of the model.
        bits: Of held-out ids.
        told: The same of a model that is told which class each item is of.
        files: Sizes of files.
        samples: What the model draws.
        kept: Files of what the drawn items decode to, by place below the folder of kept files.
    """

    source: str
    model: str
    kind: Literal["model", "n-gram", "held-out"]
    parameters: int = 0
    fingerprint: str = ""
    bits: Bits | None = None
    told: Bits | None = None
    files: Files | None = None
    samples: Samples | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class LMReport:
    """Results of language models of tokens.

    Args:
        suite: Name of the plan.
        settings: What else it says.
        sources: What was measured on.
        rows: One per source and model, n-grams after the models.
        metrics: Title by key, of the distances between drawn and held-out signals.
        machine: Processor, cores, threads, operating system.
        versions: Of Python and the packages that matter.
        command: How it was made.
        date: UTC, ISO 8601.
        notes: What was left out, in words.
        schema: Version of this layout.
    """

    suite: str
    settings: dict[str, Any]
    sources: tuple[Tested, ...]
    rows: tuple[Row, ...]
    metrics: dict[str, str]
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    date: str
    notes: tuple[str, ...] = ()
    schema: int = field(default=SCHEMA)

    def save(self, path: str | Path) -> None:
        """Write everything as strict JSON."""
        text = json.dumps({"kind": "token-lm", **asdict(self)}, ensure_ascii=False, allow_nan=False, indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def of(self, source: str) -> Iterable[Row]:
        """Rows of a source."""
        return (row for row in self.rows if row.source == source)

    def columns(self, source: Tested) -> tuple[str, ...]:
        """Titles of :meth:`cells`."""
        found = {key: None for row in self.of(source.name) if row.samples for key in row.samples.metrics}
        titles = (self.metrics.get(key, key) for key in found)
        told = ("class told",) if self._tells(source) else ()
        return "bits/id", *told, source.rate_unit, "of nominal", ".mmt bits/id", "without", "JS of draws", *titles

    def cells(self, source: Tested, row: Row) -> tuple[str, ...]:
        """What a table says of a row of a source."""
        bits, files, samples = row.bits, row.files, row.samples
        keys = {key: None for other in self.of(source.name) if other.samples for key in other.samples.metrics}
        return (
            _per_id(bits),
            *((_per_id(row.told),) if self._tells(source) else ()),
            _number(None if bits is None else bits.rate, 4),
            MISSING if bits is None else f"{bits.per_id / source.nominal:.1%}",
            _number(None if files is None else files.bits_per_id, 3),
            _number(None if files is None else files.plain_bits_per_id, 3),
            _number(None if samples is None else samples.divergence, 4),
            *(_number(None if samples is None else samples.metrics.get(key), 3) for key in keys),
        )

    def tables(self) -> Iterable[Table]:
        """One table per source."""
        for source in self.sources:
            table = Table("model", title=self.heading(source), title_justify="left", box=None)
            for title in self.columns(source):
                table.add_column(title, justify="right")
            told = (MISSING,) if self._tells(source) else ()
            table.add_row(
                "equally likely ids", _number(source.nominal, 3), *told, _number(source.nominal_rate, 4), "100.0%"
            )
            share = f"{source.plain / source.nominal:.1%}"
            table.add_row(".mmt without a model", _number(source.plain, 3), *told, _number(source.plain_rate, 4), share)
            for row in self.of(source.name):
                table.add_row(escape(row.model), *self.cells(source, row))
            yield table

    def _tells(self, source: Tested) -> bool:
        """Whether a model of a source was told classes."""
        return any(row.told for row in self.of(source.name))

    def heading(self, source: Tested) -> str:
        """What a source is, in one line."""
        of = f" of {source.codec}" if source.codec else ""
        return f"{source.name}: {source.items} held-out items, {source.ids} ids{of}; n-grams of {source.train_ids} ids"


def _per_id(bits: Bits | None) -> str:
    if bits is None:
        return MISSING
    return f"{bits.per_id:.3f}" if bits.ci95 is None else f"{bits.per_id:.3f} ±{bits.ci95:.3f}"


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"
