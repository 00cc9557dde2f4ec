"""Published SNAC checkpoints to ours.

The published files are ``config.json`` and ``pytorch_model.bin``, a plain state dict. Sizes come from the configuration, and the
weights must fit it in every key and shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.audio.snac import SNAC
from tokenizers_mm.published import fit, read_checkpoint
from tokenizers_mm.weights import CONFIG, read_config

WEIGHTS = "pytorch_model.bin"

# Published configuration key -> ours.
ARGUMENTS = {
    "sampling_rate": "sample_rate",
    "encoder_dim": "encoder_dim",
    "encoder_rates": "strides",
    "decoder_dim": "decoder_dim",
    "attn_window_size": "attention_window",
    "codebook_size": "codebook_size",
    "codebook_dim": "codebook_dim",
    "vq_strides": "vq_strides",
    "noise": "noise",
}
# Keys that only repeat what other keys say, or that no published checkpoint varies: what they must be.
DERIVED = ("latent_dim", "decoder_rates", "depthwise")
UNIT = ("snake1", "conv1", "snake2", "conv2")


def convert_snac(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a published SNAC checkpoint into a folder that ``SNAC.from_pretrained`` loads.

    Args:
        source: ``pytorch_model.bin``, a safetensors file with the same keys, or the folder that holds ``pytorch_model.bin``.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: The published ``config.json``; by default the one beside the weights.
        allow_pickle: Load a file that holds more than tensors. This can run any code that the file carries: only for files
            whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the file cannot be read safely, the configuration is not one of SNAC, or keys are missing, unknown or
            of the wrong shape.

    Source:
        https://github.com/hubertsiuzdak/snac
    """
    source, output = Path(source), Path(output)
    source = source / WEIGHTS if source.is_dir() else source
    tensors = read_checkpoint(source, allow_pickle=allow_pickle)
    path = source.parent / CONFIG if config is None else Path(config)
    arguments = parse_config(read_config(path), str(path))
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        codec = SNAC(**arguments)
    own = codec.state_dict()
    codec.load_state_dict(fit(rename(tensors, own, arguments), own, "SNAC"), assign=True)
    codec.save_pretrained(output)
    return output


def parse_config(published: Mapping[str, Any], origin: str = "config") -> dict[str, Any]:
    """The arguments of :class:`SNAC` that a published configuration calls for.

    Raises:
        ValueError: If a key is missing or unknown, or a value is none that this implementation has.
    """
    missing = sorted(ARGUMENTS.keys() - published.keys())
    unknown = sorted(published.keys() - ARGUMENTS.keys() - set(DERIVED))
    if missing or unknown:
        raise ValueError(f"{origin} is not a SNAC configuration: missing {missing}, unknown {unknown}")
    arguments = {ours: published[theirs] for theirs, ours in ARGUMENTS.items()}
    wanted = {
        "latent_dim": (None, arguments["encoder_dim"] * 2 ** len(arguments["strides"])),
        "decoder_rates": (arguments["strides"][::-1],),
        "depthwise": (True,),
    }
    for key, values in wanted.items():
        if key in published and published[key] not in values:
            raise ValueError(f"{origin}: {key} must be {' or '.join(map(str, values))}, got {published[key]}")
    return arguments


def rename(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Published weights under our keys; those that have none keep theirs, for :func:`fit` to refuse.

    Args:
        tensors: Published weights.
        own: A state dict of ours.
        arguments: Those of :class:`SNAC`.
    """
    ours = {published_name(key, arguments): key for key in own}
    # rotary frequencies are the same for all and computed here
    return {ours.get(key, key): tensor for key, tensor in tensors.items() if not key.endswith(".rel_pos.inv_freq")}


def published_name(key: str, arguments: Mapping[str, Any]) -> str:
    """The name that the published network gives to one of our parameters."""
    stages, attention = len(arguments["strides"]), int(arguments["attention_window"] is not None)
    noise = int(arguments["noise"])

    def unit(prefix: str, index: int, layer: str) -> str:
        return f"{prefix}.block.{index}.block.{UNIT.index(layer)}"

    renamed: list[tuple[str, Any]] = [
        (r"\.conv\.(parametrizations|bias)", r".\1"),
        (r"^encoder\.stem", "encoder.block.0"),
        (r"^encoder\.blocks\.(\d+)", lambda m: f"encoder.block.{int(m[1]) + 1}"),
        (r"^encoder\.attention", f"encoder.block.{stages + 1}"),
        (r"^encoder\.out", f"encoder.block.{stages + 1 + attention}"),
        (r"^decoder\.depthwise", "decoder.model.0"),
        (r"^decoder\.pointwise", "decoder.model.1"),
        (r"^decoder\.attention", "decoder.model.2"),
        (r"^decoder\.blocks\.(\d+)", lambda m: f"decoder.model.{int(m[1]) + 2 + attention}"),
        (r"^decoder\.snake", f"decoder.model.{stages + 2 + attention}"),
        (r"^decoder\.out", f"decoder.model.{stages + 3 + attention}"),
        (r"^(encoder\.block\.\d+)\.units\.(\d)\.(\w+)", lambda m: unit(m[1], int(m[2]), m[3])),
        (r"^(encoder\.block\.\d+)\.snake", r"\1.block.3"),
        (r"^(encoder\.block\.\d+)\.down", r"\1.block.4"),
        (r"^(decoder\.model\.\d+)\.snake", r"\1.block.0"),
        (r"^(decoder\.model\.\d+)\.up", r"\1.block.1"),
        (r"^(decoder\.model\.\d+)\.noise", r"\1.block.2"),
        (r"^(decoder\.model\.\d+)\.units\.(\d)\.(\w+)", lambda m: unit(m[1], int(m[2]) + 2 + noise, m[3])),
    ]
    for pattern, replacement in renamed:
        key = re.sub(pattern, replacement, key)
    return key
