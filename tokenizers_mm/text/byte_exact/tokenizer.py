"""Canonical encodings of tokenizers as they come: our codecs, and those of ``tokenizers``, ``tiktoken`` and SentencePiece."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tokenizers_mm.text.byte_exact.canonical import Canonical, Characters, Encoded
from tokenizers_mm.text.byte_exact.pieces import AnyModel, Cut, MergeModel, PieceModel, Pieces, classes_of
from tokenizers_mm.text.vocabulary import ALPHABET, from_alphabet, from_piece

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_PROBE = " a  b\t\n Ab.cé\u3000ﬁ "
_METASPACE = "\u2581"


def canonical(tokenizer: Any) -> Canonical:
    """What a tokenizer makes of bytes.

    Args:
        tokenizer: A :class:`~tokenizers_mm.text.SubwordCodec` or its vocabulary, a ``tokenizers.Tokenizer``, a fast tokenizer of
            ``transformers``, a ``tiktoken.Encoding``, or a ``SentencePieceProcessor``. A :class:`Canonical` stays what it is.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the tokenizer changes texts (normalises, strips), so that bytes have no tokens of their own.
    """
    if isinstance(tokenizer, Canonical):
        return tokenizer
    tokenizer = getattr(tokenizer, "vocabulary", tokenizer)  # a codec's
    for inner in ("processor", "encoding", "tokenizer", "backend_tokenizer"):  # a vocabulary's, a fast tokenizer's
        tokenizer = getattr(tokenizer, inner, tokenizer)
    if hasattr(tokenizer, "EncodeAsIds"):
        return _sentencepiece(tokenizer)
    if hasattr(tokenizer, "encode_ordinary"):
        return _tiktoken(tokenizer)
    if hasattr(tokenizer, "pre_tokenizer"):
        return _tokenizers(tokenizer)
    raise TypeError(
        "tokenizer must be one of tokenizers, tiktoken, SentencePiece or a SubwordCodec, "
        f"got {type(tokenizer).__name__}; any function of bytes goes through Encoded"
    )


def byte_tokenizer(size: int = 256) -> Encoded:
    """The tokenizer of models over bytes: ids 0 to 255, then as many without bytes as there are."""
    return Encoded([bytes([b]) for b in range(256)] + [b""] * (size - 256), list)


def longest_match(tokens: Sequence[bytes]) -> Encoded:
    """The tokenizer that takes the longest token that the rest begins with (WordPiece without marks)."""
    ids = {token: i for i, token in reversed(list(enumerate(tokens))) if token}
    longest = max(map(len, ids), default=0)

    def encode(data: bytes) -> list[int]:
        found, at = [], 0
        while at < len(data):
            size = next((n for n in range(min(longest, len(data) - at), 0, -1) if data[at : at + n] in ids), 0)
            if not size:
                return []
            found.append(ids[data[at : at + size]])
            at += size
        return found

    return Encoded(tokens, encode)


def _sentencepiece(processor: Any) -> Canonical:
    count = processor.GetPieceSize()
    tokens = [
        b""
        if processor.IsControl(i) or processor.IsUnknown(i) or processor.IsUnused(i)
        else from_piece(processor.IdToPiece(i))
        for i in range(count)
    ]
    prefix = processor.EncodeAsPieces("a")[0].startswith(_METASPACE)

    alone = [processor.PieceToId(_METASPACE)]

    def encode(text: str) -> list[int]:
        if prefix and text == " ":
            return alone  # what a text that goes on begins with; of an empty one the library makes nothing
        return processor.EncodeAsIds(text[1:] if prefix else text)

    return _characters(tokens, encode, prefix)


def _characters(tokens: Sequence[bytes], encode: Callable[[str], Sequence[int]], prefix: bool) -> Canonical:
    found = Characters(tokens, encode, b" " if prefix else b"")
    probe = (" " if prefix else "") + _PROBE
    if found.encodings(probe.encode()) == []:
        raise ValueError(
            "tokenizer must keep every text as it is, this one changes some (normalises, strips spaces, or lacks characters "
            "and has no bytes for them)"
        )
    return found


def _tiktoken(encoding: Any) -> Canonical:
    import regex

    ranks, special = encoding._mergeable_ranks, set(encoding._special_tokens.values())
    tokens = [b""] * encoding.n_vocab
    for token, rank in ranks.items():
        if rank not in special:
            tokens[rank] = token
    pattern = regex.compile(encoding._pat_str)

    def cut(text: str) -> list[int]:
        return [match.start() for match in pattern.finditer(text)][1:]

    return Pieces(tokens, AnyModel(tokens, encoding._encode_single_piece), cut, classes_of(encoding._pat_str))


def _tokenizers(tokenizer: Any) -> Canonical:
    layout = json.loads(tokenizer.to_str())
    before, model = list(_steps(layout.get("pre_tokenizer"))), layout["model"]
    special = {entry["id"] for entry in layout.get("added_tokens") or ()}
    names = [tokenizer.id_to_token(i) or "" for i in range(max(tokenizer.get_vocab(True).values()) + 1)]
    levels = [step for step in before if step["type"] == "ByteLevel"]
    if not levels:
        return _strings(tokenizer, layout, names, special)
    if layout.get("normalizer") is not None or any(step.get("add_prefix_space") for step in levels):
        raise ValueError("tokenizer must keep every text as it is, this one normalises it or puts a space in front")
    marks = model.get("continuing_subword_prefix") or ""
    if model.get("end_of_word_suffix") or model.get("dropout") or (marks and model["type"] != "WordPiece"):
        raise ValueError("tokenizer must merge bytes as they are: no dropout, no marks at the ends of words")
    spelled = [name.removeprefix(marks) if marks else name for name in names]
    tokens = [b"" if i in special else from_alphabet(name) for i, name in enumerate(spelled)]

    def encode(piece: bytes) -> list[int]:
        return [token.id for token in tokenizer.model.tokenize("".join([ALPHABET[byte] for byte in piece]))]

    patterns = [_pattern(step) for step in before]
    known = None not in patterns
    classes = classes_of("|".join(p for p in patterns if p)) if known else None
    one = not any(patterns) and known
    return Pieces(tokens, _model(model, names, tokens, encode), None if one else _cut(tokenizer), classes)


def _model(model: dict[str, Any], names: list[str], tokens: list[bytes], encode: Callable) -> PieceModel:
    if model["type"] != "BPE":
        return AnyModel(tokens, encode)
    ids = {name: i for i, name in enumerate(names)}
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    try:
        merges = [(ids[a], ids[b], ids[a + b]) for a, b in pairs]
        return MergeModel(tokens, encode, merges, bool(model.get("ignore_merges")))
    except ValueError:
        return AnyModel(tokens, encode)


def _cut(tokenizer: Any) -> Cut:
    def cut(text: str) -> list[int]:
        return [start for _, (start, _) in tokenizer.pre_tokenizer.pre_tokenize_str(text)][1:]

    return cut


def _pattern(step: dict[str, Any]) -> str | None:
    """The regular expression that a step cuts by, empty where it cuts nothing; None where it is something else."""
    if step["type"] == "Sequence":
        return ""
    if step["type"] == "ByteLevel":
        return _GPT2 if step.get("use_regex", True) else ""
    if step["type"] == "Split" and step.get("behavior") == "Isolated" and "Regex" in step["pattern"]:
        return step["pattern"]["Regex"]
    return r"\p{N}" if step["type"] == "Digits" else None


def _strings(tokenizer: Any, layout: dict[str, Any], names: list[str], special: set[int]) -> Canonical:
    """A tokenizer in SentencePiece's spelling."""
    unknown = layout["model"].get("unk_token"), layout["model"].get("unk_id")
    tokens = [
        b"" if i in special or name == unknown[0] or i == unknown[1] else from_piece(name)
        for i, name in enumerate(names)
    ]
    parts = [*_steps(layout.get("normalizer")), *_steps(layout.get("pre_tokenizer"))]
    prefix = any(
        part["type"] == "Prepend" or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts
    )

    alone = [i for i in (tokenizer.token_to_id(_METASPACE),) if i is not None]

    def encode(text: str) -> list[int]:
        if prefix and text == " ":
            return alone
        return tokenizer.encode(text[1:] if prefix else text, add_special_tokens=False).ids

    return _characters(tokens, encode, prefix)


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    if isinstance(step, dict):
        yield step
        for name in ("normalizers", "pretokenizers"):
            for inner in step.get(name) or ():
                yield from _steps(inner)
