"""Published EnCodec checkpoints of the original program to ours: plain state dicts, 24 kHz, 48 kHz and MusicGen's 32 kHz.

Sizes are read from the weights; what weights don't show (rate, causality, windows) follows from which of the three it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.audio.pretrained.encodec import Encodec
from tokenizers_mm.published import fit, read_checkpoint

FIRST = "encoder.model.0.conv"
MONO = {"sample_rate": 24000, "causal": True}
MUSICGEN = {"sample_rate": 32000, "causal": False}
STEREO = {"sample_rate": 48000, "causal": False, "normalize": True, "window_seconds": 1.0, "overlap": 0.01}

# The published key -> ours: substitutions, applied in this order.
RENAMED = (
    (r"^(encoder|decoder)\.model\.", r"model.\1.layers."),
    (r"\.conv\.norm\.", ".norm."),
    (r"\.convtr\.norm\.", ".norm."),
    (r"\.conv\.conv\.", ".conv."),
    (r"\.convtr\.convtr\.", ".conv."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"model.quantizer.layers.\1.codebook."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)


def convert_encodec(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn an EnCodec checkpoint of the original program into a folder that ``load`` reads.

    Args:
        source: ``.th`` file, or ``.safetensors`` with the same keys; MusicGen's has the weights under ``best_state``.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: JSON with arguments of :class:`Encodec` that the weights don't show, for models other than the published three
            (``{"sample_rate": 16000}``).
        allow_pickle: Load a file that holds more than tensors and plain values: only if you trust its author.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` or ``config`` is not a file.
        ValueError: If the file cannot be read safely, keys are missing, unknown or of the wrong shape, or ``config`` is none.

    Source:
        https://github.com/facebookresearch/encodec
    """
    tensors = read_checkpoint(source, allow_pickle=allow_pickle, keys=("best_state", "state_dict"))
    arguments = {**infer_arguments(tensors), **_read_arguments(config)}
    codec = Encodec(**arguments)
    own = codec.state_dict()
    codec.load_state_dict(fit({rename(key): tensor for key, tensor in tensors.items()}, own, "EnCodec"))
    codec.save_pretrained(output)
    return Path(output)


def rename(key: str) -> str:
    """Our name of a published key."""
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def infer_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of :class:`Encodec` that weights in the published layout call for.

    Raises:
        ValueError: If a layer that decides them is missing or no published layer has its shape.
    """

    def shape(key: str, ndim: int) -> torch.Size:
        if key not in tensors:
            raise ValueError(f"not an EnCodec checkpoint: missing key {key}")
        if tensors[key].ndim != ndim:
            raise ValueError(f"{key} must have {ndim} dimensions, got {list(tensors[key].shape)}")
        return tensors[key].shape

    group_norm = f"{FIRST}.norm.weight" in tensors
    weight = "conv.conv.weight" if group_norm else "conv.conv.weight_v"
    n_filters, channels, _ = shape(f"{FIRST.removesuffix('.conv')}.{weight}", 3)
    at_lstm = [int(m[1]) for key in tensors if (m := re.match(r"encoder\.model\.(\d+)\.lstm\.", key))]
    if not at_lstm:
        raise ValueError("not an EnCodec checkpoint: missing keys encoder.model.<layer>.lstm.*")
    # Layers 3, 6, 9, ... are the strided convolutions, each with a kernel of two strides; the LSTM follows the last.
    kernels = [shape(f"encoder.model.{i}.{weight}", 3)[2] for i in range(3, max(at_lstm), 3)]
    if not kernels or any(kernel % 2 for kernel in kernels):
        raise ValueError(f"the encoder's strided convolutions must have kernels of two strides, got {kernels}")
    codebooks = [int(m[1]) for key in tensors if (m := re.match(r"quantizer\.vq\.layers\.(\d+)\.", key))]
    size, dim = shape("quantizer.vq.layers.0._codebook.embed", 2)
    shortcut = any(".shortcut." in key for key in tensors)
    lstm = f"encoder.model.{max(at_lstm)}.lstm.weight_ih_l"
    return {
        **(STEREO if group_norm else MONO if shortcut else MUSICGEN),
        "channels": channels,
        "strides": [kernel // 2 for kernel in kernels],
        "n_filters": n_filters,
        "dim": dim,
        "lstm_layers": sum(key.startswith(lstm) for key in tensors),
        "codebook_size": size,
        "num_codebooks": max(codebooks) + 1,
        "norm": "time_group_norm" if group_norm else "weight_norm",
        "conv_shortcut": shortcut,
    }


def _read_arguments(config: str | Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        arguments = json.loads(Path(config).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} must hold JSON arguments of Encodec: {error}") from None
    known = set(Encodec._hub_mixin_init_parameters)
    if not isinstance(arguments, dict) or not arguments.keys() <= known:
        wrong = sorted(arguments.keys() - known) if isinstance(arguments, dict) else type(arguments).__name__
        raise ValueError(f"{config} must hold a mapping of Encodec's arguments, got {wrong}")
    return arguments
