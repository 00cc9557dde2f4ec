"""A vocabulary far larger than a model's: its tokens, what embeds each of them and what each is scored against, in one folder.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025: embeddings of all
entries are predicted once, in chunks, and texts are encoded by longest prefixes. The model's own tokens keep their embeddings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.text.dynamic import LongestPrefix
from tokenizers_mm.text.dynamic_inputs import base_of, embedding_rows
from tokenizers_mm.text.embedders import MeanOfParts, TokenEmbedder
from tokenizers_mm.text.segmenters.base import whole_characters
from tokenizers_mm.text.subword import SubwordCodec
from tokenizers_mm.weights import CONFIG, WEIGHTS, read_config, read_weights, write_folder

CHUNK = 5000  # tokens that are embedded at a time
_KIND = "LargeVocabulary"
_TENSORS = ("bytes", "lengths", "whole", "inputs", "outputs")


@dataclass(frozen=True, eq=False)
class LargeVocabulary:
    """Tokens with their embeddings.

    Ids are those of the codec, of the model's further special tokens, and of the new tokens, in this order.

    Args:
        codec: Byte-level; its tokens come first.
        added: New tokens.
        whole: Which ids are whole words, bool ``[V]``.
        inputs: Input embeddings of all ids ``[V, D]``.
        outputs: What all ids are scored against ``[V, D]``; the same tensor where the model ties them.
        start: Ids that texts begin with.
        ends: Ids that texts end at.

    Raises:
        ValueError: If numbers do not fit.
    """

    codec: SubwordCodec
    added: Sequence[bytes]
    whole: Tensor
    inputs: Tensor
    outputs: Tensor
    start: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        own = len(self.codec.vocabulary.tokens)
        if self.inputs.shape != self.outputs.shape or self.first < own:
            raise ValueError(
                f"inputs and outputs must have a row for each of {own} tokens and {len(self.added)} "
                f"new ones, got {list(self.inputs.shape)} and {list(self.outputs.shape)}"
            )
        if self.whole.shape != (len(self),):
            raise ValueError(f"whole must be of each of {len(self)} ids, got {list(self.whole.shape)}")
        if outside := [i for i in (*self.start, *self.ends) if not 0 <= i < len(self)]:
            raise ValueError(f"start and ends must be below {len(self)}, got {outside[0]}")

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: Any,
        added: Sequence[bytes],
        embedder: TokenEmbedder | None = None,
        *,
        tokenizer: Any = None,
        words: Collection[bytes] = (),
        chunk: int = CHUNK,
    ) -> LargeVocabulary:
        """For a model, whose new tokens an embedder predicts.

        Args:
            model: A :class:`SubwordLM` or a decoder of ``transformers``.
            added: New tokens, none of the model's among them.
            embedder: By default the mean of the parts.
            tokenizer: Of a model of ``transformers``: its fast tokenizer, byte-level.
            words: Tokens that are whole words, as far as is known.
            chunk: Tokens that are embedded at a time.

        Raises:
            ValueError: If the tokenizer is not byte-level, or a token is empty or there twice.
        """
        base, rows = base_of(model, tokenizer), embedding_rows(model)
        if len(set(added)) < len(added) or not set(added).isdisjoint(base.tokens) or not all(added):
            raise ValueError("added must hold different tokens of at least one byte that the model lacks")
        inputs, outputs = _tables(rows, added, embedder or MeanOfParts(base.parts, *rows), chunk)
        own = [*base.tokens, *[b""] * (len(rows[0]) - len(base.tokens))]
        whole = torch.tensor([token in words for token in (*own, *added)])
        if tokenizer is None:
            return cls(model.codec[0], tuple(added), whole, inputs, outputs, (model.start,), (model.end,))
        start, ends = (() if i is None else (i,) for i in (tokenizer.bos_token_id, tokenizer.eos_token_id))
        return cls(_codec_of(tokenizer), tuple(added), whole, inputs, outputs, start, ends)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def first(self) -> int:
        """The id of the first new token."""
        return len(self.inputs) - len(self.added)

    @cached_property
    def tokens(self) -> tuple[bytes, ...]:
        """Bytes of each id; none for special ones."""
        own = self._prefix.tokens[: len(self.codec.vocabulary.tokens)]
        return (*own, *[b""] * (self.first - len(own)), *self.added)

    @cached_property
    def _prefix(self) -> LongestPrefix:
        return LongestPrefix(self.codec, self.added)

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of a text, always the longest token that fits; bytes may end inside a character, whose bytes have ids of their own.

        Raises:
            ValueError: If bytes are not UTF-8 up to their last character.
        """
        data = text.encode("utf-8") if isinstance(text, str) else text
        cut = whole_characters(data)
        try:
            whole = data[:cut].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"text must be UTF-8 but for its last character, got {data[:40]!r}: {error}") from None
        further = self.first - len(self.codec.vocabulary.tokens)
        ids = [i if i < self.first - further else i + further for i in self._prefix.encode(whole)]
        return ids + [self.tokens.index(bytes([byte])) for byte in data[cut:]]

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """What ids stand for; nothing for special ones."""
        return b"".join([self.tokens[i] for i in ids])

    def save(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and the codec's own folder ``vocabulary/``."""
        folder = Path(folder)
        self.codec.save_pretrained(folder / "vocabulary")
        config = {"class": _KIND, "start": [*self.start], "ends": [*self.ends]}
        tensors = {
            "bytes": torch.frombuffer(bytearray(b"".join(self.added)), dtype=torch.uint8),
            "lengths": torch.tensor([len(token) for token in self.added], dtype=torch.int32),
            "whole": self.whole,
            "inputs": self.inputs.detach().cpu().contiguous(),
        }
        if self.outputs is not self.inputs:
            tensors["outputs"] = self.outputs.detach().cpu().contiguous()
        write_folder(folder, config, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> LargeVocabulary:
        """What :meth:`save` wrote.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the folder holds something else.
        """
        folder = Path(folder)
        config = read_config(folder / CONFIG)
        if config.get("class") != _KIND:
            raise ValueError(f"{folder} must hold a {_KIND}, got class {config.get('class')!r}")
        tensors = read_weights(folder / WEIGHTS)
        if unknown := set(tensors) ^ (set(_TENSORS) - ({"outputs"} - set(tensors))):
            raise ValueError(
                f"{folder / WEIGHTS} must hold {', '.join(_TENSORS)}, these are missing or unknown: {sorted(unknown)}"
            )
        sizes, data = tensors["lengths"].long(), tensors["bytes"].numpy().tobytes()
        if bool((sizes < 1).any()) or int(sizes.sum()) != len(data):
            raise ValueError(
                f"{folder / WEIGHTS}: lengths must be positive and sum to {len(data)}, got {int(sizes.sum())}"
            )
        ends = sizes.cumsum(0).tolist()
        added = tuple(data[a:b] for a, b in zip([0, *ends], ends, strict=False))
        inputs = tensors["inputs"]
        return cls(
            SubwordCodec.from_pretrained(folder / "vocabulary"), added, tensors["whole"], inputs,
            tensors.get("outputs", inputs), tuple(config["start"]), tuple(config["ends"]),
        )  # fmt: skip


def _tables(
    own: tuple[Tensor, Tensor | None], added: Sequence[bytes], embedder: TokenEmbedder, chunk: int
) -> tuple[Tensor, Tensor]:
    """Input and output embeddings of a model's own tokens and of new ones after them; once where they are the same."""
    kept = [rows for rows in own if rows is not None]
    tables = [rows.new_empty(len(rows) + len(added), rows.shape[1]) for rows in kept]
    for table, rows in zip(tables, kept, strict=True):
        table[: len(rows)] = rows
    for at in range(0, len(added), chunk):
        made = embedder(added[at : at + chunk])
        first = len(kept[0]) + at
        for table, rows in zip(tables, made, strict=False):  # the second is the first again where they are the same
            table[first : first + len(rows)] = rows
    return tables[0], tables[-1]


def _codec_of(tokenizer: Any) -> SubwordCodec:
    """The codec of a fast tokenizer."""
    return SubwordCodec._of(tokenizer.backend_tokenizer.to_str().encode(), "tokenizers", None, lossy=False)
