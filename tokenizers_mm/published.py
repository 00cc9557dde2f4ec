"""Checkpoints of other implementations: read without unpickling, renamed to our keys, strict both ways.

A wing's ``convert`` room holds ``CONVERTERS``: family name -> a function that turns a published file into a folder that ``load``
reads. What those functions share is here.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor


class Converter(Protocol):
    """Turns a published checkpoint into a folder with ``config.json`` and ``model.safetensors``."""

    def __call__(
        self, source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
    ) -> Path: ...


def read_checkpoint(
    source: str | Path, *, allow_pickle: bool = False, keys: Sequence[str] = ("state_dict",)
) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, of a PyTorch checkpoint or of a TorchScript program.

    Args:
        source: The file.
        allow_pickle: Load a checkpoint that holds more than tensors and plain values, as TorchScript programs always do. This can
            run any code that the file carries: only for files whose author you trust.
        keys: Where in the checkpoint's mapping the tensors may lie; the first that is there counts, else the mapping itself.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely, or holds no mapping of tensors.
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"source must be a checkpoint file, got {source}")
    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        if _is_torchscript(source):
            return _program_tensors(source, allow_pickle)
        content = torch.load(source, map_location="cpu", weights_only=not allow_pickle)
    except _ConsentError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a damaged file can fail in any way
        if names := _pickled_objects(source):
            raise ValueError(
                f"{source} holds pickled objects besides tensors ({', '.join(names)}), and loading those can run any "
                "code; if you trust its author, consent with allow_pickle=True (--allow-pickle)"
                + (f". With that consent it failed: {first_line(error)}" if allow_pickle else "")
            ) from None
        raise ValueError(f"{source} is not a readable checkpoint: {first_line(error)}") from None
    tensors = content
    if isinstance(content, dict):
        tensors = next((content[key] for key in keys if key in content), content)
    if isinstance(tensors, dict) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in tensors.items()):
        return tensors
    raise ValueError(f"{source} must hold a mapping of tensors, or one under {' or '.join(map(repr, keys))}")


def fit(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Tensors that carry our keys already, in the types of ``own``, a state dict of ours; every key must be there and no other.

    Args:
        tensors: Published weights under our keys.
        own: A state dict of the codec that they are for (the meta device will do).
        family: What they should be, for the message.

    Raises:
        ValueError: Naming every key that is missing, unknown or of the wrong shape.
    """
    wrong = [
        f"{key}: expected {list(own[key].shape)}, got {list(tensor.shape)}"
        for key, tensor in tensors.items()
        if key in own and tensor.shape != own[key].shape
    ]
    faults = {
        "missing keys": sorted(own.keys() - tensors.keys()),
        "unknown keys": sorted(tensors.keys() - own.keys()),
        "wrong shapes": wrong,
    }
    refuse(faults, family)
    return {key: tensors[key].detach().to(own[key].dtype).contiguous() for key in own}


def refuse(faults: Mapping[str, Sequence[str]], family: str) -> None:
    """Raise ``ValueError`` if any kind of fault has entries; at most 20 of each are listed."""
    if not any(faults.values()):
        return
    listed = "; ".join(
        f"{len(found)} {name}: {', '.join(found[:20])}{', ...' if len(found) > 20 else ''}"
        for name, found in faults.items()
        if found
    )
    raise ValueError(f"the checkpoint does not fit {family}: {listed}")


def first_line(error: Exception) -> str:
    """The start of an error's message, or its class."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


class _ConsentError(Exception):
    """A file that can run code may only be read by somebody who says so."""


def _is_torchscript(source: Path) -> bool:
    """Whether a file is a zip with compiled code beside its tensors."""
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())


def _program_tensors(source: Path, allow_pickle: bool) -> dict[str, Tensor]:
    if not allow_pickle:
        raise _ConsentError(
            f"{source} is a TorchScript program, and loading one can run code that it carries; if you trust its author, "
            "consent with allow_pickle=True (--allow-pickle)"
        )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of TorchScript itself; the published files are what they are
        return dict(torch.jit.load(source, map_location="cpu").state_dict())


def _pickled_objects(source: Path) -> list[str]:
    """Names of what ``weights_only`` refuses in a checkpoint, without loading it; empty if it cannot be told."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
    except Exception:  # an older or damaged file
        return []
