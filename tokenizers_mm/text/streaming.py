"""Sessions of text: bytes or strings in, tokens out as soon as nothing can change them; tokens in, whole characters out."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from tokenizers_mm.text.segmenters.base import whole_characters
from tokenizers_mm.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers_mm.text.codec import TextCodec
    from tokenizers_mm.text.units import WordByteCodec


class TextEncodeStream:
    """One text in pieces, cut anywhere, in the middle of a character too; tokens out.

    Joined over time, the ids of all pushes and the flush are those of one ``encode``.
    """

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec
        self._pending = b""

    def push(self, chunk: bytes | str | int) -> Tokens:
        """Tokens, a batch of one, that are final after ``chunk``: more text, more of its UTF-8, or one byte.

        Raises:
            ValueError: If the bytes are not UTF-8.
        """
        self._pending += as_bytes(chunk)
        return self._encode(self.codec._settled(self._pending))

    def flush(self) -> Tokens:
        """Tokens of what is left; the session then starts anew."""
        return self._encode(len(self._pending))

    def _encode(self, count: int) -> Tokens:
        ready, self._pending = self._pending[:count], self._pending[count:]
        return self.codec.encode([_text(ready)])


class WordEncodeStream:
    """One text in pieces, cut anywhere; its bytes out, whole words at a time, with ``side["word_lengths"]`` of these words."""

    def __init__(self, codec: WordByteCodec) -> None:
        self.codec = codec
        self._session, self._unfinished = codec.segmenter.stream(), b""

    def push(self, chunk: bytes | str | int) -> Tokens:
        """As :meth:`TextEncodeStream.push`."""
        data = as_bytes(chunk)
        self._unfinished += data
        whole = whole_characters(self._unfinished)
        _text(self._unfinished[:whole])
        self._unfinished = self._unfinished[whole:]
        return self.codec.of_words(self._session.push(data))

    def flush(self) -> Tokens:
        """Tokens of what is left; the session then starts anew."""
        unfinished, self._unfinished = self._unfinished, b""
        _text(unfinished)
        return self.codec.of_words(self._session.flush())


class TextDecodeStream:
    """Tokens of one text in, strings of whole characters out."""

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, tokens: Tokens) -> str:
        """The characters that are complete now; bytes that are not UTF-8 become U+FFFD.

        Raises:
            TypeError: If ``tokens`` is not a :class:`Tokens`.
            ValueError: If they are another codec's, or not one item's.
        """
        if not isinstance(tokens, Tokens):
            raise TypeError(f"tokens must be Tokens, got {type(tokens).__name__}: a decoding session takes no text")
        self.codec._check_spec(tokens.spec)
        if len(tokens) != 1:
            raise ValueError(f"tokens must be one text's, got a batch of {len(tokens)}")
        return self._decoder.decode(self.codec._decode(tokens)[0])

    def flush(self) -> str:
        """What an unfinished character becomes; the session then starts anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def as_bytes(chunk: bytes | str | int) -> bytes:
    """UTF-8 of a piece of text, or bytes as they are, or one byte by its value."""
    if isinstance(chunk, int):
        return bytes([chunk])
    return chunk.encode("utf-8") if isinstance(chunk, str) else chunk


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = data[error.start :][:4].hex(" ")
        raise ValueError(f"the text is not UTF-8: {bad} at byte {error.start} of those that wait") from None
