"""The letters of texts as ids, for language models to which letters mean nothing: the data of deciphering."""

from __future__ import annotations

from tokenizers_mm.lm.sources import Stream
from tokenizers_mm.lm.symbols import ALPHABET, plain_ids
from tokenizers_mm.text.corpus import TextSource


class Letters(Stream):
    """Documents letter by letter (see :func:`tokenizers_mm.lm.symbols.plain_ids`), in lower case.

    Args:
        path: A text file, a folder of them, or several.
        split: As of :class:`TextSource`.
        names: As of :class:`TextSource`.
        alphabet: Letters, a space among them.

    Raises:
        FileNotFoundError: If there are no documents.
    """

    def __init__(
        self,
        path: str | list[str],
        split: str | None = None,
        names: list[str] | None = None,
        alphabet: str = ALPHABET,
    ) -> None:
        found = TextSource(path, split, names).documents()
        super().__init__([plain_ids(document.decode("utf-8"), alphabet) for document in found])
