"""Probe: what a classifier makes of a codec's tokens, beside features that need no codec, on labelled data of any modality.

A wing's ``probe.py`` holds ``load(path, options, spec) -> dict[str, Labelled]`` (train, valid, test), ``FEATURES`` (of signals,
for the baselines) and perhaps ``CLASSIFIERS`` (networks on tokens). Features of tokens and linear classifiers are here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from tokenizers_mm import registry
from tokenizers_mm.codec import Codec
from tokenizers_mm.evaluation import environment
from tokenizers_mm.evaluation.class_tokens import consistency, histograms, uniqueness, used_by_class
from tokenizers_mm.evaluation.plan import load_codecs, one_modality
from tokenizers_mm.tokens import Tokens, TokenSpec

if TYPE_CHECKING:
    from rich.table import Table

STRENGTHS = tuple(10.0**power for power in range(-4, 3))  # of the inverse regularisation, chosen on the validation set
DRAWS = 1000  # of the bootstrap
BATCH = 16


class ProbePlan(BaseModel):
    """What is classified.

    Attributes:
        name: The file's name without ``.yaml``.
        modality: Wing of the data.
        data: File or folder; environment variables as ``${NAME}``.
        classes: Names of the labels, in their order.
        options: What the wing's ``load`` takes besides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    modality: str
    data: str
    classes: tuple[str, ...] = Field(min_length=2)
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the data is.

        Raises:
            ValueError: If it needs an environment variable that is not set.
        """
        if missing := [name for name in re.findall(r"\$\{(\w+)\}", self.data) if not os.environ.get(name)]:
            raise ValueError(f"probe {self.name!r} finds its data through {', '.join(missing)}: set it")
        return Path(os.path.expandvars(self.data))


@dataclass(frozen=True)
class Labelled:
    """One side of a split.

    Args:
        signals: Float ``[B, C, ...]``.
        labels: int64 ``[B]``.
    """

    signals: Tensor
    labels: Tensor


Features = Callable[[Tensor, TokenSpec], Tensor]
Classifier = Callable[[Codec, Mapping[str, Labelled], Mapping[str, Tokens], int], Tensor | None]


@dataclass(frozen=True)
class ProbeResult:
    """One kind of features, classified.

    Args:
        codec: Name; ``""`` for features without a codec.
        features: What the classifier saw.
        dimensions: How many numbers of an item, 0 for a network of its own.
        accuracy: On the test set.
        balanced_accuracy: Mean recall over the classes.
        ci95: Half width of its 95 % interval, from a bootstrap over test items.
        kappa: Cohen's.
        f1: Weighted by class frequency.
    """

    codec: str
    features: str
    dimensions: int
    accuracy: float
    balanced_accuracy: float
    ci95: float
    kappa: float
    f1: float


@dataclass(frozen=True)
class ProbeReport:
    """What :func:`probe` found.

    Args:
        probe: Name of the plan.
        classes: Names of the labels.
        counts: Items of each class, by side of the split.
        results: One per codec and kind of features, and the baselines.
        tokens: By codec: entries of the first codebook that the test set uses, as a share; uniqueness; consistency.
        command: How it was made.
        versions: Of packages.
    """

    probe: str
    classes: tuple[str, ...]
    counts: dict[str, list[int]]
    results: tuple[ProbeResult, ...]
    tokens: dict[str, dict[str, float | None]]
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """One row per classifier."""
        from rich.table import Table

        sides = ", ".join(f"{side} {'+'.join(map(str, count))}" for side, count in self.counts.items())
        table = Table(title=f"{self.probe}: {', '.join(self.classes)}", caption=f"items by class: {sides}", box=None)
        for column in ("codec", "features", "numbers", "balanced accuracy ↑", "kappa ↑", "accuracy ↑", "F1 ↑"):
            table.add_column(column, justify="left" if column in ("codec", "features") else "right")
        for r in self.results:
            values = f"{r.balanced_accuracy:.3f} ± {r.ci95:.3f}", f"{r.kappa:.3f}", f"{r.accuracy:.3f}", f"{r.f1:.3f}"
            table.add_row(r.codec or "-", r.features, str(r.dimensions or "-"), *values)
        return table


def load_plan(source: str | Path) -> ProbePlan:
    """A plan by the name of a shipped file (``eval/probes``), or by path.

    Raises:
        ValueError: If there is no such plan or its file is wrong.
    """
    folder = registry.data_path("eval") / "probes"
    path = Path(source) if str(source).endswith((".yaml", ".yml")) else folder / f"{source}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise ValueError(f"no probe {str(source)!r}: expected one of {known} or the path of a YAML file")
    try:
        return ProbePlan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def probe(codecs: Sequence[str | Path | Codec], plan: str | Path, *, device: str = "cpu", seed: int = 0) -> ProbeReport:
    """Train classifiers on the training items' tokens, choose on the validation items, measure on the test items.

    Args:
        codecs: Card names, folders or codecs, of one modality.
        plan: Name or path of a probe.
        device: Where codecs run.
        seed: Of the networks among the classifiers.

    Raises:
        ValueError: If the plan is another modality's, or something in it is unknown.
        ImportError: If scikit-learn is not installed.
    """
    named, settings = load_codecs(codecs, device), load_plan(plan)
    if (modality := one_modality(named)) != settings.modality:
        raise ValueError(f"probe {settings.name!r} is for {settings.modality} codecs, got {modality} codecs")
    room = registry.wing(settings.modality, "probe")
    results: list[ProbeResult] = []
    about: dict[str, dict[str, float | None]] = {}
    counts: dict[str, list[int]] = {}
    for name, codec in named.items():
        options = {"classes": list(settings.classes), **settings.options}
        if codec.reading:
            options["reading"] = {**settings.options.get("reading", {}), **codec.reading}
        sides: dict[str, Labelled] = room.load(settings.path, dict(options), codec.spec)
        if not counts:
            counts = {
                side: torch.bincount(found.labels, minlength=len(settings.classes)).tolist()
                for side, found in sides.items()
            }
            for title, function in room.FEATURES.items():
                values = {side: function(found.signals, codec.spec) for side, found in sides.items()}
                results.append(_linear("", title, values, sides))
        tokens = {side: _encode(codec, found.signals) for side, found in sides.items()}
        for title, values in _token_features(codec, tokens).items():
            results.append(_linear(name, title, values, sides))
        for title, classifier in getattr(room, "CLASSIFIERS", {}).items():
            predicted = classifier(codec, sides, tokens, seed)
            if predicted is not None:
                results.append(_scored(name, title, 0, predicted.numpy(), sides["test"].labels.numpy()))
        about[name] = _about(tokens["test"], sides["test"].labels)
    versions = environment.versions(("scikit-learn",))
    return ProbeReport(settings.name, settings.classes, counts, tuple(results), about, environment.command(), versions)


def _encode(codec: Codec, signals: Tensor) -> Tokens:
    return Tokens.cat([codec.encode(batch.to(codec.device)).to("cpu") for batch in signals.split(BATCH)])


def _token_features(codec: Codec, tokens: Mapping[str, Tokens]) -> dict[str, dict[str, Tensor]]:
    """Features by name and side; entries that the training items never use are left out of histograms."""
    found: dict[str, dict[str, Tensor]] = {}
    for title, per_row in (("token histogram", False), ("token histogram per channel", True)):
        if per_row and len(codec.spec.axes) < 2:
            continue
        values = {side: histograms(each, per_row=per_row) for side, each in tokens.items()}
        seen = values["train"].any(dim=0)
        found[title] = {side: each[:, seen] for side, each in values.items()}
    decode = getattr(getattr(codec, "quantizer", None), "decode", None)
    if decode is not None:
        found["mean code vector per channel"] = {side: _embedded(codec, each) for side, each in tokens.items()}
    return found


@torch.no_grad()
def _embedded(codec: Any, tokens: Tokens) -> Tensor:
    """Mean over time of the vectors that ids stand for, of each row of the grid: ``[B, rows * D]``."""
    rows = []
    for item in range(len(tokens)):
        grid = tokens.grid(item).to(codec.device)
        vectors = codec.quantizer.decode(grid.reshape(-1, *grid.shape[-2:]))  # rows, T, D
        rows.append(vectors.mean(dim=1).flatten().cpu())
    return torch.stack(rows)


def _linear(codec: str, title: str, values: Mapping[str, Tensor], sides: Mapping[str, Labelled]) -> ProbeResult:
    """Logistic regression on standardised features, its regularisation chosen by balanced accuracy on the validation items."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise ImportError("probes need scikit-learn: pip install 'tokenizers_mm[eeg]'") from None
    x = {side: each.double().numpy() for side, each in values.items()}
    y = {side: found.labels.numpy() for side, found in sides.items()}
    best, chosen = -1.0, None
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=2000))
        model.fit(x["train"], y["train"])
        score = balanced_accuracy_score(y["valid"], model.predict(x["valid"]))
        if score > best:
            best, chosen = score, model
    assert chosen is not None
    return _scored(codec, title, x["train"].shape[1], chosen.predict(x["test"]), y["test"])


def _scored(codec: str, title: str, dimensions: int, predicted: np.ndarray, labels: np.ndarray) -> ProbeResult:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, f1_score

    random = np.random.default_rng(0)
    recalls = [(predicted[labels == label] == label).astype(float) for label in np.unique(labels)]
    # drawn within classes, so that none is ever missing
    drawn = np.mean(
        [hits[random.integers(len(hits), size=(DRAWS, len(hits)))].mean(axis=1) for hits in recalls], axis=0
    )
    low, high = np.quantile(drawn, (0.025, 0.975))
    return ProbeResult(
        codec,
        title,
        dimensions,
        float(accuracy_score(labels, predicted)),
        float(balanced_accuracy_score(labels, predicted)),
        float(high - low) / 2,
        float(cohen_kappa_score(labels, predicted)),
        float(f1_score(labels, predicted, average="weighted")),
    )


def _about(tokens: Tokens, labels: Tensor) -> dict[str, float | None]:
    used = tokens.ids[tokens.mask][:, 0].unique().numel()
    return {
        "utilisation": used / tokens.spec.codebook_sizes[0],
        "uniqueness": uniqueness(used_by_class(tokens, labels)),
        "consistency": consistency(histograms(tokens), labels),
    }
