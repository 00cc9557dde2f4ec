"""Published TFM-Tokenizer and TFM-Encoder to ours: convolutions over patches as products, queries, keys and values as one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.eeg.tfm import TFMTokenizer
from tokenizers_mm.eeg.tfm_encoder import TFMEncoder
from tokenizers_mm.published import fit, read_checkpoint, refuse

_LAYER = (
    (r"\.0\.norm\.", ".norm1."),
    (r"\.1\.norm\.", ".norm2."),
    (r"\.0\.fn\.to_out\.", ".attention.out."),
    (r"\.1\.fn\.fn\.w1\.", ".mlp.0."),
    (r"\.1\.fn\.fn\.w2\.", ".mlp.1."),
)
_TRANSFORMERS = {
    "trans_freq_encoder.transformer.layers.layers.": "frequency.transformer.layers.",
    "trans_temporal_encoder.transformer.layers.layers.": "encoder.layers.",
    "trans_decoder.transformer.layers.layers.": "decoder.layers.",
}
_EMBEDDINGS = {"freq_patch_embedding.": "frequency.embedding.", "temporal_patch_embedding.": "time.embedding."}
GATE, VALUE = "freq_patch_embedding_2_atten.0", "freq_patch_embedding_2.0"
_CODEBOOK = "quantizer.stages.0._codebook."


def convert_tfm(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn ``tfm_tokenizer_last.pth`` into a folder that ``TFMTokenizer.from_pretrained`` loads.

    Args:
        source: Checkpoint, or ``.safetensors`` with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: Not needed: every size is read from the weights, but for the 8 heads that all published ones have.
        allow_pickle: Load a file that holds more than tensors and plain values. This can run any code that the file carries:
            only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` is not a file.
        ValueError: If the file cannot be read safely, or keys are missing, unknown or of the wrong shape.

    Source:
        https://github.com/Jathurshan0330/TFM-Tokenizer
    """
    tensors = read_checkpoint(source, allow_pickle=allow_pickle)
    needed = ("quantizer.embedding.weight", GATE + ".weight", GATE + ".bias", VALUE + ".weight", VALUE + ".bias")
    refuse({"missing keys": [key for key in needed if key not in tensors]}, "TFM-Tokenizer")
    renamed = {
        tokenizer_name(key): _flat(key, t) for key, t in fused(tensors).items() if GATE not in key and VALUE not in key
    }
    for kind in ("weight", "bias"):
        gate, value = tensors[f"{GATE}.{kind}"], tensors[f"{VALUE}.{kind}"]
        parts = [t.permute(0, 2, 1).flatten(1) if t.ndim == 3 else t for t in (gate, value)]
        renamed[f"frequency.aggregation.{kind}"] = torch.cat(parts)
    for name in ("embed", "embed_avg", "cluster_size"):
        if _CODEBOOK + name in renamed:
            renamed[_CODEBOOK + name] = renamed[_CODEBOOK + name][None]
    renamed[_CODEBOOK + "initted"] = torch.tensor(True)
    codebook = tensors["quantizer.embedding.weight"]
    depths: dict[str, Any] = {f"{name}_layers": _layers(renamed, prefix) for name, prefix in _DEPTHS.items()}
    codec = TFMTokenizer(
        quantizer={"kind": "vq", "codebook_size": len(codebook)},
        dim=codebook.shape[1],
        **depths,
    )
    codec.load_state_dict(fit(renamed, codec.state_dict(), "TFM-Tokenizer"))
    codec.save_pretrained(output)
    return Path(output)


_DEPTHS = {"frequency": "frequency.transformer.layers.", "time": "encoder.layers.", "decoder": "decoder.layers."}


def convert_tfm_encoder(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn ``tfm_encoder_best_model.pth`` or ``tfm_encoder_mtp_last.pth`` into a folder for ``TFMEncoder.from_pretrained``.

    Arguments and errors are those of :func:`convert_tfm`.

    Source:
        https://github.com/Jathurshan0330/TFM-Tokenizer
    """
    tensors = read_checkpoint(source, allow_pickle=allow_pickle)
    needed = ("eeg_token_embedding.weight", "channel_embed.weight", "classification_head.weight")
    refuse({"missing keys": [key for key in needed if key not in tensors]}, "TFM-Encoder")
    # position codes are computed, and the channels' numbers are 0 to 15 in every file
    renamed = {_encoder_name(k): t for k, t in fused(tensors).items() if k not in ("index", "temporal_pos_embed.pe")}
    tokens, dim = tensors["eeg_token_embedding.weight"].shape
    encoder = TFMEncoder(
        num_classes=len(tensors["classification_head.weight"]),
        codebook_size=tokens - 1,
        channels=len(tensors["channel_embed.weight"]),
        dim=dim,
        layers=_layers(renamed, "transformer.layers."),
    )
    encoder.load_state_dict(fit(renamed, encoder.state_dict(), "TFM-Encoder"))
    encoder.save_pretrained(output)
    return Path(output)


def fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the query, key and value projections of each attention as one.

    Raises:
        ValueError: If one of the three is missing.
    """
    out: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found = re.fullmatch(r"(.+)\.0\.fn\.to_([qkv])\.weight", key)
        if not found:
            out[key] = tensor
        elif found[2] == "q":
            parts = [f"{found[1]}.0.fn.to_{name}.weight" for name in "qkv"]
            refuse({"missing keys": [part for part in parts if part not in tensors]}, "linear attention")
            out[f"{found[1]}.attention.qkv.weight"] = torch.cat([tensors[part] for part in parts])
    return out


def _flat(key: str, tensor: Tensor) -> Tensor:
    """A convolution over patches as a matrix."""
    return tensor.flatten(1) if key.startswith(tuple(_EMBEDDINGS)) and tensor.ndim == 3 else tensor


def tokenizer_name(key: str) -> str:
    """Our name of a published key; of parts that are one tensor here, what is left of it."""
    for theirs, mine in _TRANSFORMERS.items():
        if key.startswith(theirs):
            return _layer_name(mine + key.removeprefix(theirs))
    for theirs, mine in _EMBEDDINGS.items():
        if found := re.fullmatch(re.escape(theirs) + r"(\d+)\.(weight|bias)", key):
            index, norm = divmod(int(found[1]), 3)
            return f"{mine}{'norms' if norm else 'linears'}.{index}.{found[2]}"
    if key.startswith("quantizer."):
        return _CODEBOOK + {"embedding.weight": "embed", "ema_w": "embed_avg"}.get(key[10:], key[10:])
    return re.sub(r"^decoder\.", "head.", key)


def _encoder_name(key: str) -> str:
    if key.startswith("LAT.layers.layers."):
        return _layer_name("transformer.layers." + key.removeprefix("LAT.layers.layers."))
    return (
        key.replace("eeg_token_embedding.", "token_embedding.")
        .replace("channel_embed.", "channel_embedding.")
        .replace("classification_head.", "head.")
    )


def _layer_name(key: str) -> str:
    for pattern, replacement in _LAYER:
        key = re.sub(pattern, replacement, key)
    return key


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)})
