"""How the published descendants of VQGAN name their weights, and the sizes that weights under our names imply.

Taming's names are also those of IBQ, VAR, Janus, Cosmos, Open-MAGVIT2 and MaskGIT's VQGAN, each with a few of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from tokenizers_mm.published import refuse

# Kept by trainers beside the tokenizer: losses, usage counters, averages (chosen before), metrics.
DROPPED = (
    "loss.",
    "lpips.",
    "inception_model.",
    "discriminator.",
    "model_ema.",
    "quantize.codebook_used",
    "quantize.ema_vocab_hit_SV",
)
AVERAGE = "model_ema."
_RENAMED = (
    (r"\.nin_shortcut\.", ".skip."),
    (r"\.proj_out\.", ".out."),
    (r"\.mid\.block_1\.", ".middle.0."),
    (r"\.mid\.attn_1\.", ".middle.1."),
    (r"\.mid\.block_2\.", ".middle.2."),
    (r"\.mid(_block)?\.", ".middle."),
    (r"\.(down|up|conv_blocks)\.", ".levels."),
    (r"(levels\.\d+)\.(block|res)\.", r"\1.blocks."),
    (r"(levels\.\d+)\.attn\.", r"\1.attentions."),
    (r"\.(downsample|upsample|upsample_conv)(\.conv1?)?\.(?=weight$|bias$)", ".resample."),
    (r"(adaptive\.\d+)\.gamma\.", r"\1.scale."),
    (r"(adaptive\.\d+)\.beta\.", r"\1.shift."),
    (r"^quantize\.embedding\.weight$", "codebook"),
)


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A trainer's tensors with each weight replaced by its moving average, where the trainer kept one beside it."""
    averages = {key.removeprefix(AVERAGE): tensor for key, tensor in tensors.items() if key.startswith(AVERAGE)}
    return {key: averages.get(key.replace(".", ""), tensor) for key, tensor in tensors.items()}


def ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under the names of our encoder and decoder, attention as one product, 1x1 convolutions in it flat.

    The codebook is under ``codebook``; ``quant_conv`` and ``post_quant_conv`` keep their names.

    Raises:
        ValueError: If a query, key or value projection lacks the two others.
    """
    renamed = {our_name(key): tensor for key, tensor in tensors.items() if not key.startswith(DROPPED)}
    if any(key.startswith("decoder.up.") for key in tensors) and not _lowest_first(renamed):
        last = max(_levels(renamed, "decoder"))  # taming counts the decoder's levels from the highest resolution
        renamed = {
            re.sub(r"^(decoder\.(?:levels|adaptive)\.)(\d+)", lambda m: f"{m[1]}{last - int(m[2])}", key): tensor
            for key, tensor in renamed.items()
        }
    flat = {key: t.flatten(1) if _in_attention(key) and t.ndim == 4 else t for key, t in renamed.items()}
    fused: dict[str, Tensor] = {}
    for key, tensor in flat.items():
        if not (found := re.fullmatch(r"(.+)\.([qkv])\.(weight|bias)", key)):
            fused[key] = tensor
        elif found[2] == "q":
            parts = [f"{found[1]}.{name}.{found[3]}" for name in "qkv"]
            refuse({"missing keys": [part for part in parts if part not in flat]}, "VQGAN")
            fused[f"{found[1]}.qkv.{found[3]}"] = torch.cat([flat[part] for part in parts])
    return fused


def network_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the networks, from weights under our names.

    Raises:
        ValueError: If a layer that decides them is missing.
    """
    resamples = _count(tensors, r"encoder\.levels\.\d+\.resample\.weight")
    return {
        "hop": 2**resamples,
        **level_arguments(tensors, "encoder"),
        "level_attention": _count(tensors, r"encoder\.levels\.\d+\.attentions\.0\.qkv\.weight") > 0,
        "middle_attention": "encoder.middle.1.qkv.weight" in tensors,
        "latent_channels": len(tensors["encoder.conv_out.weight"]),
    }


def level_arguments(tensors: Mapping[str, Tensor], part: Literal["encoder", "decoder"]) -> dict[str, Any]:
    """Width, widths of the levels and blocks per level of an encoder, or of a decoder that has no encoder beside it.

    Raises:
        ValueError: If a layer that decides them is missing.
    """
    needed = [f"{part}.conv_in.weight", f"{part}.conv_out.weight", f"{part}.levels.0.blocks.0.conv1.weight"]
    refuse({"missing keys": [key for key in needed if key not in tensors]}, "VQGAN")
    levels = _levels(tensors, part)
    widths = [len(tensors[key]) for i in levels if (key := f"{part}.levels.{i}.blocks.0.conv1.weight") in tensors]
    if part == "decoder":
        widths.reverse()
    channels = len(tensors["encoder.conv_in.weight"]) if part == "encoder" else widths[0]
    return {
        "channels": channels,
        "multipliers": [width // channels for width in widths],
        "blocks": _count(tensors, rf"{part}\.levels\.0\.blocks\.\d+\.conv1\.weight"),
    }


def our_name(key: str) -> str:
    """A published weight's name as ours, levels of decoders and projections of attention aside."""
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _levels(tensors: Iterable[str], part: str) -> list[int]:
    found = {int(m[1]) for key in tensors if (m := re.match(rf"{part}\.levels\.(\d+)\.", key))}
    return sorted(found) or [0]


def _lowest_first(renamed: Mapping[str, Tensor]) -> bool:
    """Whether the decoder's level 0 has the lowest resolution: its last level then has no upsampling."""
    last = max(_levels(renamed, "decoder"))
    return last > 0 and f"decoder.levels.{last}.resample.weight" not in renamed


def _in_attention(key: str) -> bool:
    return bool(re.search(r"\.(q|k|v|qkv|out)\.weight$", key)) and not key.endswith("conv_out.weight")


def _count(tensors: Iterable[str], pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, key)) for key in tensors)
