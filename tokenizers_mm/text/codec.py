"""TextCodec: what codecs of text share. Texts are ``list[str]``; tokens carry the number of UTF-8 bytes in ``side["size"]``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.text.streaming import TextDecodeStream, TextEncodeStream
from tokenizers_mm.tokens import Tokens

Errors = Literal["strict", "replace"]


class TextCodec(Codec):
    """Texts to tokens and back, exactly, for every string that UTF-8 can hold.

    A codec of text implements ``_ids`` and ``_bytes`` on the UTF-8 of one text, and ``_settled`` so that it streams.
    """

    size_dims = 1

    @abstractmethod
    def _ids(self, text: str, data: bytes) -> np.ndarray:
        """Ids ``[T]`` of a text, and the same as UTF-8."""

    @abstractmethod
    def _bytes(self, ids: np.ndarray) -> bytes:
        """UTF-8 of ids ``[T]``."""

    @abstractmethod
    def _settled(self, data: bytes) -> int:
        """How many bytes of the start of a text that goes on have tokens that no continuation changes and that change none
        after them."""

    def _side(self, data: Sequence[bytes]) -> dict[str, Tensor]:
        """What decoding or reading the tokens needs besides ids and size."""
        return {}

    def encode(  # type: ignore[override]  # texts are lists of strings, as the contract says
        self, x: Sequence[str], lengths: Tensor | None = None, *, sample_rate: float | None = None
    ) -> Tokens:
        """Tokens of texts.

        Args:
            x: Strings, of any length; empty ones have no tokens.
            lengths: UTF-8 bytes of each that count; by default all.
            sample_rate: Text has none.

        Raises:
            TypeError: If ``x`` is not a sequence of strings.
            ValueError: If there are no texts, or one holds a lone surrogate, which UTF-8 cannot hold.
        """
        data = [_utf8(text, i) for i, text in enumerate(self._check_texts(x))]
        texts = list(x)
        if lengths is not None:
            data = _cut(data, lengths)
            texts = [item.decode("utf-8") for item in data]
        return self._encode(texts, data)

    def _encode(self, x: Any, lengths: Any) -> Tokens:
        """Tokens of strings, and of the same as UTF-8."""
        rows = [torch.from_numpy(self._ids(*pair).astype(np.int64)) for pair in zip(x, lengths, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        shapes = torch.tensor([[len(row)] for row in rows])
        side = {"size": torch.tensor([[len(item)] for item in lengths]), **self._side(lengths)}
        return Tokens(ids[..., None], self.spec, shapes, side)

    def decode(  # type: ignore[override]
        self, tokens: Tokens, *, errors: Errors = "strict"
    ) -> list[str]:
        """Texts of a batch of tokens.

        Args:
            tokens: This codec's, or a language model's over its vocabulary.
            errors: ``"replace"`` puts U+FFFD where tokens are not UTF-8, which only tokens that no text came before can be.

        Raises:
            TypeError: If ``tokens`` is not a :class:`Tokens`.
            ValueError: If the tokens are another codec's, or are not UTF-8.
        """
        if not isinstance(tokens, Tokens):
            raise TypeError(f"tokens must be Tokens, got {type(tokens).__name__}")
        self._check_spec(tokens.spec)
        return [text_of(item, i, errors) for i, item in enumerate(self._decode(tokens))]

    def _decode(self, tokens: Tokens) -> Any:
        """UTF-8 of each item."""
        rows = tokens.ids[..., 0].cpu().numpy()
        return [self._bytes(row[:n]) for row, n in zip(rows, tokens.lengths.tolist(), strict=True)]

    def reconstruct(self, x: Any, lengths: Tensor | None = None) -> Any:
        """``decode(encode(x, lengths))``."""
        return self.decode(self.encode(x, lengths))

    def forward(self, x: Any, lengths: Tensor | None = None) -> CodecOutput:
        raise NotImplementedError(f"{type(self).__name__} has nothing to train by gradients")

    @property
    def streamable(self) -> bool:
        return True

    def stream(self, *, decode: bool = False) -> Any:
        """A session for one text: :class:`~tokenizers_mm.text.streaming.TextEncodeStream`, or of its tokens with ``decode``."""
        return TextDecodeStream(self) if decode else TextEncodeStream(self)

    def _check_texts(self, x: object) -> Sequence[str]:
        if isinstance(x, (str, bytes)) or not isinstance(x, Sequence):
            hint = "put it into a list" if isinstance(x, str) else "decode bytes first" if isinstance(x, bytes) else ""
            raise TypeError(
                f"x must be a list of str, got {type(x).__name__}{f' ({hint})' if hint else ''}: text codecs take no tensor"
            )
        for i, text in enumerate(x):
            if not isinstance(text, str):
                raise TypeError(f"x must be a list of str, item {i} is {type(text).__name__}")
        if not x:
            raise ValueError("x must hold at least one text, got none")
        return x


def text_of(data: bytes, item: int, errors: Errors = "strict") -> str:
    """The string that UTF-8 stands for; a ``ValueError`` that says where it is none."""
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"item {item} is not UTF-8 at byte {error.start} ({data[error.start : error.start + 4].hex(' ')}); "
            "errors='replace' puts U+FFFD there"
        ) from None


def _utf8(text: str, item: int) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"x must hold text that UTF-8 can hold, item {item} has the lone surrogate U+{ord(text[error.start]):04X} "
            f"at character {error.start}"
        ) from None


def _cut(data: list[bytes], lengths: Tensor) -> list[bytes]:
    """The first bytes of each text, which must end with a whole character."""
    wanted = torch.as_tensor(lengths).flatten().tolist()
    if len(wanted) != len(data) or any(not 0 <= n <= len(item) for n, item in zip(wanted, data, strict=False)):
        raise ValueError(f"lengths must be {len(data)} numbers of UTF-8 bytes within the texts, got {wanted}")
    if any(n < len(item) and item[n] & 0xC0 == 0x80 for n, item in zip(wanted, data, strict=True)):
        raise ValueError(f"lengths must end with whole characters, got {wanted}")
    return [item[:n] for n, item in zip(wanted, data, strict=True)]
