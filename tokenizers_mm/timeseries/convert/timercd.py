"""Published TimeRCD checkpoints to ours (thu-sail-lab/Time-RCD on the hub, one for one variate and one for several)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.published import fit, read_checkpoint, refuse
from tokenizers_mm.timeseries.timercd import TimeRCD

_LAYER = "ts_encoder.transformer_encoder.layers."
_INSIDE = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.out",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
}
_WHOLE = {
    "self_attn.binary_attention_bias.emd.weight": "attention.variate_bias",
    "input_norm.scale": "attention_norm.weight",
    "output_norm.scale": "mlp_norm.weight",
}
_OUTSIDE = {"ts_encoder.embedding_layer": "encoder.embed", "ts_encoder.projection_layer": "project"}
_FREQUENCIES = "ts_encoder.rope_embedder.inv_freq"
_HEADS = 8  # the weights of one variate do not hold it


def convert_timercd(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn ``pretrain_checkpoint_best_{uni,multi}.pth`` into a folder that ``TimeRCD.from_pretrained`` loads.

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
        https://github.com/thu-sail-lab/Time-RCD
    """
    published = read_checkpoint(source, allow_pickle=allow_pickle, keys=("model_state_dict", "state_dict"))
    tensors = from_published({key.removeprefix("module."): tensor for key, tensor in published.items()})
    refuse(
        {"missing keys": [key for key in ("encoder.embed.weight", "project.weight") if key not in tensors]}, "TimeRCD"
    )
    dim, patch_size = tensors["encoder.embed.weight"].shape
    biases = [key for key in tensors if key.endswith("variate_bias")]
    arguments: dict[str, Any] = {
        "patch_size": patch_size,
        "dim": dim,
        "step_dim": len(tensors["project.weight"]) // patch_size,
        "layers": len({key.split(".")[2] for key in tensors if key.startswith("encoder.layers.")}),
        "heads": tensors[biases[0]].shape[1] if biases else _HEADS,
        "multivariate": bool(biases),
    }
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        model = TimeRCD(**arguments)
    model.load_state_dict(fit(tensors, model.state_dict(), "TimeRCD"), assign=True)
    model.save_pretrained(output)
    return Path(output)


def from_published(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under our keys; the rotary frequencies, which are no weights, are left out."""
    return {_ours(key): tensor for key, tensor in published.items() if key != _FREQUENCIES}


def to_published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the published keys, with the rotary frequencies."""
    dim = len(tensors["encoder.embed.weight"])
    frequencies = 1.0 / 10_000 ** (torch.arange(0, dim, 2).float() / dim)
    return {_theirs(key): tensor for key, tensor in tensors.items()} | {_FREQUENCIES: frequencies}


def _ours(key: str) -> str:
    if key.startswith(_LAYER):
        number, _, rest = key.removeprefix(_LAYER).partition(".")
        return f"encoder.layers.{number}.{_renamed(rest, _INSIDE, _WHOLE)}"
    return _renamed(key, _OUTSIDE, {})


def _theirs(key: str) -> str:
    outside, inside, whole = ({new: old for old, new in table.items()} for table in (_OUTSIDE, _INSIDE, _WHOLE))
    if key.startswith("encoder.layers."):
        number, _, rest = key.removeprefix("encoder.layers.").partition(".")
        return f"{_LAYER}{number}.{_renamed(rest, inside, whole)}"
    return _renamed(key, outside, {})


def _renamed(key: str, layers: dict[str, str], whole: dict[str, str]) -> str:
    layer, _, kind = key.rpartition(".")
    return whole.get(key) or f"{layers.get(layer, layer)}.{kind}"
