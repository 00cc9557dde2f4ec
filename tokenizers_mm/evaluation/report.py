"""Report: what an evaluation found, as dataclasses, JSON and tables."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from typing_extensions import TypedDict  # pydantic cannot read Python 3.11's own

from tokenizers_mm.evaluation.health import TokenHealth
from tokenizers_mm.evaluation.keep import Kept
from tokenizers_mm.evaluation.lm_file import LMFile
from tokenizers_mm.evaluation.metric import Definition

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 2


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
        size: Original size in samples along each dimension; channels first where each has tokens of its own.
        seconds: Duration, None where there is no time.
        steps: Token steps.
        bits: Ideal bits of the ids with equally likely codes; of a baseline, its bytes without the container's headers.
        file_bytes: Size of the item's own ``.mmt`` file, or of the baseline's.
        encode_seconds: Wall-clock time.
        decode_seconds: Wall-clock time.
        metrics: Value by metric key, None where it is not defined.
        reasons: Why a metric is None.
        kept: Files of the original, the reconstruction and the tokens, if they were kept.
        stability: Share of ids that stay, by key of ``evaluation.stability.STABILITY``, if it was measured.
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
    stability: dict[str, float | None] = field(default_factory=dict)

    @property
    def extent(self) -> float:
        """What rates refer to: seconds (of each row, where a signal's channels are), or samples (pixels) without time."""
        return float(math.prod(self.size)) if self.seconds is None else self.seconds * math.prod(self.size[:-1])


@dataclass(frozen=True)
class CodecResult:
    """One codec, or baseline, on all files under one condition.

    Args:
        codec: Name, folder or class; of a baseline, its title.
        config: The codec's ``__init__`` arguments.
        spec: Its :class:`TokenSpec` as a mapping; of a baseline, that of the signals (``codebook_sizes`` says nothing).
        parameters: Numbers in the network.
        device: Where it ran.
        rate_unit: ``"kbit/s"``; ``"bit/s/channel"`` where each has tokens; ``"bit/pixel"``, ``"bit/sample"`` without time.
        nominal_rate: Of ids with equally likely codes; of a baseline, without the container's headers.
        file_rate: Of all tokens saved as one ``.mmt`` file, everything included; of a baseline, of its files.
        token_rate: Ids per second (or per sample).
        encode: Seconds of computing per second of signal (per item where there is no time).
        decode: The same for decoding.
        metrics: Summary by metric key.
        health: Use of the codebooks over the set; None if every item failed.
        items: Results by file.
        kind: ``"baseline"`` for a classical coder or detector, which has no tokens; ``"detector"`` for what scores signals
            instead of coding them.
        condition: What was done to the signals before; they are compared with what the codec was given.
        fingerprint: SHA-256 over the codec's class, config and weights, or the baseline's definition.
        stability: Summary by key of ``evaluation.stability.STABILITY``, if it was measured.
        lm: The file of ``file_rate`` with its ids coded by a language model, if one was given.
        lm_rate: Of that file; None if the model does not know such tokens.
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
    kind: Literal["codec", "detector", "baseline"] = "codec"
    condition: str = "clean"
    fingerprint: str = ""
    stability: dict[str, Summary] = field(default_factory=dict)
    lm: LMFile | None = None
    lm_rate: float | None = None

    @property
    def timed(self) -> bool:
        """Whether the signals have a time axis, so that rates are per second."""
        return self.spec.get("sample_rate") is not None

    @property
    def errors(self) -> dict[str, str]:
        """Items that failed altogether, with their error."""
        return {item.name: item.error for item in self.items if item.error is not None}


@dataclass(frozen=True)
class Settings:
    """What an evaluation was asked for, beside codecs and data.

    Args:
        suite_digest: Of the suite's content: two results compare only if theirs agree.
        conditions: Definition by name.
        baselines: Definition by name.
        models: Source by role, of those that were there.
        limit: Most files, if limited.
        batch_size: Items coded at once; times are shares of a batch.
        unavailable: Baselines that could not run, with the reason.
    """

    suite_digest: str
    conditions: dict[str, str]
    baselines: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    limit: int | None = None
    batch_size: int = 1
    unavailable: dict[str, str] = field(default_factory=dict)


class Data(TypedDict):
    """Which files: the folder's or file's name, the manifest's split if any, how many, the SHA-256 over names and contents, and
    the one that the suite wants (None where it takes any data)."""

    name: str
    split: str | None
    files: int
    fingerprint: str
    wanted: str | None


@dataclass(frozen=True)
class Report:
    """Results of codecs on one data set.

    Args:
        suite: Name of the suite.
        modality: Wing of the codecs.
        data: Name, split, number of files and fingerprint.
        definitions: The metrics, by key.
        headline: Metric keys that the summary table shows.
        codecs: One result per condition and codec or baseline; conditions in turn, codecs before baselines.
        machine: Processor, cores, threads, operating system.
        versions: Of Python and the packages that matter.
        command: How it was made.
        date: UTC, ISO 8601.
        settings: Conditions, baselines, models, limit.
        schema: Version of this layout.
        kept: Folder of the kept files, relative to the report's JSON file (to where the process ran if there is none).
        about: What the data's manifest says of the items: its columns, by item and name.
        digest: SHA-256 of everything else; :meth:`save` sets it.
    """

    __pydantic_config__ = {"extra": "forbid", "strict": True, "allow_inf_nan": False}  # noqa: RUF012 - how schema.py reads it

    suite: str
    modality: str
    data: Data
    definitions: dict[str, Definition]
    headline: tuple[str, ...]
    codecs: tuple[CodecResult, ...]
    machine: dict[str, str | int]
    versions: dict[str, str]
    command: str
    date: str
    settings: Settings
    schema: int = SCHEMA
    kept: str | None = None
    about: dict[str, dict[str, str]] = field(default_factory=dict)
    digest: str = ""

    def without_files(self) -> Report:
        """The same report without its kept files, for when they are gone."""
        codecs = (replace(c, items=tuple(replace(item, kept=None) for item in c.items)) for c in self.codecs)
        return replace(self, codecs=tuple(codecs), kept=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values; of kept strips and files by language models only those that there are, so that older
        results keep their digest."""
        plain = asdict(self)
        for result in plain["codecs"]:
            if result["lm"] is None:
                del result["lm"], result["lm_rate"]
        for item in (item for result in plain["codecs"] for item in result["items"]):
            if item["kept"] and item["kept"]["strip"] is None:
                del item["kept"]["strip"]
        return plain

    def to_json(self) -> str:
        """The report as strict JSON (no NaN or infinity), each list of numbers on one line."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=1)
        return re.sub(r"\[\n[\s\d.,eE+\-\[\]]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)

    def content_digest(self) -> str:
        """SHA-256 over everything but ``digest``."""
        plain = json.dumps(replace(self, digest="").to_dict(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(plain.encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` with its digest to a file, whole or not at all."""
        partial = Path(path).with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            partial.write_text(replace(self, digest=self.content_digest()).to_json() + "\n", encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def notes(self) -> list[str]:
        """What the numbers leave out, in words: items that failed, metrics that were not defined, too few ids."""
        from tokenizers_mm.evaluation import tables

        return tables.notes(self)

    def table(self) -> Table:
        """One row per codec and condition: cost, headline metrics, use of the codebooks, speed. Fits 80 columns."""
        from tokenizers_mm.evaluation import tables

        return tables.summary(self)

    def details(self) -> Table:
        """One row per metric, one column per codec and condition."""
        from tokenizers_mm.evaluation import tables

        return tables.details(self)
