"""Published hypernetworks (benjamin/zett-hypernetwork-*) to ours: ``mmtok convert hypernetwork``.

The one vector that theirs adds at every position (a type) moves into our table of positions; the embeddings of a vocabulary that
is never read go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.published import fit, read_checkpoint
from tokenizers_mm.text.hypernetwork import Hypernetwork
from tokenizers_mm.weights import CONFIG, read_config

_LACKING = (
    "hn_add_inter_token_attention",
    "hn_concat_last_hidden_state",
    "hn_embed_target_priors",
    "hn_single_head",
)
_LAYER = {
    "attention.output.dense": "self_attn.out_proj", "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1", "output.dense": "linear2", "output.LayerNorm": "norm2",
}  # fmt: skip
_EMBEDDINGS = "model.embeddings."
_HEAD_WIDTH = 64  # of networks that do not say how many heads they have


def convert_hypernetwork(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a published hypernetwork into a folder that ``Hypernetwork.from_pretrained`` loads.

    Args:
        source: Its ``model.safetensors``.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: Its ``config.json``; by default the one beside ``source``.
        allow_pickle: Load a file that holds more than tensors and plain values. This can run any code that the file carries:
            only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is of a variant that ours does not have, or its weights are not what its configuration says.
    """
    published = read_checkpoint(source, allow_pickle=allow_pickle)
    options = options_of(read_config(Path(config) if config is not None else Path(source).parent / CONFIG))
    tensors = from_published(published)
    with torch.device("meta"):
        network = Hypernetwork(**options, positions=len(tensors["position_embeddings.weight"]))
    network.load_state_dict(fit(tensors, network.state_dict(), "a hypernetwork"), assign=True)
    network.save_pretrained(output)
    return Path(output)


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`Hypernetwork` but ``positions`` from a published configuration.

    Raises:
        ValueError: If a key is missing, or it is of a variant that ours does not have.
    """
    if found := [key for key in _LACKING if config.get(key)]:
        raise ValueError(f"config: {found[0]} is of a variant that Hypernetwork does not have")
    for key, wanted in (("hn_model_type", "roberta"), ("hn_embed_using_source_embeddings", True)):
        if config.get(key, wanted) != wanted:
            raise ValueError(f"config: {key} must be {wanted!r}, got {config[key]!r}")
    if not config.get("hn_rescale_embeddings"):
        raise ValueError("config: hn_rescale_embeddings must be true, Hypernetwork always has scalers")
    try:
        hidden = config["hn_hidden_size"]
        return {
            "dim": config["n_embd"], "vocabulary_size": config["original_vocab_size"], "hidden": hidden,
            "intermediate": config["hn_intermediate_size"], "layers": config["hn_n_layers"],
            "heads": config.get("hn_num_attention_heads") or hidden // _HEAD_WIDTH,
            "surface_length": config["hn_surface_maxlen"], "extra_tokens": config["hn_n_extra_tokens"],
            "tied": not config.get("separate_out_embeddings", False),
            "languages": config["n_langs"] if config.get("hn_embed_lang_id") else 0,
        }  # fmt: skip
    except KeyError as error:
        raise ValueError(f"config lacks {error}") from None


def from_published(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under our keys.

    Raises:
        ValueError: If the table of positions or the type is missing.
    """
    tensors = {_ours(key): tensor for key, tensor in published.items()}
    names = ("position_embeddings.weight", "token_type_embeddings.weight")
    if missing := [name for name in names if _EMBEDDINGS + name not in published]:
        raise ValueError(f"the checkpoint lacks {_EMBEDDINGS}{missing[0]}")
    tensors["position_embeddings.weight"] = tensors[names[0]] + tensors.pop(names[1])[0]
    tensors.pop("word_embeddings.weight", None)
    tensors.pop("position_ids", None)  # older files count them out
    for layer in {found[1] for key in tensors if (found := re.match(r"encoder\.(\d+)\.", key))}:
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"encoder.{layer}.{name}.{kind}") for name in ("query", "key", "value")]
            tensors[f"encoder.{layer}.self_attn.in_proj_{kind}"] = torch.cat(parts)
    return tensors


def _ours(key: str) -> str:
    if key.startswith(_EMBEDDINGS):
        return key.removeprefix(_EMBEDDINGS).replace("LayerNorm.", "norm.")
    found = re.fullmatch(r"model\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", key)
    if not found:
        return key
    number, name, kind = found.groups()
    return f"encoder.{number}.{_LAYER.get(name, name.removeprefix('attention.self.'))}.{kind}"
