"""Published TOTEM tokenizers (SaberaTalukder/TOTEM) to ours and back.

They are whole modules, pickled: reading one needs the consent that :func:`tokenizers_mm.published.read_checkpoint` asks for, and
their package on the path. A state dict (``torch.save(model.state_dict(), ...)`` where that package is) needs neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tokenizers_mm.published import fit, read_checkpoint, refuse
from tokenizers_mm.timeseries.totem import STRIDES, TOTEM

_DOWN = {
    4: ("_conv_1", "_conv_2"),
    8: ("_conv_1", "_conv_2", "_conv_A"),
    12: ("_conv_1", "_conv_2", "_conv_3"),
    16: ("_conv_1", "_conv_2", "_conv_A", "_conv_B"),
}
_UP = {
    4: ("_conv_trans_1", "_conv_trans_2"),
    8: ("_conv_trans_A", "_conv_trans_1", "_conv_trans_2"),
    12: ("_conv_trans_2", "_conv_trans_3", "_conv_trans_4"),
    16: ("_conv_trans_A", "_conv_trans_B", "_conv_trans_1", "_conv_trans_2"),
}


def convert_totem(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a published tokenizer's state dict into a folder that ``TOTEM.from_pretrained`` loads.

    Args:
        source: Checkpoint with its state dict, or ``.safetensors`` with the same keys.
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
        https://github.com/SaberaTalukder/TOTEM
    """
    codec = from_published(read_checkpoint(source, allow_pickle=allow_pickle))
    codec.save_pretrained(output)
    return Path(output)


def from_published(tensors: Mapping[str, Tensor]) -> TOTEM:
    """The codec of a published state dict, in evaluation mode.

    Raises:
        ValueError: If keys are missing, unknown or of the wrong shape.
    """
    factor = _factor(tensors)
    needed = ("vq._embedding.weight", "encoder._conv_2.weight", "encoder._residual_stack._layers.0._block.1.weight")
    refuse({"missing keys": [key for key in needed if key not in tensors]}, "TOTEM")
    codes, hidden = tensors["vq._embedding.weight"], len(tensors["encoder._conv_2.weight"])
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        codec = TOTEM(
            factor=factor,
            hidden=hidden,
            residual_width=len(tensors["encoder._residual_stack._layers.0._block.1.weight"]),
            blocks=len(
                {m[1] for key in tensors if (m := re.match(r"encoder\._residual_stack\._layers\.(\d+)\.", key))}
            ),
            latent_dim=codes.shape[1],
            quantizer={"kind": "gradient_vq", "codebook_size": len(codes), "commitment_weight": 0.25},
        )
    names = _names(codec)
    renamed = {names.get(key, key): tensor for key, tensor in tensors.items()}
    codec.load_state_dict(fit(renamed, codec.state_dict(), "TOTEM"), assign=True)
    return codec.eval()


def to_published(codec: TOTEM) -> dict[str, Tensor]:
    """A state dict under the published names.

    Raises:
        ValueError: If the quantizer is not the published one.
    """
    names = {ours: theirs for theirs, ours in _names(codec).items()}
    state = codec.state_dict()
    if unknown := sorted(key for key in state if key not in names):
        raise ValueError(f"only codecs with the published quantizer have published names, this one has {unknown}")
    return {names[key]: tensor.clone() for key, tensor in state.items()}


def _names(codec: TOTEM) -> dict[str, str]:
    """Published key to ours."""
    pairs = {"encoder._pre_vq_conv": "encoder.project", "decoder._conv_1": "decoder.conv"}
    pairs[f"encoder.{'_conv_4' if codec.factor == 12 else '_conv_3'}"] = "encoder.conv"
    pairs |= {f"encoder.{name}": f"encoder.down.{i}" for i, name in enumerate(_DOWN[codec.factor])}
    pairs |= {f"decoder.{name}": f"decoder.up.{i}" for i, name in enumerate(_UP[codec.factor])}
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in pairs.items() for kind in ("weight", "bias")}
    for half in ("encoder", "decoder"):
        for i in range(len(codec.encoder.blocks) - 1):
            for theirs, ours in (("1", "conv1"), ("3", "conv2")):
                names[f"{half}._residual_stack._layers.{i}._block.{theirs}.weight"] = f"{half}.blocks.{i}.{ours}.weight"
    return {**names, "vq._embedding.weight": "quantizer.codebook.weight"}


def _factor(tensors: Mapping[str, Tensor]) -> int:
    """Told from the names of the encoder's convolutions."""
    found = {key.split(".")[1] for key in tensors if key.startswith("encoder._conv_")}
    for factor in STRIDES:
        if found == {*_DOWN[factor], "_conv_4" if factor == 12 else "_conv_3"}:
            return factor
    raise ValueError(f"the checkpoint does not fit TOTEM: its encoder has {sorted(found)}")
