"""Cosmos's discrete image tokenizers to VQGAN: their wavelet transform disappears into the convolutions beside it.

NVIDIA, "Cosmos World Foundation Model Platform for Physical AI", 2025. Pixels enter the published network as a Haar transform of
4x4 patches and leave it as one. That is a fixed matrix on the values of each patch, so the first and the last convolution
can do it, on the patches' pixels themselves.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from tokenizers_mm.image.convert.layouts import network_arguments, ours
from tokenizers_mm.image.convert.vqgan import save_converted
from tokenizers_mm.image.vqgan import VQGAN
from tokenizers_mm.published import read_checkpoint, refuse

LEVELS = [8, 8, 8, 5, 5, 5]
_CONSTANTS = r"(^|\.)(un)?patcher\.|^(inv_quant\.)?quantizer\."  # wavelets and tables of codes
_PROJECTIONS = {"quant_conv.": "quantizer.fsq.project_in.", "post_quant_conv.": "quantizer.fsq.project_out."}


def convert_cosmos(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn ``autoencoder.jit`` of a discrete Cosmos image tokenizer (DI 8x8 or 16x16) into a folder that ``load`` reads.

    Args:
        source: The TorchScript program with encoder and decoder, or a checkpoint with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: Not needed: every size is read from the weights.
        allow_pickle: Needed for TorchScript, whose loading can run code that the file carries: only for files whose author you
            trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` is not a file.
        ValueError: If the file cannot be read safely, or keys are missing, unknown or of the wrong shape.

    Source:
        https://github.com/NVIDIA/Cosmos-Tokenizer
    """
    published = read_checkpoint(source, allow_pickle=allow_pickle)
    kept = {key: t.float() for key, t in published.items() if not re.search(_CONSTANTS, key)}
    tensors = {_projected(key): t.flatten(1) if "quant_conv.weight" in key else t for key, t in ours(kept).items()}
    arguments = network_arguments(tensors)
    needed = ("decoder.conv_out.weight", "decoder.conv_out.bias")
    refuse({"missing keys": [key for key in needed if key not in tensors]}, "Cosmos's tokenizer")
    patch = math.isqrt(tensors["encoder.conv_in.weight"].shape[1] // 3)
    to_wavelets = haar(patch)
    back = torch.linalg.inv(to_wavelets)
    tensors["encoder.conv_in.weight"] = _product("okyx,kp->opyx", tensors["encoder.conv_in.weight"], to_wavelets)
    tensors["decoder.conv_out.weight"] = _product("kiyx,pk->piyx", tensors["decoder.conv_out.weight"], back)
    tensors["decoder.conv_out.bias"] = _product("k,pk->p", tensors["decoder.conv_out.bias"], back)
    arguments |= {
        "hop": patch * arguments["hop"],
        "patch_size": patch,
        "quantizer": {"kind": "fsq", "levels": LEVELS},
    }
    return save_converted(VQGAN, arguments, tensors, output, "Cosmos's tokenizer")


def haar(patch_size: int) -> Tensor:
    """The matrix of the transform, float64 ``[3 * p * p, 3 * p * p]``: rows are wavelet channels, columns a patch's pixels.

    Each of its rounds turns 2x2 values of a channel into their mean and three differences, all halved twice; the four kinds
    come one after another, the channels inside them. Pixels are in the order of ``torch.pixel_unshuffle``.
    """
    values = torch.eye(3 * patch_size**2, dtype=torch.float64).reshape(-1, 3, patch_size, patch_size)
    while values.shape[-1] > 1:
        a, b = values[..., 0::2, 0::2], values[..., 0::2, 1::2]
        c, d = values[..., 1::2, 0::2], values[..., 1::2, 1::2]
        kinds = (a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d)
        values = torch.cat(kinds, dim=1) / 4
    return values.flatten(1).T


def _product(equation: str, weight: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum(equation, weight.double(), matrix).float()


def _projected(key: str) -> str:
    for name, own in _PROJECTIONS.items():
        if key.startswith(name):
            return own + key.removeprefix(name)
    return key
