"""Language models by name, as codecs are: those over tokens of any codecs, and those of text."""

from __future__ import annotations

from pathlib import Path

from tokenizers_mm import lm, registry
from tokenizers_mm.cards import HUB
from tokenizers_mm.hub import hub_folder
from tokenizers_mm.lm.ngram import TokenNGram
from tokenizers_mm.stored import Stored
from tokenizers_mm.weights import CONFIG, read_config


def list_lms() -> dict[str, str]:
    """Names of the language models that ship, and their classes."""
    found = {}
    for file in sorted(registry.data_path("checkpoints").glob(f"*/{CONFIG}")):
        if is_lm(file.parent):
            found[file.parent.name] = str(read_config(file)["class"])
    return found


def load_lm(name: str | Path, *, device: str = "cpu") -> Stored | TokenNGram:
    """A language model in evaluation mode.

    Args:
        name: That of one that ships (:func:`list_lms`), a folder, or ``"hf:owner/name[@revision]"``.
        device: Where a network is to be.

    Raises:
        FileNotFoundError: If there is none of that name.
        ValueError: If it is of something else.
    """
    folder = lm_folder(name)
    kind = read_config(folder / CONFIG).get("class")
    if kind not in (known := _classes()):
        raise ValueError(f"{folder} must hold a language model, one of {', '.join(sorted(known))}, got class {kind!r}")
    cls = known[str(kind)]
    return cls.from_pretrained(folder, map_location=device) if issubclass(cls, Stored) else cls.from_pretrained(folder)


def lm_folder(name: str | Path) -> Path:
    """Where a language model's files are; raises ``FileNotFoundError`` where there are none."""
    if str(name).startswith(HUB):
        return hub_folder(str(name))
    shipped = registry.data_path("checkpoints") / name
    folder = shipped if not Path(name).is_dir() and shipped.is_dir() else Path(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"no language model {str(name)!r}: expected a folder or one of {', '.join(list_lms())}")
    return folder


def is_lm(folder: Path) -> bool:
    """Whether a folder holds a language model that :func:`load_lm` knows."""
    return (folder / CONFIG).is_file() and read_config(folder / CONFIG).get("class") in _classes()


def _classes() -> dict[str, type[Stored] | type[TokenNGram]]:
    """Language models that can be loaded, by class name: those over tokens, and those of text."""
    from tokenizers_mm import text
    from tokenizers_mm.text.model import TextLM

    public = [
        *((lm, name, (Stored, TokenNGram)) for name in lm.__all__),
        *((text, name, (TextLM,)) for name in text.__all__),
    ]
    found = ((name, getattr(home, name), bases) for home, name, bases in public)
    return {name: cls for name, cls, bases in found if isinstance(cls, type) and issubclass(cls, bases)}
