"""What the wrappers of ``transformers`` codecs share: the class is imported on first use, its weights load strictly."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenizers_mm.codec import Codec, CodecOutput
from tokenizers_mm.published import fit
from tokenizers_mm.weights import read_part

PREFIX = "model."


def from_transformers(name: str) -> Any:
    """A class of ``transformers``.

    Raises:
        ImportError: If the package is not installed, or too old to have it; the message says what to install.
    """
    try:
        with torch.device(
            "cpu"
        ):  # whatever device a codec is being built on: imported modules make constants of their own
            return getattr(importlib.import_module("transformers"), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"{name} needs the package transformers, version 5 or newer: pip install 'tokenizers_mm[peers]' ({error})"
        ) from None


class TransformersCodec(Codec):
    """A codec whose network is a ``transformers`` model, held as ``self.model``; weights keep that model's key names.

    A subclass builds ``self.model`` and ``self.spec`` in ``__init__`` and implements ``_encode`` and ``_decode``.

    Attributes:
        parts: What the keys of this network begin with in the checkpoints of bigger models that hold it; only that part is read.
    """

    model: Any  # a PreTrainedModel
    parts: ClassVar[tuple[str, ...]] = ()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> CodecOutput:
        raise NotImplementedError(f"{type(self).__name__} is for inference: its library has no training forward")

    def load_weights(self, path: str | Path, *, strict: bool = True) -> None:
        """Load a safetensors file of this codec or of the wrapped ``transformers`` model (its hub layout).

        Args:
            path: The file, of this network or of a bigger model that has it among its ``parts``; or such a model's index of
                shards, of which those are read that have something of the part.
            strict: Always both ways, whatever is asked: the wrapped classes would take wrong names in silence.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: Naming every key that is missing, unknown or of the wrong shape.
        """
        tensors = read_part(Path(path), self.parts)
        if not all(key.startswith(PREFIX) for key in tensors):
            tensors = {PREFIX + key: tensor for key, tensor in self._from_hub(tensors).items()}
        self.load_state_dict(fit(tensors, self.state_dict(), f"{type(self).__name__} ({path})"))

    def _from_hub(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of a hub file as the installed version of the model names them."""
        return {
            key.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): tensor
            for key, tensor in tensors.items()
        }
