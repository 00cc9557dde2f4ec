"""Codec cards: what a YAML file in ``codecs/`` says about one codec, validated on reading.

The taxonomy's axes are those of "Discrete Audio Tokens: More Than a Survey!" (Mousavi et al., 2025), with a few values
that other modalities need.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from tokenizers_mm.tokens import TokenSpec

HUB = "hf:"
Architecture = Literal["CNN", "CNN+RNN", "CNN+T", "RNN", "T", "MLP", "none"]
Quantization = Literal["SVQ", "RVQ", "GVQ", "MSRVQ", "CSRVQ", "PQ", "FSQ", "LFQ", "K-means", "none"]


class CardError(ValueError):
    """A card is wrong; the message names its file, the key and the fault."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


class Taxonomy(_Strict):
    """Where a codec stands among others.

    Attributes:
        encoder, decoder: Network families (T is transformer or attention); ``"none"`` where there is no network.
        representation: What the networks see: waveform (T), spectrum (T-F) or both; None where neither applies.
        quantization: Kind of quantizer; SVQ is a single codebook.
        bitrate: Whether every second costs the same.
        objectives: GAN, feature matching, reconstruction, vector quantization, diffusion, masked prediction.
        auxiliary: Disentanglement (Dis), semantic distillation (SD), supervised semantic tokenisation (SST).
        joint: Whether quantizer and networks were trained together.
        streamable: Whether ``codec.stream()`` works.
        domains: What it was made for (``speech``, ``music``, ``audio``, ``natural images``, ...).
    """

    encoder: Architecture
    decoder: Architecture
    representation: Literal["T", "T-F", "both"] | None = None
    quantization: tuple[Quantization, ...] = Field(min_length=1)
    bitrate: Literal["fixed", "adaptive"]
    objectives: tuple[Literal["GAN", "Feat", "Rec", "VQ", "Diff", "MP"], ...]
    auxiliary: tuple[Literal["Dis", "SD", "SST"], ...] = ()
    joint: bool
    streamable: bool
    domains: tuple[str, ...] = Field(min_length=1)


class Paper(_Strict):
    """Where a system was described, and the code that its authors published."""

    title: str
    authors: str
    year: int = Field(ge=1900, le=2100)
    url: str
    code: str | None = None


class Published(_Strict):
    """Weights that others published and that ``mmtok convert`` turns into ours.

    Attributes:
        repo: On the hub, or on GitHub where ``file`` is one of its ``releases/``.
        file: The file in it.
        family: Converter that reads it; by default the codec class's name in lower case.
    """

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    file: str | None = None
    family: str | None = None
    training_data: str
    licence: str


class Results(_Strict):
    """Numbers that one command measured on one data set."""

    data: str
    command: str
    metrics: dict[str, float] = Field(min_length=1)


class Card(_Strict):
    """One codec: what it is, how it is built, where its weights are, what it measured.

    Attributes:
        name: The name that ``load`` takes; a card's file is called ``<name>.yaml``.
        modality: The wing it belongs to.
        class_path: Public dotted name of the codec's class (key ``class`` in YAML).
        config: The class's ``__init__`` arguments.
        spec: What its tokens are: the fields of :class:`TokenSpec` besides modality, checked against the built codec.
        checkpoint: Folder under ``checkpoints/`` beside the card's folder, ``hf:owner/name``, or None: no weights ship.
        licence: SPDX name of the licence of what loading the card gives.
        summary: One sentence.
        training_data: What the weights were trained on, or what the configuration is meant for.
        paper: The system that it implements.
        taxonomy: The survey's axes.
        published: Weights of others that can be converted to this card's configuration.
        results: What was measured.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    modality: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    class_path: str = Field(alias="class", pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    config: dict[str, Any] = {}
    spec: TokenSpec
    checkpoint: str | None
    licence: str
    summary: str
    training_data: str
    paper: Paper
    taxonomy: Taxonomy
    published: tuple[Published, ...] = ()
    results: tuple[Results, ...] = ()
    _file: Path | None = PrivateAttr(None)

    @field_validator("spec", mode="plain")
    @classmethod
    def _parse_spec(cls, value: object, info: ValidationInfo) -> TokenSpec:
        if isinstance(value, TokenSpec):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping of TokenSpec fields, got {value!r}")
        return TokenSpec.from_dict({"modality": info.data.get("modality", "unknown"), **value})

    @field_validator("checkpoint")
    @classmethod
    def _check_checkpoint(cls, value: str | None) -> str | None:
        if value is not None and not value.removeprefix(HUB):
            raise ValueError("must be a folder, 'hf:owner/name' or null, got an empty name")
        return value

    @property
    def file(self) -> Path | None:
        """The YAML file it was read from, or None for a card made in Python."""
        return self._file

    @property
    def origin(self) -> str:
        """The card's file, or its name, for messages."""
        return str(self._file or f"card {self.name!r}")

    @property
    def shipped(self) -> bool:
        """Whether its weights lie beside the card; neither a hub repository's nor none at all do."""
        return self.checkpoint_folder is not None

    @property
    def checkpoint_folder(self) -> Path | None:
        """Local folder of the weights: under ``checkpoints/`` beside the card's folder, or as given without one."""
        if self.checkpoint is None or self.checkpoint.startswith(HUB):
            return None
        return (self._file.parent.parent / "checkpoints" if self._file else Path()) / self.checkpoint

    @property
    def needs_no_weights(self) -> bool:
        """Whether it has no networks on either side and names no weights: its configuration is all there is."""
        return self.checkpoint is None and self.taxonomy.encoder == self.taxonomy.decoder == "none"

    @property
    def weights_source(self) -> str:
        """Where the weights come from, in a few words."""
        if self.needs_no_weights:
            return "none needed"
        if self.shipped:
            return "shipped"
        if self.checkpoint is not None:
            return f"hub: {self.checkpoint.removeprefix(HUB)}"
        return f"convert: {self.published[0].repo}" if self.published else "train your own"

    def row(self) -> dict[str, Any]:
        """The card in one line of plain values, as tables and ``mmtok list --json`` show it."""
        spec = self.spec
        return {
            "name": self.name,
            "modality": self.modality,
            "input": f"{spec.channels or 'any'} x {f'{spec.sample_rate:g} Hz' if spec.sample_rate else 'any size'}",
            "token_rate": spec.token_rate,
            "kbps": None if spec.bitrate is None else spec.bitrate / 1000,
            "codebooks": " + ".join(_times(size, len(list(run))) for size, run in groupby(spec.codebook_sizes)),
            "weights": "shipped" if self.shipped else self.checkpoint or "none",
            "licence": self.licence,
            "summary": self.summary,
        }


def markdown_table(cards: Sequence[Card]) -> str:
    """The cards as a Markdown table, sorted by modality and name: what the README shows."""
    head = ("name", "rate Hz", "tokens/s", "kbit/s", "codebooks", "streams", "licence", "weights")
    lines = [head, ("---",) * len(head)]
    for card in sorted(cards, key=lambda card: (card.modality, card.name)):
        row, spec = card.row(), card.spec
        rates = (f"{value:g}" if value is not None else "-" for value in (spec.sample_rate, row["token_rate"]))
        kbps = "-" if row["kbps"] is None else f"{row['kbps']:.2f}"
        streams = "yes" if card.taxonomy.streamable else "-"
        lines.append((f"`{card.name}`", *rates, kbps, row["codebooks"], streams, card.licence, card.weights_source))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _times(size: int, count: int) -> str:
    return str(size) if count == 1 else f"{count} x {size}"


def parse_card(mapping: Mapping[str, Any], origin: str = "card") -> Card:
    """A card from a plain mapping.

    Raises:
        CardError: Names ``origin``, each wrong key and what is wrong with it.
    """
    try:
        return Card.model_validate(mapping)
    except ValidationError as error:
        faults = "; ".join(_fault(e["type"], e["loc"], e["msg"]) for e in error.errors())
        raise CardError(f"{origin}: {faults}") from None


def read_card(path: str | Path) -> Card:
    """The card in one YAML file.

    Raises:
        FileNotFoundError: If there is no such file.
        CardError: If it is not YAML, not a card, or not named as its file is.
    """
    path = Path(path)
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CardError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(mapping, dict):
        raise CardError(f"{path}: must hold a mapping, got {type(mapping).__name__}")
    card = parse_card(mapping, str(path))
    if card.name != path.stem:
        raise CardError(f"{path}: name: must be the file's, {path.stem!r}, got {card.name!r}")
    card._file = path.resolve()
    return card


def read_cards(folder: str | Path) -> list[Card]:
    """The cards of every ``*.yaml`` in a folder, by name.

    Raises:
        FileNotFoundError: If there is no such folder.
        CardError: If a card is wrong.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of cards at {folder}")
    return [read_card(path) for path in sorted(Path(folder).glob("*.yaml"))]


def _fault(kind: str, location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys(), n=1)
        message = "unknown key" + (f", did you mean {near[0]!r}?" if near else "")
    elif kind == "missing":
        message = "is missing"
    return f"{key}: {message.removeprefix('Value error, ')}"


def _keys() -> list[str]:
    models: list[type[BaseModel]] = [Card, Taxonomy, Paper, Published, Results]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]
