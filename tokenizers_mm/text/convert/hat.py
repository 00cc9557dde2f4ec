"""Published HAT checkpoints (Aleph-Alpha/llama-3_1-8b-tfree-hat-*, .../tfree-hat-pretrained-7b-base) to ours, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.published import fit, read_checkpoint
from tokenizers_mm.text.hat_tfree import HATTFree
from tokenizers_mm.weights import CONFIG, INDEX, read_config, read_part

_MODEL_TYPE = "hierarchical_autoregressive_transformer"
_SELF = {
    "input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm", "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key", "self_attn.v_proj": "attention.value", "self_attn.o_proj": "attention.out",
    "self_attn.norm_query": "attention.query_norm", "self_attn.norm_key": "attention.key_norm",
    "mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.up", "mlp.down_proj": "mlp.down",
}  # fmt: skip
_GUIDE = {
    "kv_norm": "norm", "query_norm": "unused.byte_norm", "cross_attention.v_proj": "value", "cross_attention.o_proj": "out",
    "cross_attention.q_proj": "unused.query", "cross_attention.k_proj": "unused.key",
    "cross_attention.norm_query": "unused.query_norm", "cross_attention.norm_key": "unused.key_norm",
}  # fmt: skip
_POOL = "encoder_connector.cross_attention_encoder_connector"
_WHOLE = {
    "encoder.embedding_layer.weight": "embedding.weight", "encoder_connector.latent_query": "connector.latent",
    f"{_POOL}.q_proj.weight": "connector.query.weight", f"{_POOL}.k_proj.weight": "connector.key.weight",
    f"{_POOL}.v_proj.weight": "connector.value.weight", f"{_POOL}.o_proj.weight": "connector.out.weight",
    f"{_POOL}.norm_query.weight": "connector.query_norm.weight", f"{_POOL}.norm_key.weight": "connector.key_norm.weight",
    "decoder_connector.first_word_embedding": "first", "layer_norm.weight": "norm.weight", "lm_head.weight": "head.weight",
}  # fmt: skip
_STACKS = {
    "encoder.layers.": ("encoder.blocks.", _SELF), "backbone.layers.": ("backbone.blocks.", _SELF),
    "decoder.decoder_layers.": ("guides.", _GUIDE),
}  # fmt: skip
_LLAMA = "llama_layer."


def convert_hat(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a published checkpoint into a folder that ``HATTFree.from_pretrained`` loads.

    Args:
        source: Its ``model.safetensors.index.json`` with the shards beside it, or one file of weights.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: Its ``config.json``; by default the one beside ``source``.
        allow_pickle: Load a file that holds more than tensors and plain values. This can run any code that the file carries:
            only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the configuration is of something else, or keys are missing, unknown or of the wrong shape.

    Source:
        https://huggingface.co/Aleph-Alpha/llama-3_1-8b-tfree-hat-base
    """
    source = Path(source)
    arguments = from_config(read_config(Path(config) if config is not None else source.with_name(CONFIG)))
    sharded = source.name == INDEX
    published = read_part(source) if sharded else read_checkpoint(source, allow_pickle=allow_pickle)
    tensors = from_published(published)
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        model = HATTFree(**arguments).to(next(iter(tensors.values())).dtype)
    model.load_state_dict(fit(tensors, model.state_dict(), "HAT"), assign=True)
    model.save_pretrained(output)
    return Path(output)


def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`HATTFree` from a published configuration.

    Raises:
        ValueError: If it is of another model, or of a variant that ours doesn't have.
    """
    if config.get("model_type") != _MODEL_TYPE:
        raise ValueError(f"config: model_type must be {_MODEL_TYPE!r}, got {config.get('model_type')!r}")
    try:
        encoder, backbone, decoder = (config[f"{part}_config"] for part in ("encoder", "backbone", "decoder"))
        pool, cross = encoder["cross_attention_config"], decoder["cross_attention_config"]
        for part in (encoder, backbone, decoder, pool, cross):
            if capped := [key for key, value in part.items() if "softcap" in key.replace("_", "") and value]:
                raise ValueError(f"config: attention logits are capped ({capped[0]}), which this model does not have")
        for name in ("num_attention_heads", "hidden_size", "intermediate_size", "rope_theta"):
            if encoder[name] != decoder[name]:
                raise ValueError(f"config: encoder and decoder must have the same {name}")
        if pool["num_attention_heads"] != pool["attention_num_kv_heads"]:
            raise ValueError("config: the connector must have as many keys as heads")
        return {
            "dim": encoder["hidden_size"], "encoder_layers": encoder["num_hidden_layers"],
            "decoder_layers": decoder["num_hidden_layers"], "heads": encoder["num_attention_heads"],
            "hidden": encoder["intermediate_size"], "window": config["sliding_window"],
            "backbone_dim": backbone["hidden_size"], "backbone_layers": backbone["num_hidden_layers"],
            "backbone_heads": backbone["num_attention_heads"], "backbone_kv_heads": backbone["num_key_value_heads"],
            "backbone_hidden": backbone["intermediate_size"], "connector_heads": pool["num_attention_heads"],
            "qk_norm": bool(backbone.get("key_query_norm")), "rope_base": encoder["rope_theta"],
            "backbone_rope_base": backbone["rope_theta"], "backbone_rope_scaling": _scaling(backbone),
            "segmenter_options": {"max_bytes": config["max_word_size"]}, "specials": dict(config["special_token_dict"]),
            "eps": encoder["rms_norm_eps"],
        }  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"config lacks what a HAT has: {error}") from None


def _scaling(config: Mapping[str, Any]) -> dict[str, float] | None:
    found = config.get("rope_scaling")
    if not found or found.get("rope_type", found.get("type")) in (None, "default"):
        return None
    if found.get("rope_type", found.get("type")) != "llama3":
        raise ValueError(f"config: rope_scaling must be of Llama 3, got {found}")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {name: found[name] for name in names}


def from_published(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under our keys."""
    tensors = {_ours(key): tensor for key, tensor in published.items()}
    return {key: t.flatten() if key in ("first", "connector.latent") else t for key, t in tensors.items()}


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the published keys."""
    lifted = {key: t[None, None] if key in ("first", "connector.latent") else t for key, t in tensors.items()}
    return {_theirs(key): tensor for key, tensor in lifted.items()}


def _ours(key: str) -> str:
    if key in _WHOLE:
        return _WHOLE[key]
    for old, (new, names) in _STACKS.items():
        if found := re.fullmatch(rf"{re.escape(old)}(\d+)\.(.+)\.weight", key):
            number, layer = found.groups()
            if layer.startswith(_LLAMA):
                new, names, layer = "decoder.blocks.", _SELF, layer.removeprefix(_LLAMA)
            return f"{new}{number}.{names.get(layer, layer)}.weight"
    return key


def _theirs(key: str) -> str:
    whole = {new: old for old, new in _WHOLE.items()}
    if key in whole:
        return whole[key]
    for old, new, names in (
        *((old, new, names) for old, (new, names) in _STACKS.items()),
        ("decoder.decoder_layers.", "decoder.blocks.", _SELF),
    ):
        if found := re.fullmatch(rf"{re.escape(new)}(\d+)\.(.+)\.weight", key):
            number, layer = found.groups()
            inner = _LLAMA if new == "decoder.blocks." else ""
            back = {ours: theirs for theirs, ours in names.items()}
            return f"{old}{number}.{inner}{back[layer]}.weight"
    return key
