"""Language models of tokens by name: those that ship, and those in folders."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from tokenizers_mm.lm.predicts import Predicts
from tokenizers_mm.weights import CONFIG, read_config

if TYPE_CHECKING:
    from tokenizers_mm.lm.ngram import TokenNGram
    from tokenizers_mm.lm.token_lm import TokenLM

_HOMES = {"TokenNGram": "tokenizers_mm.lm.ngram", "TokenLM": "tokenizers_mm.lm.token_lm"}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def load_lm(source: str | Path) -> TokenNGram | TokenLM:
    """A language model of tokens.

    Args:
        source: A shipped model's name, or a folder.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the folder holds something else.
    """
    folder = shipped_folder(str(source)) or Path(source)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"no language model {str(source)!r}: expected a shipped one's name, or a folder")
    name = read_config(folder / CONFIG).get("class")
    if name not in _HOMES:
        raise ValueError(f"{folder}: class must be one of {sorted(_HOMES)}, got {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name).from_pretrained(folder)


def predictor(model: Predicts | nn.Module) -> Predicts:
    """A language model as one that predicts the ids of an item: itself, or what a network says of items on their own.

    Raises:
        TypeError: If it is no language model of tokens.
    """
    from tokenizers_mm.lm.document_model import DocumentModel
    from tokenizers_mm.lm.token_lm import TokenLM

    if isinstance(model, TokenLM):
        return DocumentModel(model)
    if not isinstance(model, Predicts):
        raise TypeError(f"model must be a language model of tokens, got {type(model).__name__}")
    return model


def shipped_folder(name: str) -> Path | None:
    """Where a model that ships is; None if there is none of that name."""
    from tokenizers_mm import registry  # above: what is found by name

    if not _NAME.fullmatch(name):
        return None
    folder = registry.data_path("checkpoints") / name
    return folder if (folder / CONFIG).is_file() and read_config(folder / CONFIG).get("class") in _HOMES else None
