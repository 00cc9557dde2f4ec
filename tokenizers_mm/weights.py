"""A network's folder: ``config.json`` and ``model.safetensors``, read with errors that name the file. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = constants.SAFETENSORS_SINGLE_FILE
INDEX = constants.SAFETENSORS_INDEX_FILE
"""Of big models: which of several safetensors files holds which tensor."""
CONFIG = constants.CONFIG_NAME
M = TypeVar("M", bound=nn.Module)


def read_config(path: Path) -> dict[str, Any]:
    """A ``config.json``; raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"no {CONFIG} at {path}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(config).__name__}")
    return config


def write_folder(folder: str | Path, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors`` of what is no network; the folder is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, Path(folder) / WEIGHTS)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A safetensors file; raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: expected a {WEIGHTS} file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None


def read_index(path: Path) -> dict[str, str]:
    """Which file beside an index of shards holds which tensor; raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
    found = read_config(path).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(f"{path} must hold a 'weight_map' of file names")
    if outside := sorted(name for name in set(found.values()) if Path(name).name != name):
        raise ValueError(f"{path} names files outside of its folder: {outside[:5]}")
    return found


def shards(path: Path, parts: Sequence[str]) -> list[str]:
    """Names of the files that an index gives for the keys that begin with one of ``parts``; all files where none does."""
    index = read_index(path)
    return sorted({name for key, name in index.items() if key.startswith(tuple(parts))} or set(index.values()))


def read_part(path: Path, parts: Sequence[str] = ()) -> dict[str, Tensor]:
    """Tensors of a safetensors file or of the shards that an index names, the rest of a bigger model left unread.

    Args:
        path: The file or the index.
        parts: What keys may begin with; the first that some do is taken and cut off. All tensors where none fits.

    Raises:
        FileNotFoundError: If there is no such file, or a shard of it is missing.
        ValueError: If one isn't readable.
    """
    if path.name != INDEX:
        return _part(path, parts)
    tensors: dict[str, Tensor] = {}
    for name in shards(path, parts):
        tensors |= _part(path.parent / name, parts)
    return tensors


def _part(path: Path, parts: Sequence[str]) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: expected a safetensors file")
    try:
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
            part = next((part for part in parts if any(key.startswith(part) for key in keys)), "")
            return {key.removeprefix(part): file.get_tensor(key) for key in keys if key.startswith(part)}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None


def digest(name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a network's class, config and weights, whatever the device."""
    total = hashlib.sha256(json.dumps([name, config], sort_keys=True, default=str).encode())
    for key, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        total.update(f"{key} {plain.dtype} {list(plain.shape)}".encode())
        total.update(plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return total.hexdigest()


def load_into(module: nn.Module, path: str | Path, *, strict: bool = True) -> None:
    """Load a safetensors file of a module's state dict; other float types become the module's.

    Args:
        module: What the weights are for.
        path: The file.
        strict: Refuse missing and extra keys; wrong shapes are refused always.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a safetensors file or its keys and shapes are not the module's.
    """
    fill(module, read_weights(Path(path)), path, strict=strict)


def fill(module: nn.Module, tensors: dict[str, Tensor], path: str | Path, *, strict: bool = True) -> None:
    """Load tensors, read from ``path``, into a module: see :func:`load_into`.

    Raises:
        ValueError: If their keys and shapes are not the module's.
    """
    own = module.state_dict()
    tensors = {**{name: tensors[first] for name, first in tied(own).items() if first in tensors}, **tensors}
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [
        f"{key}: expected {list(own[key].shape)}, got {list(tensor.shape)}"
        for key, tensor in tensors.items()
        if key in own and tensor.shape != own[key].shape
    ]
    if wrong or (strict and (missing or extra)):
        raise ValueError(
            f"{path} does not fit {type(module).__name__}: {len(missing)} missing keys {missing[:5]}, "
            f"{len(extra)} extra keys {extra[:5]}, wrong shapes {wrong[:5]}"
        )
    module.load_state_dict(tensors, strict=strict)


def tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors of a state dict that are an earlier one under another name, and that one's name: files hold them once."""
    firsts: dict[Any, str] = {}
    found = {}
    for name, tensor in state.items():
        place = tensor.data_ptr(), tensor.shape, tensor.stride()
        if tensor.numel() and not tensor.is_meta and (first := firsts.setdefault(place, name)) != name:
            found[name] = first
    return found
