"""Mimi checkpoints of the original program (``moshi``) to ours, keys as in kyutai's ``tokenizer-*.safetensors``.

Beyond names: queries, keys and values lie in one matrix, and rotary positions turn neighbouring pairs of a head's features
where ``transformers`` turns its two halves, so rows of queries and keys are reordered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from tokenizers_mm.audio.pretrained.mimi import Mimi
from tokenizers_mm.pretrained import PREFIX
from tokenizers_mm.published import fit, read_checkpoint
from tokenizers_mm.weights import read_config

# Original key -> the library's: substitutions, applied in this order. Older files name attention and codebooks differently.
RENAMED = (
    (r"(\.conv|\.convtr)+\.", ".conv."),
    (r"^encoder\.model\.", "encoder.layers."),
    (r"^decoder\.model\.", "decoder.layers."),
    (r"^(encoder|decoder)_transformer\.transformer\.", r"\1_transformer."),
    (r"\.self_attn\.(out_projs\.0|out_proj)\.", ".self_attn.o_proj."),
    (r"\.self_attn\.(in_projs\.0\.|in_proj\.|in_proj_)weight$", ".self_attn.in_proj.weight"),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"^quantizer\.rvq_first\.(vq\.)?", "quantizer.semantic_residual_vector_quantizer."),
    (r"^quantizer\.rvq_rest\.(vq\.)?", "quantizer.acoustic_residual_vector_quantizer."),
    (r"\._codebook\.(_initialized|inited)$", ".codebook.initialized"),
    (r"\._codebook\.(cluster_usage|cluster_size)$", ".codebook.cluster_usage"),
    (r"\._codebook\.(embedding_sum|embed_sum|embed_avg)$", ".codebook.embed_sum"),
)
PACKED = ".self_attn.in_proj.weight"


def convert_mimi(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a Mimi checkpoint of the original program into a folder that ``Mimi.from_pretrained`` loads.

    Args:
        source: ``tokenizer-*.safetensors``, or a PyTorch checkpoint with the same keys under ``model``.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: JSON with ``Mimi``'s arguments, for another network than the published one.
        allow_pickle: Load a checkpoint that holds more than tensors and plain values. This can run any code that the file
            carries: only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` or ``config`` is not a file.
        ValueError: If the file cannot be read safely, ``config`` is not such a JSON, or keys are missing, unknown or of the
            wrong shape.

    Source:
        https://github.com/kyutai-labs/moshi
    """
    tensors = read_checkpoint(source, allow_pickle=allow_pickle, keys=("model", "state_dict"))
    arguments = {} if config is None else read_config(Path(config))
    arguments.pop("class", None)
    if unknown := arguments.keys() - {"num_codebooks", "network"}:
        raise ValueError(
            f"{config} must hold arguments of Mimi (num_codebooks, network), got {', '.join(sorted(unknown))}"
        )
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        codec = Mimi(**arguments)
    renamed = {PREFIX + key: t for key, t in codec._from_hub(rename(tensors, codec.heads)).items()}
    codec.load_state_dict(fit(renamed, codec.state_dict(), "Mimi"), assign=True)
    codec.save_pretrained(output)
    return Path(output)


def rename(tensors: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Weights of the original program in the hub's layout; keys that it never wrote keep their names.

    Args:
        tensors: The original's.
        heads: Attention heads, which the weights do not tell.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        if key.endswith(PACKED) and tensor.ndim == 2 and not tensor.shape[0] % (6 * heads):
            layer = key.removesuffix("in_proj.weight")
            q, k, v = tensor.chunk(3)
            renamed |= {f"{layer}q_proj.weight": _halves(q, heads), f"{layer}k_proj.weight": _halves(k, heads)}
            renamed[f"{layer}v_proj.weight"] = v
        else:
            renamed[key] = tensor
    return renamed


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from pairs ``(0, 1), (2, 3), ...`` to first members, then second ones."""
    return rearrange(weight, "(h d two) n -> (h two d) n", h=heads, two=2)
