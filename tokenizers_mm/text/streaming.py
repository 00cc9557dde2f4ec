"""Sessions of text: bytes or strings in, tokens out as soon as nothing can change them; tokens in, whole characters out."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from tokenizers_mm.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers_mm.text.codec import TextCodec


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
        data = bytes([chunk]) if isinstance(chunk, int) else chunk.encode() if isinstance(chunk, str) else chunk
        self._pending += data
        ready = self.codec._settled(self._pending)
        return self._encode(ready)

    def flush(self) -> Tokens:
        """Tokens of what is left; the session then starts anew."""
        return self._encode(len(self._pending))

    def _encode(self, count: int) -> Tokens:
        ready, self._pending = self._pending[:count], self._pending[count:]
        try:
            text = ready.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"the text is not UTF-8 at byte {error.start} of those that wait ({ready[error.start :][:4].hex(' ')})"
            ) from None
        return self.codec.encode([text])


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
