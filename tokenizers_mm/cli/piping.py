"""Standard input and output in the place of files: ``-``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tokenizers_mm.cli.common import out

PIPE = Path("-")


@dataclass(frozen=True)
class Files:
    """Where a command reads and writes, and where its tables go: nowhere if standard output holds what it writes."""

    inputs: list[Path]
    output: Path | None
    console: Console


@contextmanager
def piped(inputs: list[Path], output: Path | None, suffix: str) -> Iterator[Files]:
    """Inputs and output with files for ``-``; what comes from standard input is read to its end first.

    Args:
        inputs: Files; ``-`` alone for standard input.
        output: File or folder; ``-`` for standard output, which is also where input from ``-`` goes by default.
        suffix: Extension of what standard input holds.

    Raises:
        ValueError: If ``-`` is one of several inputs, or standard input or output is a terminal.
    """
    if PIPE not in inputs and output != PIPE:
        yield Files(inputs, output, out)
        return
    if len(inputs) > 1:
        raise ValueError(f"- takes the place of one file, got {len(inputs)} inputs")
    to_stdout = output in (None, PIPE)
    for used, file, name in ((inputs[0] == PIPE, sys.stdin, "stdin"), (to_stdout, sys.stdout, "stdout")):
        if used and file.isatty():
            raise ValueError(f"{name} must be a file or a pipe, got a terminal: name a file instead of -")
    with tempfile.TemporaryDirectory(prefix="tokenizers_mm-") as name:
        folder, source = Path(name), inputs[0]
        if source == PIPE:
            source = folder / f"stdin{suffix}"
            with source.open("wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
        if not to_stdout:
            yield Files([source], output, out)
            return
        (folder / "out").mkdir()
        yield Files([source], folder / "out", Console(quiet=True))
        found = list((folder / "out").iterdir())
        if len(found) > 1:
            raise ValueError(
                f"there are {len(found)} signals, too many for standard output: give a folder with --output"
            )
        for file in found:
            _to_stdout(file)


def _to_stdout(path: Path) -> None:
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # whoever listened has gone, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter flushes at exit
