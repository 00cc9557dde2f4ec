"""LlamaGen's published autoregressive models to folders that ``LlamaGen.from_pretrained`` reads.

Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", 2024.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.lm.llamagen import LlamaGen
from tokenizers_mm.published import fit, read_checkpoint
from tokenizers_mm.weights import read_config

_HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 3200: 32, 4096: 32}  # by width: files don't say
_RENAMED = (
    (r"^cls_embedding\.embedding_table\.", "condition."),
    (r"^cls_embedding\.cap_proj\.fc1\.", "condition.0."),
    (r"^cls_embedding\.cap_proj\.fc2\.", "condition.2."),
    (r"^cls_embedding\.uncond_embedding$", "null_caption"),
    (r"^tok_embeddings\.", "embedding."),
    (r"^output\.", "head."),
    (r"^norm\.", "transformer.norm."),
    (r"^layers\.", "transformer.blocks."),
    (r"\.attention\.wo\.", ".attention.out."),
    (r"\.feed_forward\.w1\.", ".mlp.gate."),
    (r"\.feed_forward\.w2\.", ".mlp.down."),
    (r"\.feed_forward\.w3\.", ".mlp.up."),
    (r"\.ffn_norm\.", ".mlp_norm."),
)


def convert_llamagen_lm(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn ``c2i_*.pt`` or ``t2i_*.pt`` into a folder that :meth:`LlamaGen.from_pretrained` reads.

    Args:
        source: Checkpoint, or ``.safetensors`` with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: JSON with arguments of :class:`LlamaGen` that files do not hold: ``grid``, unless it is 16 x 16, and ``heads``,
            unless the width is a published model's.
        allow_pickle: Load a file that holds more than tensors and plain values. This can run any code that the file carries:
            only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` is not a file.
        ValueError: If the file cannot be read safely, or keys are missing, unknown or of the wrong shape.

    Source:
        https://github.com/FoundationVision/LlamaGen
    """
    published = read_checkpoint(source, allow_pickle=allow_pickle, keys=("model", "module", "state_dict"))
    arguments = _arguments(published, {} if config is None else read_config(Path(config)))
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        model = LlamaGen(**arguments)
    model.load_state_dict(fit(_ours(published, arguments), model.state_dict(), "LlamaGen"), assign=True)
    model.save_pretrained(output)
    return Path(output)


def _arguments(published: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the model that weights are for."""
    sizes = ("tok_embeddings.weight", "layers.0.attention.wqkv.weight", "layers.0.feed_forward.w1.weight")
    if missing := [key for key in sizes if key not in published]:
        raise ValueError(f"the checkpoint does not fit LlamaGen: {len(missing)} missing keys: {', '.join(missing)}")
    vocabulary_size, dim = published["tok_embeddings.weight"].shape
    if "heads" not in given and dim not in _HEADS:
        raise ValueError(f"config must say heads, which the weights don't: their width {dim} is no published model's")
    heads = given.get("heads", _HEADS.get(dim))
    rows = published["layers.0.attention.wqkv.weight"].shape[0]
    found = {
        "vocabulary_size": vocabulary_size, "dim": dim, "heads": heads,
        "kv_heads": (rows * heads // dim - heads) // 2,
        "hidden": len(published["layers.0.feed_forward.w1.weight"]),
        "layers": 1 + max(int(key.split(".")[1]) for key in published if key.startswith("layers.")),
    }  # fmt: skip
    if (table := published.get("cls_embedding.embedding_table.weight")) is not None:
        return {**found, "classes": len(table) - 1, **given}
    null = published.get("cls_embedding.uncond_embedding", torch.empty(0, 0))
    return {**found, "classes": None, "caption_dim": null.shape[1], "caption_steps": len(null), **given}


def _ours(published: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights under our keys; queries, keys and values apart."""
    width = arguments["dim"] // arguments["heads"]
    parts = [arguments["heads"] * width, *[arguments["kv_heads"] * width] * 2]
    tensors: dict[str, Tensor] = {}
    for key, tensor in published.items():
        for old, new in _RENAMED:
            key = re.sub(old, new, key)
        if key.endswith(".wqkv.weight"):
            names = (key.replace("wqkv", name) for name in ("query", "key", "value"))
            tensors |= dict(zip(names, tensor.split(parts), strict=True))
        else:
            tensors[key] = tensor
    return tensors
