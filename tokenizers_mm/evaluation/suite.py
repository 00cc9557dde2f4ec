"""Suites: YAML files in ``eval/suites`` that name the data and the metrics of one kind of evaluation."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenizers_mm.registry import data_path


class Suite(BaseModel):
    """What an evaluation runs on and measures.

    Attributes:
        name: The file's name without ``.yaml``.
        modality: Wing whose codecs it is for.
        data: Folder or manifest, relative to ``eval/``.
        split: Rows of a manifest that count, or None for all.
        metrics: Keys of the wing's ``METRICS``, in the order of reports.
        headline: Those that the summary table shows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    modality: str
    data: str
    split: str | None = "test"
    metrics: tuple[str, ...] = Field(min_length=1)
    headline: tuple[str, ...] = Field(min_length=1)

    @property
    def data_folder(self) -> Path:
        return data_path("eval") / self.data


def load_suite(source: str | Path) -> Suite:
    """A suite by the name of a shipped file, or by path.

    Raises:
        ValueError: If there is no such suite or its file is wrong; the message names the file, the key and the fault.
    """
    folder = data_path("eval") / "suites"
    path = Path(source) if str(source).endswith((".yaml", ".yml")) else folder / f"{source}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise ValueError(f"no suite {str(source)!r}: expected one of {known} or the path of a YAML file")
    try:
        suite = Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {faults}") from None
    if extra := [name for name in suite.headline if name not in suite.metrics]:
        raise ValueError(f"{path}: headline: {extra} are not among metrics")
    return suite
