"""Original DAC checkpoints (``weights*.pth`` of descript-audio-codec) to ours.

They hold ``state_dict``, convolutions weight-normalised, and ``metadata`` with the network's arguments. Ours hold the merged
weights, as the files on the hub do; sizes are read from the weights, only the sample rate needs the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.audio.pretrained.dac import DAC
from tokenizers_mm.pretrained import PREFIX
from tokenizers_mm.published import fit, read_checkpoint, refuse
from tokenizers_mm.weights import read_config

LAYERS = {"0": "snake1", "1": "conv1", "2": "snake2", "3": "conv2"}  # of a residual unit


def convert_dac(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn an original DAC checkpoint into a folder that ``DAC.from_pretrained`` loads.

    Args:
        source: ``weights*.pth`` of the authors' releases or of their trainer, or ``.safetensors`` with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: JSON with ``sample_rate`` in Hz, for files without metadata; it wins over the metadata's.
        allow_pickle: Load a ``.pth`` that holds more than tensors and plain values. This can run any code that the file carries:
            only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` or ``config`` is not a file.
        ValueError: If the file cannot be read safely, the sample rate is nowhere, or keys are missing, unknown or of the wrong
            shape.

    Source:
        https://github.com/descriptinc/descript-audio-codec
    """
    source = Path(source)
    tensors = read_checkpoint(source, allow_pickle=allow_pickle)
    arguments = infer_arguments(tensors)
    arguments["sample_rate"] = _sample_rate(source, None if config is None else Path(config), allow_pickle)
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        codec = DAC(**arguments)
    renamed = {PREFIX + key: tensor for key, tensor in rename(merge_weight_norm(tensors), arguments["strides"]).items()}
    codec.load_state_dict(fit(renamed, codec.state_dict(), "DAC"), assign=True)
    codec.save_pretrained(output)
    return Path(output)


def infer_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``DAC``, but for the sample rate, that weights in the original layout call for.

    Raises:
        ValueError: If a layer that decides them is missing or has a shape that no DAC has.
    """

    def size(key: str, axis: int) -> int:
        if key not in tensors or tensors[key].ndim <= axis:
            raise ValueError(
                f"not a DAC checkpoint: missing key {key}" if key not in tensors else f"{key} has no axis {axis}"
            )
        return tensors[key].shape[axis]

    def count(pattern: str) -> int:
        return len({m[1] for key in tensors if (m := re.match(pattern, key))})

    stages = count(r"encoder\.block\.(\d+)\.block\.4\.")
    kernels = [size(f"encoder.block.{i}.block.4.weight_v", 2) for i in range(1, stages + 1)]
    if not kernels or any(k % 2 for k in kernels):
        raise ValueError(f"not a DAC checkpoint: strided convolutions must have kernels of two strides, got {kernels}")
    return {
        "strides": [kernel // 2 for kernel in kernels],
        "encoder_dim": size("encoder.block.0.weight_v", 0),
        "latent_dim": size("decoder.model.0.weight_v", 1),
        "decoder_dim": size("decoder.model.0.weight_v", 0),
        "num_codebooks": count(r"quantizer\.quantizers\.(\d+)\."),
        "codebook_size": size("quantizer.quantizers.0.codebook.weight", 0),
        "codebook_dim": size("quantizer.quantizers.0.codebook.weight", 1),
    }


def merge_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every pair ``weight_g``, ``weight_v`` as one ``weight``.

    Raises:
        ValueError: If one of a pair is missing, or they do not fit together.
    """
    merged = {key: tensor for key, tensor in tensors.items() if not key.endswith((".weight_g", ".weight_v"))}
    names = {key[:-2] for key in tensors if key.endswith((".weight_g", ".weight_v"))}
    pairs = {name: (f"{name}_g", f"{name}_v") for name in sorted(names)}
    refuse({"missing keys": [key for pair in pairs.values() for key in pair if key not in tensors]}, "DAC")
    for name, (g, v) in pairs.items():
        if tensors[g].shape != (tensors[v].shape[0], *[1] * (tensors[v].ndim - 1)):
            raise ValueError(f"{g} must hold one value per output of {v}, got {list(tensors[g].shape)}")
        merged[name] = torch._weight_norm(tensors[v], tensors[g], 0)
    return merged


def rename(tensors: Mapping[str, Tensor], strides: list[int]) -> dict[str, Tensor]:
    """Merged original weights under the library's keys; keys that the original never wrote keep their names."""
    last = len(strides) + 1
    rules = (
        (r"^(?:encoder\.block|decoder\.model)\.0\.", lambda m: f"{m[0].split('.')[0]}.conv1."),
        (rf"^(encoder\.block|decoder\.model)\.{last}\.alpha", lambda m: f"{m[1].split('.')[0]}.snake1.alpha"),
        (rf"^(encoder\.block|decoder\.model)\.{last + 1}\.", lambda m: f"{m[1].split('.')[0]}.conv2."),
        (
            r"^encoder\.block\.(\d+)\.block\.([0-2])\.block\.([0-3])\.",
            lambda m: f"encoder.block.{int(m[1]) - 1}.res_unit{int(m[2]) + 1}.{LAYERS[m[3]]}.",
        ),
        (
            r"^encoder\.block\.(\d+)\.block\.([34])\.",
            lambda m: f"encoder.block.{int(m[1]) - 1}.{'snake1' if m[2] == '3' else 'conv1'}.",
        ),
        (
            r"^decoder\.model\.(\d+)\.block\.([2-4])\.block\.([0-3])\.",
            lambda m: f"decoder.block.{int(m[1]) - 1}.res_unit{int(m[2]) - 1}.{LAYERS[m[3]]}.",
        ),
        (
            r"^decoder\.model\.(\d+)\.block\.([01])\.",
            lambda m: f"decoder.block.{int(m[1]) - 1}.{'snake1' if m[2] == '0' else 'conv_t1'}.",
        ),
    )
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        new = next((re.sub(pattern, rule, key) for pattern, rule in rules if re.match(pattern, key)), key)
        renamed[new] = tensor
    return renamed


def _sample_rate(source: Path, config: Path | None, allow_pickle: bool) -> int:
    if config is not None:
        arguments = read_config(config)
        if set(arguments) != {"sample_rate"}:
            raise ValueError(f"{config} must hold sample_rate alone, got {sorted(arguments)}")
        return int(arguments["sample_rate"])
    content = None if source.suffix == ".safetensors" else torch.load(source, "cpu", weights_only=not allow_pickle)
    metadata = content.get("metadata") if isinstance(content, dict) else None
    kwargs = metadata.get("kwargs") if isinstance(metadata, dict) else None
    if not isinstance(kwargs, dict) or "sample_rate" not in kwargs:
        raise ValueError(
            f"{source} has no metadata.kwargs.sample_rate: give a JSON file with sample_rate as config (--config)"
        )
    return int(kwargs["sample_rate"])
