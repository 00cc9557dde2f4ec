"""Suites: YAML files in ``eval/suites`` that name data, metrics, baselines and conditions of one kind of evaluation."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenizers_mm import registry


class Suite(BaseModel):
    """What an evaluation runs on and measures.

    Attributes:
        name: The file's name without ``.yaml``.
        modality: Wing whose codecs it is for.
        data: Folder or manifest, relative to ``eval/``; environment variables as ``${NAME}``.
        split: Rows of a manifest that count, or None for all.
        fingerprint: SHA-256 that the data must have for results to compare; by default that of ``data`` itself.
        metrics: Keys of the wing's ``METRICS``, in the order of reports.
        headline: Those that the summary table shows.
        conditions: Keys of the wing's ``CONDITIONS``, or ``clean``.
        baselines: Keys of the wing's ``BASELINES``.
        reading: Options of the wing's file reader, by name.
        stability: Whether to measure how many ids stay under noise, shifts and a second encoding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    modality: str
    data: str
    split: str | None = "test"
    fingerprint: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    metrics: tuple[str, ...] = Field(min_length=1)
    headline: tuple[str, ...] = Field(min_length=1)
    conditions: tuple[str, ...] = Field(("clean",), min_length=1)
    baselines: tuple[str, ...] = ()
    reading: dict[str, str | float] = Field(default_factory=dict)
    stability: bool = False

    @property
    def data_folder(self) -> Path:
        """Where the data is.

        Raises:
            ValueError: If it needs an environment variable that is not set.
            FileNotFoundError: If it is not there.
        """
        variables = re.findall(r"\$\{(\w+)\}", self.data)
        if missing := [name for name in variables if not os.environ.get(name)]:
            raise ValueError(
                f"suite {self.name!r} finds its data through {', '.join(missing)}: set it, or give the data"
            )
        folder = registry.data_path("eval") / os.path.expandvars(self.data)
        if not folder.exists():
            through = f", which it finds through {', '.join(variables)}" if variables else ""
            raise FileNotFoundError(
                f"suite {self.name!r} wants its data at {folder}{through}; nothing is there: give the data"
            )
        return folder

    @property
    def digest(self) -> str:
        """16 hex digits of the suite's content."""
        content = self.model_dump_json(exclude=None if self.reading else {"reading"})
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def load_suite(source: str | Path) -> Suite:
    """A suite by the name of a shipped file, or by path.

    Raises:
        ValueError: If there is no such suite or its file is wrong; the message names the file, the key and the fault.
    """
    folder = registry.data_path("eval") / "suites"
    path = Path(source) if str(source).endswith((".yaml", ".yml")) else folder / f"{source}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise ValueError(f"no suite {str(source)!r}: expected one of {known} or the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("kind") == "language-models":
            raise ValueError(f"{path} is a suite of language models: mmtok lm eval runs it")
        suite = Suite.model_validate(_tuples(content))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {faults}") from None
    for key, names, known_names in (
        ("metrics", suite.metrics, _known(path, suite, "metrics")),
        ("headline", suite.headline, suite.metrics),
        ("conditions", suite.conditions, {"clean", *(_known(path, suite, "conditions") if _unclean(suite) else ())}),
        ("baselines", suite.baselines, _known(path, suite, "baselines") if suite.baselines else ()),
    ):
        _check(path, key, names, known_names)
    return suite


def _tuples(content: object) -> object:
    """Lists as the tuples that a strict model takes."""
    if not isinstance(content, dict):
        return content
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def _unclean(suite: Suite) -> bool:
    return any(name != "clean" for name in suite.conditions)


def _known(path: Path, suite: Suite, room: str) -> Collection[str]:
    """Names that the suite's wing declares in a room."""
    try:
        return getattr(registry.wing(suite.modality, room), room.upper())
    except ValueError as error:
        raise ValueError(f"{path}: {room if room != 'metrics' else 'modality'}: {error}") from None


def _check(path: Path, key: str, names: Collection[str], known: Collection[str]) -> None:
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"{path}: {key}: {twice} come twice")
    if unknown := [name for name in names if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected some of {sorted(known)}"
        raise ValueError(f"{path}: {key}: unknown {unknown}: {hint}")
