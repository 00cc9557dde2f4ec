"""Discrete tokenizers and codecs for every modality behind one ``encode`` / ``decode``.

    import tokenizers_mm as tm
    codec = tm.load("wavtokenizer-speech-16k")
    tokens = codec.encode(wave)

Names are imported on first use, so that ``import tokenizers_mm`` costs milliseconds.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers_mm.bitstream import BitstreamError
    from tokenizers_mm.codec import Codec
    from tokenizers_mm.language_models import list_lms, load_lm
    from tokenizers_mm.registry import list_codecs, load, register
    from tokenizers_mm.tokens import Tokens, TokenSpec

__version__ = "0.1.0"
__all__ = [
    "BitstreamError",
    "Codec",
    "TokenSpec",
    "Tokens",
    "__version__",
    "list_codecs",
    "list_lms",
    "load",
    "load_lm",
    "register",
]

_HOMES = {
    "BitstreamError": "bitstream",
    "Codec": "codec",
    "TokenSpec": "tokens",
    "Tokens": "tokens",
    "list_codecs": "registry",
    "list_lms": "language_models",
    "load": "registry",
    "load_lm": "language_models",
    "register": "registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
