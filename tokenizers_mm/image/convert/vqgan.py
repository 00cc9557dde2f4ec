"""Published tokenizers of VQGAN's architecture to ours: taming-transformers, LlamaGen, IBQ, Janus and VAR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.codec import Codec
from tokenizers_mm.image.convert.layouts import averaged, network_arguments, ours
from tokenizers_mm.image.var import VARTokenizer
from tokenizers_mm.image.vqgan import VQGAN
from tokenizers_mm.published import fit, read_checkpoint, refuse

_JANUS = ("model.vqmodel.", "vqmodel.")
_PROJECTIONS = {"quant_conv": "quantizer.project_in", "post_quant_conv": "quantizer.project_out"}


def convert_taming(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a checkpoint of taming-transformers (``last.ckpt``) into a folder that ``VQGAN.from_pretrained`` loads.

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
        https://github.com/CompVis/taming-transformers
    """
    # The published trainer put its beta of 0.25 on the codebook's term, not on the commitment.
    legacy = {"kind": "gradient_vq", "commitment_weight": 1.0, "codebook_weight": 0.25}
    return _vqgan(ours(read_checkpoint(source, allow_pickle=allow_pickle)), legacy, output, "taming's VQGAN")


def convert_llamagen(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn LlamaGen's ``vq_ds16_*.pt`` or ``vq_ds8_*.pt`` into a folder; arguments and errors as in :func:`convert_taming`.

    The weight average is taken where the file has one.

    Source:
        https://github.com/FoundationVision/LlamaGen
    """
    tensors = read_checkpoint(source, allow_pickle=allow_pickle, keys=("ema", "model", "state_dict"))
    return _vqgan(ours(tensors), {"kind": "gradient_vq", "normalise": True}, output, "LlamaGen's VQ")


def convert_janus(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn the image tokenizer inside a Janus of ``transformers`` into a folder; errors as in :func:`convert_taming`.

    Args:
        source: ``.safetensors`` of ``JanusVQVAE``, or a shard of the whole model that has all of it.

    Source:
        https://huggingface.co/deepseek-community/Janus-Pro-1B
    """
    tensors = read_checkpoint(source, allow_pickle=allow_pickle)
    for prefix in _JANUS:
        if inside := {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}:
            tensors = inside
            break
    return _vqgan(ours(tensors), {"kind": "gradient_vq", "normalise": True}, output, "Janus's VQ")


def convert_ibq(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a checkpoint of IBQ (``imagenet256_*.ckpt``) into a folder; arguments and errors as in :func:`convert_taming`.

    The weight average is taken where the file has one, the codebook's included.

    Source:
        https://github.com/TencentARC/SEED-Voken
    """
    tensors = averaged(read_checkpoint(source, allow_pickle=allow_pickle))
    return _vqgan(ours(tensors), {"kind": "ibq"}, output, "IBQ")


def convert_var(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn VAR's ``vae_ch160v4096z32.pth`` into a folder that ``VARTokenizer.from_pretrained`` loads.

    Arguments and errors are those of :func:`convert_taming`; the scales are those of 256x256 pixels, which the file doesn't hold.

    Source:
        https://github.com/FoundationVision/VAR
    """
    renamed = {_var_name(key): t for key, t in ours(read_checkpoint(source, allow_pickle=allow_pickle)).items()}
    arguments = network_arguments(renamed)
    codebook = codebook_of(renamed, "quantizer.codebook.weight", "VAR's tokenizer")
    arguments |= {
        "codebook_size": len(codebook),
        "refinements": len({key.split(".")[2] for key in renamed if key.startswith("quantizer.refinements.")}),
    }
    return save_converted(VARTokenizer, arguments, renamed, output, "VAR's tokenizer")


def _vqgan(tensors: Mapping[str, Tensor], quantizer: Mapping[str, Any], output: str | Path, family: str) -> Path:
    codebook = codebook_of(tensors, "codebook", family)
    own_codebook = "quantizer.codebook" if quantizer["kind"] == "ibq" else "quantizer.codebook.weight"
    renamed = {own_codebook if key == "codebook" else _project(key): t for key, t in tensors.items()}
    arguments = network_arguments(tensors)
    arguments["quantizer"] = {**quantizer, "codebook_size": len(codebook), "codebook_dim": codebook.shape[1]}
    flat = {k: t.flatten(1) if k.startswith("quantizer.project") and t.ndim == 4 else t for k, t in renamed.items()}
    return save_converted(VQGAN, arguments, flat, output, family)


def save_converted(
    codec_class: type[Codec],
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    output: str | Path,
    family: str,
) -> Path:
    """Write published weights under our names as a folder that ``load`` reads.

    Args:
        codec_class: Whose they are.
        arguments: Its ``__init__`` arguments.
        tensors: The weights.
        output: The folder.
        family: What they should be, for messages.

    Raises:
        ValueError: If keys are missing, unknown or of the wrong shape.
    """
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        codec = codec_class(**arguments)
    codec.load_state_dict(fit(tensors, codec.state_dict(), family), assign=True)
    codec.save_pretrained(output)
    return Path(output)


def codebook_of(tensors: Mapping[str, Tensor], key: str, family: str) -> Tensor:
    """The codebook ``[K, D]``; raises ``ValueError`` if there is none under that key."""
    if key not in tensors or tensors[key].ndim != 2:
        refuse({"missing keys": ["quantize.embedding.weight [K, D]"]}, family)
    return tensors[key]


def _project(key: str) -> str:
    layer, _, kind = key.partition(".")
    return f"{_PROJECTIONS[layer]}.{kind}" if layer in _PROJECTIONS else key


def _var_name(key: str) -> str:
    if key == "codebook":
        return "quantizer.codebook.weight"
    return (
        key.replace("post_quant_conv.", "project_out.")
        .replace("quant_conv.", "project_in.")
        .replace("quantize.quant_resi.qresi_ls.", "quantizer.refinements.")
    )
