"""What an evaluation of language models runs on: YAML files in ``eval/suites`` with ``kind: language-models``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenizers_mm import registry
from tokenizers_mm.evaluation.yaml_files import read_yaml, validated
from tokenizers_mm.lm.neighbours import Context


class Source(BaseModel):
    """Tokens of one codec; folders may hold environment variables as ``${NAME}``.

    Attributes:
        train: Shards or ``.mmt`` files that n-grams are counted on; those that the models were trained on.
        test: Held-out ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: str
    test: str

    @property
    def folders(self) -> tuple[Path, Path]:
        """Where both are.

        Raises:
            FileNotFoundError: If one is not there, or needs an environment variable that is not set.
        """
        for folder in (self.train, self.test):
            if unset := [name for name in re.findall(r"\$\{(\w+)\}", folder) if not os.environ.get(name)]:
                raise FileNotFoundError(f"tokens are found through {', '.join(unset)}: set it")
            if not Path(os.path.expandvars(folder)).exists():
                raise FileNotFoundError(f"no tokens at {folder}")
        return Path(os.path.expandvars(self.train)), Path(os.path.expandvars(self.test))


class LMPlan(BaseModel):
    """What is measured.

    Attributes:
        kind: Tells these suites from those of codecs.
        name: The file's name without ``.yaml``.
        sources: Tokens by a name each.
        orders: Of the n-grams that models are compared with.
        contexts: Which ids n-grams look at: see :func:`tokenizers_mm.lm.neighbours.neighbours`.
        train_ids: Most ids that n-grams are counted on.
        test_items: Most held-out items.
        files: Held-out items that are written to files with each model.
        samples: Items that are drawn, of the grids of as many held-out ones.
        seed: Of the draws.
        labels: Whether models with classes are told, too, which one each held-out item is of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["language-models"] = "language-models"
    name: str
    sources: dict[str, Source] = Field(min_length=1)
    orders: tuple[int, ...] = (1, 2, 3, 4, 5)
    contexts: tuple[Context, ...] = ("sequence", "grid")
    train_ids: int = Field(5_000_000, ge=1)
    test_items: int = Field(1000, ge=2)
    files: int = Field(8, ge=0)
    samples: int = Field(16, ge=0)
    seed: int = 0
    labels: bool = False


def load_plan(source: str | Path) -> LMPlan:
    """A plan by the name of a shipped file, or by path.

    Raises:
        ValueError: If there is none or its file is wrong; the message names the file, the key and the fault.
    """
    folder = registry.data_path("eval") / "suites"
    path = Path(source) if str(source).endswith((".yaml", ".yml")) else folder / f"{source}.yaml"
    if not path.is_file():
        known = sorted(
            p.stem for p in folder.glob("*.yaml") if "kind: language-models" in p.read_text(encoding="utf-8")
        )
        raise ValueError(f"no suite {str(source)!r}: expected one of {known} or the path of a YAML file")
    return validated(path, read_yaml(path), LMPlan)
