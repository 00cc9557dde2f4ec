"""Codecs of bytes: each byte a token, alone or in words whose lengths travel along.

The byte vocabulary of ByT5 (Xue et al., "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models", TACL 2022)
without its special ids, and the words of bytes of "Hierarchical Autoregressive Transformers" (Neitemeier et al., ICLR 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.text.codec import TextCodec
from tokenizers_mm.text.segmenters import segmenter as make_segmenter
from tokenizers_mm.text.segmenters.base import whole_characters
from tokenizers_mm.text.streaming import WordEncodeStream
from tokenizers_mm.tokens import Tokens, TokenSpec

SPEC = TokenSpec(modality="text", codebook_sizes=(256,), axes=("token",))


class ByteCodec(TextCodec):
    """UTF-8 bytes as tokens: 256 ids, no vocabulary, nothing unknown.

    Shape:
        ``x`` list of str; tokens ``[B, T, 1]``, T the bytes of the longest text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spec = SPEC

    def _ids(self, text: str, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.uint8)

    def _bytes(self, ids: np.ndarray) -> bytes:
        return ids.astype(np.uint8).tobytes()

    def _settled(self, data: bytes) -> int:
        return whole_characters(data)


class WordByteCodec(ByteCodec):
    """UTF-8 bytes as tokens, and the words that they form: what hierarchical models read.

    Args:
        segmenter: Name of the segmenter (see :func:`tokenizers_mm.text.segmenters.segmenter`).
        options: Its arguments.

    Shape:
        As :class:`ByteCodec`; ``side["word_lengths"]`` int64 ``[B, W]`` holds the bytes of each word, 0 after the last.
    """

    def __init__(self, segmenter: str = "uax29", options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.segmenter = make_segmenter(segmenter, **(options or {}))

    def words(self, text: str) -> list[bytes]:
        """The words of a text."""
        return self.segmenter.split(text.encode("utf-8"))

    def _side(self, data: Sequence[bytes]) -> dict[str, Tensor]:
        rows = [torch.from_numpy(self.segmenter.segment(item).lengths) for item in data]
        return {"word_lengths": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)}

    def of_words(self, words: Sequence[bytes]) -> Tokens:
        """Tokens, a batch of one, of words."""
        data = b"".join(words)
        lengths = torch.tensor([[len(word) for word in words]], dtype=torch.int64)
        ids = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).astype(np.int64))
        return Tokens(
            ids[None, :, None], self.spec, side={"size": torch.tensor([[len(data)]]), "word_lengths": lengths}
        )

    def stream(self, *, decode: bool = False) -> Any:
        """As every text codec's; encoding gives whole words (:class:`~tokenizers_mm.text.streaming.WordEncodeStream`)."""
        return super().stream(decode=True) if decode else WordEncodeStream(self)
