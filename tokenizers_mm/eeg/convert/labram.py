"""Published LaBraM neural tokenizers (VQ-NSP) to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tokenizers_mm.eeg.labram import LaBraMTokenizer
from tokenizers_mm.published import fit, read_checkpoint, refuse

_DROPPED = ("loss", "teacher", "scaling")
_RENAMED = (
    (r"^encode_task_layer\.", "project_in."),
    (r"^decode_task_layer_angle\.", "phase."),
    (r"^decode_task_layer\.", "amplitude."),
    (r"^encoder\.patch_embed\.conv([123])\.", lambda m: f"encoder.embedding.convs.{int(m[1]) - 1}."),
    (r"^encoder\.patch_embed\.norm([123])\.", lambda m: f"encoder.embedding.norms.{int(m[1]) - 1}."),
    (r"^decoder\.patch_embed\.proj\.", "decoder.embedding."),
    (r"\.pos_embed$", ".electrodes"),
    (r"\.time_embed$", ".times"),
    (r"\.fc_norm\.", ".norm."),
    (r"\.attn\.", "."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.1."),
    (r"^quantize\.embedding\.weight$", "quantizer.stages.0._codebook.embed"),
    (r"^quantize\.embedding\.embed_avg$", "quantizer.stages.0._codebook.embed_avg"),
    (r"^quantize\.cluster_size$", "quantizer.stages.0._codebook.cluster_size"),
)
_UNUSED = ("quantize.embedding.cluster_size", "quantize.embedding.initted")


def convert_labram(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn ``vqnsp.pth`` into a folder that ``LaBraMTokenizer.from_pretrained`` loads.

    Args:
        source: Checkpoint, or ``.safetensors`` with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: Not needed: every size is read from the weights, but for heads of 20 features, as all published ones have.
        allow_pickle: Load a file that holds more than tensors and plain values. This can run any code that the file carries:
            only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` is not a file.
        ValueError: If the file cannot be read safely, or keys are missing, unknown or of the wrong shape.

    Source:
        https://github.com/935963004/LaBraM
    """
    tensors = read_checkpoint(source, allow_pickle=allow_pickle, keys=("model", "state_dict"))
    tensors = {key: t for key, t in tensors.items() if not key.startswith(_DROPPED) and key not in _UNUSED}
    needed = ("quantize.embedding.weight", "encoder.cls_token", "decode_task_layer.2.weight")
    refuse({"missing keys": [key for key in needed if key not in tensors]}, "LaBraM's tokenizer")
    renamed = {_name(key): _shaped(key, t) for key, t in tensors.items()}
    renamed["quantizer.stages.0._codebook.initted"] = torch.tensor(True)
    size, width = tensors["quantize.embedding.weight"].shape
    dim = tensors["encoder.cls_token"].shape[-1]
    codec = LaBraMTokenizer(
        quantizer={"kind": "vq", "codebook_size": size, "cosine": True, "kmeans_iters": 10},
        patch_size=len(tensors["decode_task_layer.2.weight"]),
        code_dim=width,
        dim=dim,
        heads=max(1, dim // 20),
        encoder_layers=_blocks(renamed, "encoder"),
        decoder_layers=_blocks(renamed, "decoder"),
    )
    codec.load_state_dict(fit(renamed, codec.state_dict(), "LaBraM's tokenizer"))
    codec.save_pretrained(output)
    return Path(output)


def _shaped(key: str, tensor: Tensor) -> Tensor:
    if key.endswith((".pos_embed", ".time_embed")):
        return tensor[0]
    if key == "decoder.patch_embed.proj.weight":
        return tensor.flatten(1)
    return tensor[None] if key.startswith("quantize.") else tensor


def _name(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _blocks(tensors: Mapping[str, Tensor], part: str) -> int:
    return len({key.split(".")[2] for key in tensors if key.startswith(f"{part}.blocks.")})
