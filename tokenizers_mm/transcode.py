"""Files of any modality <-> ``.mmt`` token files, in constant memory where there is a time axis: ``mmtok encode``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tokenizers_mm.codec import Codec
from tokenizers_mm.registry import matching, wing
from tokenizers_mm.tokens import Tokens, TokenSpec

SUFFIX = ".mmt"
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
    """

    source: Path
    target: Path
    steps: int
    nominal_bits: float
    token_bytes: int
    seconds: float | None
    elapsed: float


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
    wanted = frozenset(extensions)
    found: list[tuple[Path, Path]] = []  # source, and its place relative to the output folder
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in wanted and p.is_file())
            if not inside:
                raise FileNotFoundError(f"{path} holds no file with one of the extensions {', '.join(sorted(wanted))}")
            found += [(p, p.relative_to(path)) for p in inside]
        elif path.exists():
            found.append((path, Path(path.name)))
        else:
            raise FileNotFoundError(f"no such file or folder: {path}")
    if output is not None and output.suffix.lower() == suffix and not output.is_dir():
        if len(found) > 1:
            raise ValueError(f"{output} is one file, but {len(found)} are to be written: give a folder")
        return [(found[0][0], output)]
    pairs = [(p, p.with_suffix(suffix) if output is None else (output / r).with_suffix(suffix)) for p, r in found]
    sources: dict[Path, Path] = {}
    for source, target in pairs:
        if sources.setdefault(target, source) != source:
            raise ValueError(
                f"{sources[target]} and {source} would both become {target}: encode them to different folders"
            )
    return pairs


def encode_file(
    codec: Codec,
    source: Path,
    target: Path,
    *,
    window: float = 10.0,
    force: bool = False,
    progress: Progress = lambda pieces, _: pieces,
) -> Transcoded:
    """Encode one file to a ``.mmt`` file.

    Args:
        codec: The codec, whose wing reads the file and fits it to the codec's rate and channels.
        source: The file.
        target: Where to write.
        window: Seconds held in memory at a time.
        force: Overwrite.
        progress: Follows the pieces of a long signal.

    Raises:
        FileExistsError: If ``target`` exists and ``force`` is False.
        ValueError: If the file is not what the codec's wing reads.
    """
    check_free(target, force)
    files, start = wing(codec.spec.modality, "files"), time.perf_counter()
    if codec.spec.frame_rate is None:
        tokens = codec.encode(files.read(source, codec.spec)[None])
    else:
        pieces = files.blocks(source, codec.spec, window)
        total = math.ceil(files.info(source).seconds / window)
        tokens = codec.encode_long(progress(pieces, total), window_seconds=window)
    target.parent.mkdir(parents=True, exist_ok=True)
    tokens.save(target)
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
    """Decode the tokens of one ``.mmt`` file to a signal file per item.

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
        if codec.spec.frame_rate is None:
            files.write(path, codec.decode(item)[0], codec.spec)
        else:
            pieces = progress(
                codec.decode_long(item, window_seconds=window),
                math.ceil(int(item.lengths[0]) / codec.spec.frame_rate / window),
            )
            files.write(path, (piece[0] for piece in pieces), codec.spec)
    return _facts(tokens, source, target, source.stat().st_size, start)


def codec_name_for(spec: TokenSpec) -> str:
    """Name of the one codec with weights whose tokens have that spec.

    Raises:
        ValueError: If none or several do; the message lists them.
    """
    cards = matching(spec)
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
    )
