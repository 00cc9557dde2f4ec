"""Vocabularies that grow: byte-pair encoding goes on from a tokenizer's own tokens, all of which stay.

Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025, grow one to a million
entries so. Here words are spelled in the old tokens, a character for each, which the trainer of ``tokenizers`` goes on merging.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers_mm.checks import at_least
from tokenizers_mm.text.dynamic import pieces_of
from tokenizers_mm.text.subword import SubwordCodec

_FIRST = 0x10000  # characters from here on are neither white space nor surrogates
_MARGIN = 1.02  # of merges beyond those wanted: different tokens may spell the same bytes


@dataclass(frozen=True)
class Grown:
    """What a vocabulary grew by.

    Args:
        tokens: In the order of their merges.
        words: Tokens, old ones among them, that are whole words (what the tokenizer cuts text into) somewhere in the texts.
    """

    tokens: list[bytes]
    words: frozenset[bytes]


def grow(codec: SubwordCodec, texts: Iterable[str], size: int, *, max_bytes: int | None = None) -> Grown:
    """Tokens that go on from a codec's.

    Args:
        codec: Byte-level; its tokens stay and are not among the new ones.
        texts: To count pairs in.
        size: New tokens.
        max_bytes: Of a new token; None for no limit.

    Raises:
        ValueError: If the codec is not byte-level or changes texts, or the texts give fewer tokens.
    """
    at_least(1, size=size)
    at_least(2, max_bytes=max_bytes)
    pieces = pieces_of(codec)
    words = Counter(piece for text in texts for piece in pieces.split(text))
    old, wanted = set(codec.vocabulary.tokens), size
    while True:
        merged = _merged(codec, words, wanted)
        fresh = {token: None for token in merged if token not in old and (max_bytes is None or len(token) <= max_bytes)}
        if len(fresh) >= size or len(merged) < wanted:
            break
        wanted = int(wanted * _MARGIN) + size - len(fresh)
    if len(fresh) < size:
        raise ValueError(f"these texts give {len(fresh)} new tokens, not {size}: take more text or a smaller size")
    tokens = list(fresh)[:size]
    return Grown(tokens, frozenset(old | set(tokens)) & {word.encode("utf-8") for word in words})


def _merged(codec: SubwordCodec, words: Counter[str], count: int) -> list[bytes]:
    """Bytes of the first ``count`` merges of words in a codec's tokens; fewer if there are no more."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokens = codec.vocabulary.tokens
    alphabet = [chr(_FIRST + i) for i in range(len(tokens))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(tokens) + count, initial_alphabet=alphabet, min_frequency=1, show_progress=False
    )
    tokenizer.train_from_iterator(_spelled(codec, words), trainer)
    ids = sorted((i, name) for name, i in tokenizer.get_vocab().items() if len(name) > 1)
    return [b"".join([tokens[ord(c) - _FIRST] for c in name]) for _, name in ids]


def _spelled(codec: SubwordCodec, words: Counter[str]) -> Iterator[str]:
    """Each word as often as it occurs, a character for each token of the codec."""
    for ids, times in zip(codec.vocabulary.tokenize(list(words)), words.values(), strict=True):
        if len(ids) > 1:
            spelled = "".join([chr(_FIRST + i) for i in ids]) + " "
            for _ in range(-(-times // 4096)):
                yield spelled * min(times, 4096)
                times -= 4096
