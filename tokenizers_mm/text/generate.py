"""Text that a language model writes: draws that stay UTF-8, rows that end by themselves, whole characters as they come."""

from __future__ import annotations

import codecs
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tokenizers_mm.lm.backbone import draw
from tokenizers_mm.text.model import TextLM
from tokenizers_mm.text.rows import END, MARKS, WORD


def load_model(name: str | Path) -> TextLM:
    """The language model in a folder, or one that ships, in evaluation mode.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is of something else.
    """
    from tokenizers_mm.language_models import load_lm  # above the wings: what is found by name

    model = load_lm(name)
    if not isinstance(model, TextLM):
        raise ValueError(f"{name} must be a language model of text, got {type(model).__name__}")
    return model


def stream(
    model: TextLM,
    prompts: Sequence[str | bytes],
    max_bytes: int = 256,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[list[str]]:
    """What each row goes on with, a piece at a time; the pieces of a row join to valid text.

    A prompt may end inside a character: its bytes then begin the first piece. A row that ends its document gives empty pieces.

    Args:
        model: What writes.
        prompts: Beginnings; bytes may hold special tokens' marks.
        max_bytes: Bytes of each row at most; no less than 3.
        temperature: Of the softmax; 0 takes the likeliest.
        top_k: Draw only from so many of the likeliest.
        top_p: Draw only from the likeliest that together reach this probability.
        generator: Of the draws.

    Yields:
        Whole characters for each row.

    Raises:
        ValueError: If options are out of range, or a prompt is not UTF-8 up to its last character.
    """
    if max_bytes < 1 or temperature < 0 or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        raise ValueError(
            "max_bytes and top_k must be positive, temperature not negative and top_p in (0, 1], got "
            f"{max_bytes}, {top_k}, {temperature}, {top_p}"
        )
    rows = [_Row(model.prompt(prompt) if isinstance(prompt, str) else prompt, max_bytes) for prompt in prompts]
    session = model.session([row.prompt for row in rows], 2 * max_bytes + 1)  # ends of words count too
    pieces = _pieces(model)
    longest = max(map(len, pieces)) + 3
    while not all(row.done for row in rows):
        fits = torch.stack([_fits(row.pending, min(row.left, longest), pieces) for row in rows]).to(
            session.logits.device
        )
        logits = session.logits.masked_fill(~(session.allowed & fits), -torch.inf)
        ids = draw(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield [row.take(data) for row, data in zip(rows, session.push(ids), strict=True)]


def complete(model: TextLM, prompts: Sequence[str | bytes], max_bytes: int = 256, **options: object) -> list[str]:
    """What each row goes on with, as one text; arguments as for :func:`stream`."""
    out = [""] * len(prompts)
    for pieces in stream(model, prompts, max_bytes, **options):  # type: ignore[arg-type]
        out = [text + piece for text, piece in zip(out, pieces, strict=True)]
    return out


class _Row:
    """A row that is being written, and the bytes of its open character."""

    def __init__(self, prompt: bytes, left: int) -> None:
        self.prompt, self.left, self.done = prompt, max(left, 3), False  # room for the prompt's last character
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            self.decoder.decode(MARKS.sub(b"", prompt))
        except UnicodeDecodeError as error:
            raise ValueError(f"prompt must be UTF-8 but for its last character, got {prompt[:40]!r}: {error}") from None

    @property
    def pending(self) -> bytes:
        """The bytes of the character that is not complete."""
        return self.decoder.getstate()[0]

    def take(self, data: bytes) -> str:
        """The characters that these bytes complete."""
        if self.done or not data:
            return ""
        if data == bytes([END]):
            self.done = True
            return ""
        self.left -= len(data)
        text = self.decoder.decode(data)
        self.done = self.left <= 0 and not self.pending
        return text


def _pieces(model: TextLM) -> tuple[bytes, ...]:
    """What each id of a model stands for."""
    of = getattr(model, "bytes_of", None)
    size = model.head.weight.shape[0]  # type: ignore[union-attr, index]
    pieces = [bytes([i]) if of is None else of(i) for i in range(int(size))]  # type: ignore[arg-type]
    return tuple(b"" if piece == bytes([WORD]) and not model.ends_words else piece for piece in pieces)


@functools.lru_cache(maxsize=1024)
def _fits(pending: bytes, left: int, pieces: tuple[bytes, ...]) -> Tensor:
    """Which pieces go on with a text whose last character has these bytes so far, bool ``[V]``."""
    return torch.tensor([_goes_on(pending, piece, left) for piece in pieces])


def _goes_on(pending: bytes, piece: bytes, left: int) -> bool:
    """Whether a piece makes UTF-8 that can be completed within ``left`` bytes."""
    if piece in (bytes([END]), bytes([WORD])):
        return piece[0] == WORD or not pending
    if not piece or MARKS.search(piece):
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(pending + piece)
    except UnicodeDecodeError:
        return False
    begun = decoder.getstate()[0]
    if (
        begun[:1] == b"\xed" and begun[1:] > b"\x9f"
    ):  # the beginning of a surrogate, which the decoder waits for in vain
        return False
    missing = 0 if not begun else 1 + (begun[0] >= 0xE0) + (begun[0] >= 0xF0) - (len(begun) - 1)
    return len(piece) + missing <= left
