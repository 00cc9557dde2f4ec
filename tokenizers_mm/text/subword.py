"""Subword codecs: any tokenizer file of ``tokenizers``, ``tiktoken`` or SentencePiece as a codec of text, or one of our own.

Byte-pair encoding: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016; Unigram:
Kudo, "Subword Regularization", ACL 2018. The libraries do both; ours is that tokens are byte strings, that what a tokenizer
changes is refused instead of lost, and the cache of words, which makes encoding several times faster than the library alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tokenizers_mm.text.codec import TextCodec
from tokenizers_mm.text.vocabulary import Vocabulary, read_vocabulary, train_vocabulary
from tokenizers_mm.tokens import TokenSpec

Format = Literal["tokenizers", "tiktoken", "sentencepiece"]
Algorithm = Literal["bpe", "unigram"]
_KEY = "file"  # the tokenizer's file in the weights


class SubwordCodec(TextCodec):
    """A vocabulary of byte strings and the tokenizer that chooses among them.

    Without weights it has no tokenizer: :meth:`learn` makes one, :meth:`from_file` takes one that exists.

    Args:
        vocabulary_size: Ids, special tokens' included; text never becomes a special token.
        format: Whose file the tokenizer is.
        pattern: For ``tiktoken``, whose files lack it: the regular expression that cuts text into what is merged.
        lossy: Whether to take texts that the tokenizer changes (normalises, strips, has no token for); otherwise they are
            refused.

    Shape:
        ``x`` list of str; tokens ``[B, T, 1]``.
    """

    def __init__(
        self,
        vocabulary_size: int = 8192,
        format: Format = "tokenizers",
        pattern: str | None = None,
        lossy: bool = False,
    ) -> None:
        super().__init__()
        self.format, self.pattern, self.lossy = format, pattern, lossy
        self.register_buffer(_KEY, torch.zeros(0, dtype=torch.uint8))
        self._vocabulary: Vocabulary | None = None
        self.spec = TokenSpec(modality="text", codebook_sizes=(vocabulary_size,), axes=("token",))

    file: Tensor

    @classmethod
    def from_file(cls, path: str | Path, *, pattern: str | None = None, lossy: bool = False) -> Self:
        """The codec of a tokenizer file: ``.json`` of ``tokenizers``, ``.tiktoken``, or SentencePiece's ``.model``.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is none of these.
        """
        formats: dict[str, Format] = {".json": "tokenizers", ".tiktoken": "tiktoken", ".model": "sentencepiece"}
        path = Path(path)
        if path.suffix not in formats:
            raise ValueError(f"path must end in one of {', '.join(formats)}, got {str(path)!r}")
        return cls._of(path.read_bytes(), formats[path.suffix], pattern, lossy)

    @classmethod
    def learn(cls, texts: Iterable[str], vocabulary_size: int = 8192, *, algorithm: Algorithm = "bpe") -> Self:
        """A tokenizer of byte-level BPE or Unigram learned from texts; any text can be encoded with it.

        Raises:
            ValueError: If the vocabulary does not even hold the bytes.
        """
        return cls._of(train_vocabulary(texts, vocabulary_size, algorithm), "tokenizers", None, False)

    @classmethod
    def _of(cls, data: bytes, format: Format, pattern: str | None, lossy: bool) -> Self:
        vocabulary = read_vocabulary(data, format, pattern)
        codec = cls(len(vocabulary.tokens), format, pattern, lossy)
        codec.file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        codec._vocabulary = vocabulary
        return codec.eval()

    @property
    def vocabulary(self) -> Vocabulary:
        """Tokens as bytes, and the tokenizer.

        Raises:
            ValueError: If there is none yet.
        """
        if self._vocabulary is None:
            if not len(self.file):
                raise ValueError("this SubwordCodec has no tokenizer: load one, or use SubwordCodec.learn or from_file")
            self._vocabulary = read_vocabulary(self.file.cpu().numpy().tobytes(), self.format, self.pattern)
        return self._vocabulary

    def load_weights(self, path: str | Path, *, strict: bool = True) -> None:
        """Load a safetensors file that holds the tokenizer's file as bytes.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds something else, or a vocabulary of another size.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no weights at {path}")
        tensors = load_file(path)
        if set(tensors) != {_KEY} or tensors[_KEY].dtype != torch.uint8 or tensors[_KEY].ndim != 1:
            raise ValueError(f"{path} must hold one uint8 tensor {_KEY!r}, got {sorted(tensors)}")
        vocabulary = read_vocabulary(tensors[_KEY].numpy().tobytes(), self.format, self.pattern)
        if len(vocabulary.tokens) != self.spec.codebook_sizes[0]:
            raise ValueError(f"{path} has {len(vocabulary.tokens)} tokens, expected {self.spec.codebook_sizes[0]}")
        self.file, self._vocabulary = tensors[_KEY], vocabulary

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Tokenizer files differ in size, which a plain buffer refuses."""
        if (found := state_dict.get(prefix + _KEY)) is not None:
            self.file, self._vocabulary = found.new_empty(found.shape), None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _ids(self, text: str, data: bytes) -> np.ndarray:
        vocabulary = self.vocabulary
        ids = vocabulary.encode(text)
        if not (vocabulary.exact or self.lossy) and vocabulary.decode(ids) != data:
            raise ValueError(
                f"this tokenizer changes the text {_shorten(text)}: it normalises, strips or has no token for a part; "
                "lossy=True takes it as it is"
            )
        return ids

    def _bytes(self, ids: np.ndarray) -> bytes:
        return self.vocabulary.decode(ids)

    def _settled(self, data: bytes) -> int:
        return self.vocabulary.settled(data)


def _shorten(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}...")
