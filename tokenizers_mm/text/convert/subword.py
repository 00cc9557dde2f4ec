"""Tokenizer files of ``tokenizers``, ``tiktoken`` and SentencePiece to folders that load: ``mmtok convert subword``."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers_mm.text.subword import SubwordCodec


def convert_subword(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a tokenizer file into a codec's folder.

    Args:
        source: A ``.json``, ``.tiktoken`` or ``.model`` file.
        output: Folder to write.
        config: JSON with ``pattern``, which ``.tiktoken`` files lack, or ``lossy``.
        allow_pickle: Nothing is ever unpickled.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If it is no tokenizer file, or the configuration is wrong.
    """
    try:
        options = {} if config is None else json.loads(Path(config).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"config {config} is not JSON: {error}") from None
    if not isinstance(options, dict) or set(options) - {"pattern", "lossy"}:
        raise ValueError(f"config {config} must be a mapping with pattern or lossy, got {options!r}")
    SubwordCodec.from_file(source, **options).save_pretrained(output)
    return Path(output)
