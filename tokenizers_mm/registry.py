"""Registry: find codecs by name, build them, load their weights; plug-in packages join through entry points.

A plug-in package declares, in its ``pyproject.toml``::

    [project.entry-points."tokenizers_mm.codecs"]      # cards: a folder of YAML files, or a function that returns cards
    my_codecs = "my_package.cards:FOLDER"
    [project.entry-points."tokenizers_mm.wings"]       # a new modality: a package with rooms files.py, metrics.py, ...
    radar = "my_package.radar"
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from tokenizers_mm.cards import HUB, Card, CardError, parse_card, read_card, read_cards
from tokenizers_mm.codec import Codec
from tokenizers_mm.containers import Container
from tokenizers_mm.hub import hub_folder, hub_weights
from tokenizers_mm.published import Converter
from tokenizers_mm.tokens import TokenSpec
from tokenizers_mm.weights import CONFIG, INDEX, WEIGHTS, read_config

CODEC_GROUP = "tokenizers_mm.codecs"
WING_GROUP = "tokenizers_mm.wings"
Registrable = Card | type[Codec] | Mapping[str, Any] | str | Path

_registered: dict[str, Card] = {}
_classes: dict[str, type[Codec]] = {}


def data_path(kind: Literal["codecs", "recipes", "checkpoints", "eval"]) -> Path:
    """Folder of cards, recipes, weights or evaluation suites, in an installed wheel and in a checkout alike.

    Raises:
        FileNotFoundError: If this installation lacks it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_data" / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"this installation of tokenizers_mm has no {kind!r} folder beside {package}")


def wing(modality: str, room: str) -> ModuleType:
    """A module of a modality: ``wing("audio", "files")`` is ``tokenizers_mm.audio.files``.

    Args:
        modality: A wing of this package, or one that a plug-in declares in the group ``tokenizers_mm.wings``; with a dot, a wing
            inside a wing, whose rooms serve another task (``"timeseries.anomaly"``).
        room: Module inside the wing.

    Raises:
        ValueError: If there is no such wing, or it has no such room.
    """
    if not all(part.isidentifier() for part in modality.split(".")):
        raise ValueError(f"modality must be a wing's name, got {modality!r}")
    outer, _, inner = modality.partition(".")
    package = f"tokenizers_mm.{outer}"
    if importlib.util.find_spec(package) is None:
        plugged = list(entry_points(group=WING_GROUP, name=outer))
        if not plugged:
            raise ValueError(f"no wing {outer!r} is installed: neither {package} nor an entry point in {WING_GROUP}")
        package = plugged[0].value
    if inner:
        found = importlib.util.find_spec(package := f"{package}.{inner}")
        if found is None or found.submodule_search_locations is None:  # a room is a module without rooms of its own
            raise ValueError(f"the {outer} wing has no wing {inner!r} inside: {package} is not a package")
    if importlib.util.find_spec(f"{package}.{room}") is None:
        raise ValueError(f"the {modality} wing has no {room!r}: {package}.{room} does not exist")
    return importlib.import_module(f"{package}.{room}")


def converter(family: str) -> Converter:
    """The function that converts published checkpoints of a family, from whichever wing has it.

    Raises:
        ValueError: If no wing does; the message lists those that there are.
    """
    known: dict[str, Converter] = _from_wings("convert", "CONVERTERS")
    if family not in known:
        raise ValueError(f"family must be one of {', '.join(sorted(known))}, got {family!r}")
    return known[family]


def containers() -> dict[str, Container]:
    """Token files of other programs that the wings read and write, by extension (``".ecdc"``)."""
    return _from_wings("containers", "CONTAINERS")


def list_codecs(pattern: str = "*", modality: str | None = None) -> list[Card]:
    """Cards whose name matches a shell pattern, by name; nothing is built.

    Args:
        pattern: For example ``"*speech*"``.
        modality: Only this wing's.

    Raises:
        CardError: If a card of this package is wrong. A plug-in's wrong card is a warning.
    """
    found = (card for card in _cards().values() if fnmatchcase(card.name, pattern))
    return sorted((c for c in found if modality in (None, c.modality)), key=lambda c: c.name)


def get_card(name: str) -> Card:
    """The card of that name.

    Raises:
        ValueError: If there is none; the message gives the nearest names.
    """
    cards = _cards()
    if name in cards:
        return cards[name]
    near = difflib.get_close_matches(name, cards, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(cards)) or 'none'}"
    raise ValueError(
        f"no codec named {name!r}: {hint} (a folder is given as a path, a hub repository as 'hf:owner/name')"
    )


def matching(spec: TokenSpec) -> list[Card]:
    """Cards whose codec takes tokens of that spec: its own, or its first codebooks where it is scalable in columns."""
    n = spec.num_codebooks

    def takes(own: TokenSpec) -> bool:
        shorter = own.scalable == "columns" and n < own.num_codebooks
        return (own.prefix(n) if shorter else own) == spec

    return [card for card in list_codecs() if takes(card.spec)]


def register(item: Registrable) -> None:
    """Make a codec known to ``list_codecs`` and ``load`` for this process.

    Args:
        item: A card, a mapping with a card's keys, a YAML file, a folder of them, or a :class:`Codec` class (so that
            folders and hub repositories whose ``config.json`` names it can be loaded).

    Raises:
        CardError: If a card is wrong.
        ValueError: If the name is taken.
        TypeError: If it is none of these.
    """
    for entry in _entries(item):
        if isinstance(entry, Card):
            if entry.name in _cards():
                raise ValueError(f"a codec named {entry.name!r} exists already ({_cards()[entry.name].origin})")
            _registered[entry.name] = entry
        elif _classes.setdefault(entry.__name__, entry) is not entry:
            raise ValueError(f"a codec class named {entry.__name__!r} exists already ({_classes[entry.__name__]})")


def build(card: Card, **overrides: Any) -> Codec:
    """A card's codec with random weights, in evaluation mode.

    Args:
        card: What to build.
        overrides: ``__init__`` arguments in place of the card's.

    Raises:
        CardError: If the class cannot be imported, does not take its config, or makes other tokens than the card says.
    """
    codec = _construct(_card_class(card), card.config, overrides, f"{card.origin}: config")
    if not overrides and codec.spec != card.spec:
        raise CardError(f"{card.origin}: spec: the codec's is {codec.spec}, the card says {card.spec}")
    return codec.eval()


def load(
    source: str | Path,
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    **overrides: Any,
) -> Codec:
    """A codec, ready to encode and decode.

    Args:
        source: A card's name, a folder with ``config.json`` and ``model.safetensors``, or
            ``"hf:owner/name[@revision]"`` (the local hub cache first, then the network).
        pretrained: False builds the network with random weights.
        weights: For a card: a downloaded ``model.safetensors``, or a folder that holds one, in place of the card's. Files of
            ``transformers`` models will do where the card's codec wraps one, whole or as a part of a bigger model.
        device: Where to put it.
        overrides: ``__init__`` arguments in place of the saved ones.

    Returns:
        The codec in evaluation mode.

    Raises:
        ValueError: If there is no such codec, it ships no weights, or files do not fit it.
        FileNotFoundError: If a file is missing; the message says which one and how to get it.
    """
    text = os.fspath(source)
    named = text in _cards() or not (text.startswith(HUB) or os.sep in text or Path(text).exists())
    if weights is not None and not (named and pretrained):
        raise ValueError(f"weights are given to a card's name with pretrained=True, got {source!r} and {pretrained}")
    if isinstance(source, str) and text.startswith(HUB):
        return _load_folder(hub_folder(text), pretrained, overrides).to(device)
    if named:
        return _load_card(get_card(text), pretrained, overrides, weights).to(device)
    return _load_folder(Path(text), pretrained, overrides).to(device)


def _from_wings(room: str, table: str) -> dict[str, Any]:
    """One table of all wings that have that room, joined."""
    joined: dict[str, Any] = {}
    for modality in sorted({card.modality for card in _cards().values()}):
        with contextlib.suppress(ValueError):  # not every wing has it
            joined |= getattr(wing(modality, room), table, {})
    return joined


# -- cards ---------------------------------------------------------------------------------------


def _cards() -> dict[str, Card]:
    return {**_installed(), **_registered}


@functools.cache
def _installed() -> dict[str, Card]:
    """Cards of this package and of plug-ins; a broken plug-in is a warning, so that it cannot take the others down."""
    cards = {card.name: card for card in read_cards(data_path("codecs"))}
    for point in entry_points(group=CODEC_GROUP):
        try:
            for entry in _entries(point.load()):
                if not isinstance(entry, Card):
                    _classes.setdefault(entry.__name__, entry)
                elif entry.name in cards:
                    raise ValueError(f"a codec named {entry.name!r} exists already ({cards[entry.name].origin})")
                else:
                    cards[entry.name] = entry
        except Exception as error:
            warnings.warn(f"plug-in {point.name} = {point.value} is broken: {error}", RuntimeWarning, stacklevel=2)
    return cards


def _entries(item: Registrable | Iterable[Registrable] | Callable[[], Any]) -> Iterator[Card | type[Codec]]:
    """Every card and codec class that ``item`` stands for."""
    if isinstance(item, Card) or (inspect.isclass(item) and issubclass(item, Codec)):
        yield item
    elif isinstance(item, (str, Path)):
        path = Path(item)
        yield from [read_card(path)] if path.is_file() else read_cards(path)
    elif isinstance(item, Mapping):
        yield parse_card(item)
    elif inspect.isroutine(item):
        yield from _entries(item())
    elif isinstance(item, Iterable):
        for part in item:
            yield from _entries(part)
    else:
        raise TypeError(f"expected a Card, a mapping, a YAML file, a folder or a Codec class, got {item!r}")


# -- classes ---------------------------------------------------------------------------------------


def _card_class(card: Card) -> type[Codec]:
    module, _, name = card.class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CardError(f"{card.origin}: class: cannot import {card.class_path}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Codec)):
        raise CardError(f"{card.origin}: class: {card.class_path} is not a Codec class")
    return found


def _class_named(name: object, origin: Path) -> type[Codec]:
    """The class that a ``config.json`` names, if a card or ``register`` names it too: files never choose an import."""
    by_card = {card.class_path: card for card in _cards().values() if card.class_path.rpartition(".")[2] == name}
    found = {_card_class(card) for card in by_card.values()}
    if isinstance(name, str) and name in _classes:
        found.add(_classes[name])
    if len(found) == 1:
        return found.pop()
    if found:
        raise ValueError(f"{origin}: class {name!r} is ambiguous: {sorted(map(str, found))}")
    known = sorted({card.class_path.rpartition(".")[2] for card in _cards().values()} | _classes.keys())
    raise ValueError(f"{origin}: class must be one of {known} (register() adds yours), got {name!r}")


def _construct(cls: type[Codec], config: Mapping[str, Any], overrides: Mapping[str, Any], origin: str) -> Codec:
    accepted = inspect.signature(cls.__init__).parameters.keys() - {"self"}
    for keys, where in ((config, origin), (overrides, "overrides")):
        for key in keys:
            if key not in accepted:
                near = difflib.get_close_matches(key, accepted, n=1)
                hint = f", did you mean {near[0]!r}?" if near else f" (it takes {sorted(accepted)})"
                raise CardError(f"{where}.{key}: {cls.__name__} has no such argument{hint}")
    try:
        return cls(**{**config, **overrides})
    except (TypeError, ValueError) as error:
        raise CardError(f"{origin}: {cls.__name__} refuses it: {error}") from error


# -- weights ---------------------------------------------------------------------------------------


def _load_card(card: Card, pretrained: bool, overrides: Mapping[str, Any], weights: str | Path | None) -> Codec:
    codec = build(card, **overrides) if card.needs_no_weights else None
    if codec is not None and not codec.state_dict():  # everything follows from the configuration
        return codec
    if pretrained and weights is None and card.checkpoint is None:
        raise ValueError(
            f"no weights ship for {card.name!r}: load(..., pretrained=False) gives random ones; "
            f"a folder that you trained or converted is loaded by its path.{_how_to_convert(card)}"
        )
    codec = codec or build(card, **overrides)
    if pretrained:
        codec.load_weights(_weights_file(Path(weights)) if weights is not None else _card_weights(card))
    return codec


def _card_weights(card: Card) -> Path:
    if (folder := card.checkpoint_folder) is not None:
        return folder / WEIGHTS
    repo = str(card.checkpoint).removeprefix(HUB).partition("@")[0]
    try:
        return hub_weights(str(card.checkpoint), getattr(_card_class(card), "parts", ()))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{str(error).partition('. ')[0]}. Where there is a network: `hf download {repo} {WEIGHTS} --local-dir {card.name}`, "
            f"then tm.load({card.name!r}, weights={card.name!r})"
        ) from None


def _weights_file(path: Path) -> Path:
    """The weights that a user named: a file, or the one in a folder."""
    if path.is_dir() and (path / INDEX).is_file() and not (path / WEIGHTS).is_file():
        return path / INDEX
    if path.is_dir() and not (path / WEIGHTS).is_file():
        others = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".ckpt", ".pt", ".pth", ".th"))
        hint = f"; {', '.join(others)} there must be converted first: `mmtok convert --help`" if others else ""
        raise FileNotFoundError(f"weights: no {WEIGHTS} in {path}{hint}")
    return path / WEIGHTS if path.is_dir() else path


def _how_to_convert(card: Card) -> str:
    """Which published files become this card's weights, and the commands."""
    known, ways = _from_wings("convert", "CONVERTERS"), []
    for published in card.published:
        family = published.family or card.class_path.rpartition(".")[2].lower()
        command = f"mmtok convert {family if family in known else 'FAMILY'} FILE {card.name}"
        if published.file is None or published.file.startswith("releases/"):
            ways.append(f"{published.file or 'the file'} of https://github.com/{published.repo}, then `{command}`")
        else:
            command = command.replace("FILE", published.file)
            ways.append(f"`hf download {published.repo} {published.file} --local-dir .`, then `{command}`")
    return f" Published weights: {'; or '.join(ways)}; then load './{card.name}'." if ways else ""


def _load_folder(folder: Path, pretrained: bool, overrides: Mapping[str, Any]) -> Codec:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: expected one with {CONFIG} and {WEIGHTS}")
    path = folder / CONFIG
    config = read_config(path)
    if "class" not in config and "architectures" in config:
        raise ValueError(f"{path} is that of a transformers model{_as_card_weights(config['architectures'], folder)}")
    codec = _construct(_class_named(config.pop("class", None), path), config, overrides, str(path)).eval()
    if pretrained:
        codec.load_weights(folder / WEIGHTS)
    return codec


def _as_card_weights(architectures: object, folder: Path) -> str:
    """How to load a folder of ``transformers`` as the weights of one of our cards."""
    model = str(architectures[0] if isinstance(architectures, list) and architectures else architectures).lower()
    cards = [card for card in list_codecs() if model.startswith(card.class_path.rpartition(".")[2].lower())]
    if not cards:
        return ", and no card's codec wraps it"
    names = " or ".join(repr(card.name) for card in cards)
    return f": give it to the card that it is the weights of, tm.load(name, weights={str(folder)!r}) with name {names}"
