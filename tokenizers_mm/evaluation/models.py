"""Models that metrics need but that do not ship: MOS predictors, recognisers, embedders. The user brings them.

A wing's ``metrics.py`` names the roles in ``MODELS: dict[str, str]`` (role: what the model takes and returns). A model fills a
role through ``evaluate(models={role: ...})``, ``mmtok eval --model role=...``, :func:`register_model`, or a package's entry point
in the group ``tokenizers_mm.models`` whose name is the role. Without one, its metrics are null with that reason.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GROUP = "tokenizers_mm.models"
TORCHSCRIPT = (".pt", ".pth", ".ts", ".torchscript", ".jit")
Source = Callable[..., Any] | str | Path

_registered: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Model:
    """A callable that fills a role.

    Args:
        role: Which one.
        call: Takes a signal ``[N]`` and its rate in Hz; the role says what it returns.
        source: What it is: a file and the start of its SHA-256, or ``module:name``. Stored with every result.
    """

    role: str
    call: Callable[..., Any]
    source: str


def register_model(role: str, model: Callable[..., Any]) -> None:
    """Fill a role for this process.

    Raises:
        TypeError: If ``model`` is not callable.
    """
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}")
    _registered[role] = model


def find_models(
    roles: Mapping[str, str],
    given: Mapping[str, Source] | None = None,
    loaders: Mapping[str, Callable[[Path], Callable[..., Any]]] | None = None,
) -> dict[str, Model]:
    """The models there are for a wing's roles: given ones first, then registered ones, then entry points.

    Args:
        roles: The wing's ``MODELS``.
        given: By role: a callable, a TorchScript or ONNX file, or ``"module:name"`` of a callable.
        loaders: The wing's ``LOADERS``: how the files of a role are read that are weights, not a model that runs by itself.

    Raises:
        ValueError: If a role is unknown, or a source is none of these.
        FileNotFoundError: If a file does not exist.
    """
    given = dict(given or {})
    if unknown := sorted(given.keys() - roles.keys()):
        raise ValueError(f"unknown models {unknown}: expected some of {sorted(roles)}")
    found: dict[str, Model] = {}
    for role in roles:
        plugged = list(entry_points(group=GROUP, name=role))
        if role in given:
            found[role] = _resolve(role, given[role], (loaders or {}).get(role))
        elif role in _registered:
            found[role] = _callable(role, _registered[role])
        elif plugged:
            found[role] = Model(role, plugged[0].load(), plugged[0].value)
    return found


def _resolve(role: str, source: Source, loader: Callable[[Path], Callable[..., Any]] | None) -> Model:
    if callable(source):
        return _callable(role, source)
    path = Path(source)
    if path.suffix.lower() in (*TORCHSCRIPT, ".onnx", ".safetensors"):
        if not path.is_file():
            raise FileNotFoundError(f"model {role!r}: there is no file {str(path)!r}")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        load = _load_onnx if path.suffix.lower() == ".onnx" else _load_torchscript
        return Model(role, loader(path) if loader else load(role, path), f"{path.name} sha256:{digest}")
    module, _, name = str(source).partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
        if not callable(found):
            raise ValueError(f"it is a {type(found).__name__}")
    except (ImportError, AttributeError, ValueError) as error:
        wanted = f"a file that ends in {', '.join((*TORCHSCRIPT, '.onnx'))}, or 'module:name' of a callable"
        raise ValueError(f"model {role!r} must be {wanted}, got {str(source)!r} ({error})") from None
    return Model(role, found, str(source))


def _callable(role: str, model: Callable[..., Any]) -> Model:
    name = getattr(model, "__qualname__", type(model).__qualname__)
    return Model(role, model, f"{getattr(model, '__module__', '')}:{name}")


def _load_torchscript(role: str, path: Path) -> Callable[[Tensor, int], Any]:
    try:
        module = torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"model {role!r}: {path} is not TorchScript: {str(error).splitlines()[0]}") from None
    takes_rate = len(module.forward.schema.arguments) > 2  # self, signal, rate

    def call(signal: Tensor, rate: int) -> Any:
        with torch.no_grad():
            result = module(signal[None], rate) if takes_rate else module(signal[None])
        return result[0] if isinstance(result, Tensor) and result.ndim else result

    return call


def _load_onnx(role: str, path: Path) -> Callable[[Tensor, int], Tensor]:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"model {role!r}: an ONNX file needs the package onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own exceptions, none of them public
        raise ValueError(f"model {role!r}: {path} is not ONNX: {str(error).splitlines()[0]}") from None
    names = [node.name for node in session.get_inputs()]

    def call(signal: Tensor, rate: int) -> Tensor:
        values = [signal[None].numpy(), np.array(rate, dtype=np.int64)][: len(names)]
        return torch.from_numpy(np.asarray(session.run(None, dict(zip(names, values, strict=True)))[0]))[0]

    return call
