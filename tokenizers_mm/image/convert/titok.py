"""TiTok's published weights to ours: those that decode through MaskGIT's codes and those that give pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenizers_mm.image.convert.layouts import level_arguments, ours
from tokenizers_mm.image.convert.vqgan import codebook_of, save_converted
from tokenizers_mm.image.titok import TiTok
from tokenizers_mm.published import read_checkpoint, refuse

_HEADS = {512: 8, 768: 12, 1024: 16}  # small, base, large: a file doesn't say how its attention is divided
_RENAMED = (
    (r"^latent_tokens$", "encoder.latents"),
    (r"^quantize\.embedding\.weight$", "quantizer.codebook.weight"),
    (r"^pixel_quantize\.embedding\.weight$", "head.codebook"),
    (r"^decoder\.ffn\.0\.(?=weight$|bias$)", "head.pixels."),
    (r"^decoder\.conv_out\.", "head.smooth."),
    (r"^decoder\.decoder_embed\.", "decoder.embed."),
    (r"^encoder\.patch_embed\.", "encoder.patches."),
    (r"^encoder\.conv_out\.", "encoder.out."),
    (r"\.class_embedding$", ".class_token"),
    (r"\.latent_token_positional_embedding$", ".latent_positions"),
    (r"\.positional_embedding$", ".positions"),
    (r"\.ln_pre\.", ".norm_in."),
    (r"\.ln_post\.", ".norm_out."),
    (r"\.transformer\.", ".blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attention.qkv."),
    (r"\.attn\.out_proj\.", ".attention.out."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.1."),
)


def convert_titok(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn TiTok's ``model.safetensors`` or ``tokenizer_titok_*.bin`` into a folder that ``load`` reads.

    Args:
        source: Checkpoint, or ``.safetensors`` with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: Not needed: every size is read from the weights.
        allow_pickle: Load a file that holds more than tensors and plain values. This can run any code that the file carries:
            only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` is not a file.
        ValueError: If the file cannot be read safely, or keys are missing, unknown or of the wrong shape.

    Source:
        https://github.com/bytedance/1d-tokenizer
    """
    published = read_checkpoint(source, allow_pickle=allow_pickle)
    through_codes = any(key.startswith("pixel_decoder.") for key in published)
    tensors = {_renamed(key, through_codes): _flat(key, t) for key, t in _networks(published).items()}
    pixels = {key.removeprefix("pixel_"): t for key, t in published.items() if key.startswith("pixel_decoder.")}
    pixels = ours(pixels)
    arguments = _arguments(tensors, through_codes)
    if through_codes:
        arguments["maskgit"] = level_arguments(pixels, "decoder") | {
            "codebook_size": len(tensors["head.codebook"]),
            "dim": tensors["head.codebook"].shape[1],
        }
    return save_converted(TiTok, arguments, tensors | {f"head.{k}": t for k, t in pixels.items()}, output, "TiTok")


def _networks(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but MaskGIT's decoder and an encoder for training that some files carry."""
    return {key: t for key, t in published.items() if not key.startswith(("pixel_decoder.", "pixel_encoder."))}


def _renamed(key: str, through_codes: bool) -> str:
    if through_codes:
        key = key.replace("decoder.ffn.", "head.logits.")
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _flat(key: str, tensor: Tensor) -> Tensor:
    """1x1 convolutions as matrices, single tokens as one row."""
    if key == "decoder.mask_token":
        return tensor.flatten(0, 1)
    return tensor.flatten(1) if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _arguments(tensors: Mapping[str, Tensor], through_codes: bool) -> dict[str, Any]:
    needed = ["encoder.latents", "encoder.positions", "encoder.patches.weight", "decoder.positions"]
    needed += ["head.codebook"] if through_codes else []
    refuse({"missing keys": [key for key in needed if key not in tensors]}, "TiTok")
    codebook = codebook_of(tensors, "quantizer.codebook.weight", "TiTok")
    patch = tensors["encoder.patches.weight"].shape[-1]
    return {
        "tokens": len(tensors["encoder.latents"]),
        "image_size": patch * math.isqrt(len(tensors["encoder.positions"]) - 1),
        "patch_size": patch,
        "encoder": _transformer(tensors, "encoder"),
        "decoder": _transformer(tensors, "decoder"),
        "code_dim": codebook.shape[1],
        # the first weights have unit codes and mix tokens, those that give pixels do neither
        "quantizer": {"kind": "gradient_vq", "codebook_size": len(codebook), "normalise": through_codes},
        "head": "maskgit" if through_codes else "pixels",
        "mix_tokens": through_codes,
    }


def _transformer(tensors: Mapping[str, Tensor], part: str) -> dict[str, int]:
    width = tensors[f"{part}.positions"].shape[1]
    layers = sum(bool(re.fullmatch(rf"{part}\.blocks\.\d+\.norm1\.weight", key)) for key in tensors)
    return {"dim": width, "layers": layers, "heads": _HEADS.get(width, max(1, width // 64))}
