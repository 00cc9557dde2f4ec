"""Files of any modality <-> token files, in constant memory where there is a time axis: ``mmtok encode``.

Token files are ``.mmt``, or another program's where a wing knows the extension (:mod:`tokenizers_mm.containers`).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from tokenizers_mm import bitstream
from tokenizers_mm.cards import HUB
from tokenizers_mm.codec import Codec
from tokenizers_mm.labels import Labels, labels_for
from tokenizers_mm.lm.compression import LMCoder
from tokenizers_mm.reading import reading as reading_options
from tokenizers_mm.registry import containers, list_codecs, matching, wing
from tokenizers_mm.signals import batched
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.weights import WEIGHTS

SUFFIX = ".mmt"
FOLDER = "weights:"
"""Begins the name that files give to a codec folder; the start of the SHA-256 of its weights follows."""
Progress = Callable[[Iterable[Tensor], int], Iterable[Tensor]]
"""Shows how far a long signal is: takes its pieces and how many there will be about, and passes the pieces on."""


@dataclass(frozen=True)
class Transcoded:
    """One file's tokens in numbers.

    Args:
        source: The file that was read.
        target: The file that was written.
        steps: Token steps.
        nominal_bits: What the ids cost at log2 of their codebooks' sizes.
        token_bytes: Size of the ``.mmt`` file, header and checksum included.
        seconds: Length of the signals, None where there is no time.
        elapsed: Seconds of work.
        sizes: Samples along each axis of each signal, as ``"256 x 176"``; ``""`` where only the tokens' count is known.
        samples: How many that are in all.
    """

    source: Path
    target: Path
    steps: int
    nominal_bits: float
    token_bytes: int
    seconds: float | None
    elapsed: float
    sizes: str = ""
    samples: int = 0


def plan(
    inputs: Sequence[Path], extensions: Iterable[str], suffix: str, output: Path | None = None
) -> list[tuple[Path, Path]]:
    """Which file to read and which to write for each.

    Args:
        inputs: Files, and folders that are searched for ``extensions``.
        extensions: Lower-case, with the dot.
        suffix: Extension of the files to write.
        output: Folder to write to (a searched folder's structure is kept), or one file if there is one input; by
            default each target lies beside its source.

    Raises:
        FileNotFoundError: If an input does not exist, or a folder holds no such file.
        ValueError: If two sources would write one file.
    """
    found = list(find(inputs, extensions))
    if output is not None and output.suffix.lower() == suffix and not output.is_dir():
        if len(found) > 1:
            raise ValueError(f"{output} is one file, but {len(found)} are to be written: give a folder")
        return [(found[0][0], output)]
    pairs = [(p, _renamed(p if output is None else output / r, suffix)) for p, r in found]
    sources: dict[Path, Path] = {}
    for source, target in pairs:
        if sources.setdefault(target, source) != source:
            raise ValueError(
                f"{sources[target]} and {source} would both become {target}: encode them to different folders"
            )
    return pairs


def find(inputs: Sequence[Path], extensions: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    """Files, and those that folders hold; each with its place relative to the folder that was searched.

    Raises:
        FileNotFoundError: If an input does not exist, or a folder holds no file with one of the extensions.
    """
    wanted = frozenset(extensions)
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in wanted and p.is_file())
            if not inside:
                raise FileNotFoundError(f"{path} holds no file with one of the extensions {', '.join(sorted(wanted))}")
            yield from ((p, p.relative_to(path)) for p in inside)
        elif path.exists():
            yield path, Path(path.name)
        else:
            raise FileNotFoundError(f"no such file or folder: {path}")


def _renamed(path: Path, suffix: str) -> Path:
    """With another extension; that of a compressed file goes with the one before it."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).with_suffix(suffix)


def encode_file(
    codec: Codec,
    source: Path,
    target: Path,
    *,
    name: str | None = None,
    lm: Path | None = None,
    window: float = 10.0,
    force: bool = False,
    progress: Progress = lambda pieces, _: pieces,
    reading: Mapping[str, object] | None = None,
) -> Transcoded:
    """Encode one file to a token file.

    Args:
        codec: The codec, whose wing reads the file and fits it to the codec's rate and channels.
        source: The file.
        target: Where to write; the extension says whose format.
        name: What the file says wrote it (see :func:`writer_name`).
        lm: The language model that the format's entropy coder is to use: its folder or, in our files, a shipped one's name.
        window: Seconds held in memory at a time.
        force: Overwrite.
        progress: Follows the pieces of a long signal.
        reading: Options of the wing's file reader, by name.

    Raises:
        FileExistsError: If ``target`` exists and ``force`` is False.
        ValueError: If the file is not what the codec's wing reads.
    """
    check_free(target, force)
    files, start = wing(codec.spec.modality, "files"), time.perf_counter()
    options = reading_options(codec.spec.modality, {**codec.reading, **(reading or {})})
    labels = Labels()
    if codec.spec.frame_rate is None:
        if hasattr(files, "read_labelled"):
            signal, labels = files.read_labelled(source, codec.spec, **options)
        else:
            signal = files.read(source, codec.spec, **options)
        tokens = codec.encode(*batched([signal]))
    else:
        if hasattr(files, "labels"):
            labels = files.labels(source, codec.spec, **options)
        pieces = files.blocks(source, codec.spec, window, **options)
        total = math.ceil(files.info(source).seconds / window)
        tokens = codec.encode_long(progress(pieces, total), window_seconds=window)
    tokens = labels.put(tokens)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tokens(tokens, target, codec, name=name, lm=lm)
    return _facts(tokens, source, target, target.stat().st_size, start)


def decode_file(
    codec: Codec,
    tokens: Tokens,
    source: Path,
    target: Path,
    *,
    window: float = 10.0,
    force: bool = False,
    progress: Progress = lambda pieces, _: pieces,
) -> Transcoded:
    """Decode the tokens of one file to a signal file per item.

    Args:
        codec: The codec that made the tokens.
        tokens: What the file holds.
        source: The file.
        target: Where to write; the extension gives the format. Several items become ``name-000``, ``name-001``, ...
        window: Seconds decoded at a time.
        force: Overwrite.
        progress: Follows the pieces of a long signal.

    Raises:
        FileExistsError: If a file to write exists and ``force`` is False.
        ValueError: If the tokens are another codec's, or the format is unknown.
    """
    files, start = wing(codec.spec.modality, "files"), time.perf_counter()
    many = len(tokens) > 1
    targets = [target.with_stem(f"{target.stem}-{i:03d}") if many else target for i in range(len(tokens))]
    for path in targets:
        check_free(path, force)
    for item, path in zip(tokens, targets, strict=True):
        labels = labels_for(files, item)
        if codec.spec.frame_rate is None:
            files.write(path, codec.decode(item)[0], codec.spec, **labels)
        else:
            pieces = progress(
                codec.decode_long(item, window_seconds=window),
                math.ceil(int(item.lengths[0]) / codec.spec.frame_rate / window),
            )
            files.write(path, (piece[0] for piece in pieces), codec.spec, **labels)
    return _facts(tokens, source, target, source.stat().st_size, start)


def token_suffixes() -> tuple[str, ...]:
    """Extensions of token files: ours first, then those of other programs."""
    return (SUFFIX, *sorted(containers()))


def read_tokens(path: Path, *, lm: Path | None = None) -> tuple[Tokens, str | None]:
    """Tokens of a file, and what it says wrote them.

    Args:
        path: The file; its extension says whose format it is, by default ours.
        lm: The language model that its entropy coder used: its folder or a shipped one's name, which our files find themselves.

    Raises:
        BitstreamError: If it is no intact file of that format, or of ours one that needs a language model that is not given.
        ValueError: If another's needs a language model and none is given.
    """
    container = containers().get(path.suffix.lower())
    if container is not None:
        return container.read(path, lm=lm), container.codec_name(path)
    return bitstream.load(path, coder=_coder(lm)), bitstream.codec_name(path)


def write_tokens(tokens: Tokens, path: Path, codec: Codec, *, name: str | None = None, lm: Path | None = None) -> None:
    """Write what ``codec`` made to a file of the format that its extension names, by default ours.

    Raises:
        ValueError: If the format is not for that codec, or the language model is not for these tokens.
    """
    container = containers().get(path.suffix.lower())
    if container is not None:
        container.write(tokens, path, codec, lm=lm)
        return
    bitstream.save(tokens, path, codec=name, coder=_coder(lm))


@lru_cache(maxsize=1)
def _coder(lm: Path | None) -> LMCoder | None:
    return None if lm is None else LMCoder.load(lm)


def writer_name(source: str | Path) -> str:
    """What files say of the codec that :func:`tokenizers_mm.load` makes of ``source``.

    Returns:
        A card's name or ``hf:owner/name`` as they are; for a folder :data:`FOLDER` and 16 hex digits of its weights: paths mean
        nothing elsewhere.

    Raises:
        FileNotFoundError: If the folder has no weights.
    """
    name = str(source)
    if name.startswith(HUB) or any(card.name == name for card in list_codecs()):
        return name
    with open(Path(source) / WEIGHTS, "rb") as file:
        return FOLDER + hashlib.file_digest(file, "sha256").hexdigest()[:16]


def codec_name_for(spec: TokenSpec, writer: str | None = None) -> str:
    """Name of the card that decodes tokens.

    Args:
        spec: Theirs.
        writer: What their file says wrote them; nothing is downloaded because of it.

    Returns:
        The card that ``writer`` names, or whose weights it names; without ``writer`` the one card with weights that takes
        the spec.

    Raises:
        ValueError: If none or several do; the message lists them.
    """
    cards = matching(spec)
    if writer is not None:
        for card in cards:
            folder = card.checkpoint_folder if writer.startswith(FOLDER) else None
            if writer == card.name or (folder and (folder / WEIGHTS).is_file() and writer_name(folder) == writer):
                return card.name
        what = (
            "a codec folder with these weights"
            if writer.startswith(FOLDER)
            else "no installed card for these tokens' spec"
        )
        raise ValueError(f"the file was written by {writer!r}, {what}: name the codec or its folder")
    usable = [card.name for card in cards if card.checkpoint]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise ValueError(f"several codecs have these tokens' spec {spec.fingerprint}: name one of {', '.join(usable)}")
    without = f" (without weights: {', '.join(card.name for card in cards)})" if cards else ""
    raise ValueError(
        f"no codec with weights has these tokens' spec {spec.fingerprint}{without}: name the codec or its folder"
    )


def check_free(target: Path, force: bool) -> None:
    """Refuse to overwrite a file."""
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists: use --force to overwrite it, or --output to write elsewhere")


def _facts(tokens: Tokens, source: Path, target: Path, token_bytes: int, start: float) -> Transcoded:
    spec, seconds = tokens.spec, None
    known = tokens.side.get("size", tokens.shapes[:0])
    if spec.sample_rate is not None and spec.hop is not None:
        size = tokens.side.get("size", tokens.shapes * spec.hop[-1])
        seconds = float(size[:, -1].sum()) / spec.sample_rate
    return Transcoded(
        source=source,
        target=target,
        steps=int(tokens.lengths.sum()),
        nominal_bits=float(tokens.bits.sum()),
        token_bytes=token_bytes,
        seconds=seconds,
        elapsed=time.perf_counter() - start,
        sizes=", ".join(" x ".join(map(str, size)) for size in known.tolist()),
        samples=int(known.prod(dim=-1).sum()),
    )
