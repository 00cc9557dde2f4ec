"""Published Vocos decoders of EnCodec tokens to ours.

The published files are ``config.yaml`` and ``pytorch_model.bin``, a plain state dict without EnCodec's encoder, which therefore
has to come from EnCodec's own weights. Class paths in the configuration are compared, never imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tokenizers_mm.audio.pretrained.encodec import Encodec
from tokenizers_mm.audio.vocos import Vocos
from tokenizers_mm.published import first_line, fit, read_checkpoint

WEIGHTS, CONFIG = "pytorch_model.bin", "config.yaml"
ENCODEC = Path("encodec", "model.safetensors")
CODEBOOKS = "feature_extractor.codebook_weights"
DROPPED = ("head.istft.window", "feature_extractor.encodec.")  # a computed window, and EnCodec where a file repeats it


def convert_vocos(
    source: str | Path,
    output: str | Path,
    *,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    encodec: str | Path | None = None,
) -> Path:
    """Turn a published Vocos decoder into a folder that ``Vocos.from_pretrained`` loads.

    Args:
        source: ``pytorch_model.bin``, a safetensors file with the same keys, or the folder that holds ``pytorch_model.bin``.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: The published ``config.yaml``; by default the one beside the weights.
        allow_pickle: Load a file that holds more than tensors. This can run any code that the file carries: only for files
            whose author you trust.
        encodec: EnCodec's 24 kHz weights, a safetensors file; by default ``encodec/model.safetensors`` beside the weights.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be read safely, the configuration is not that of a decoder of EnCodec tokens, keys are
            missing, unknown or of the wrong shape, or the codebooks are not EnCodec's.

    Source:
        https://github.com/gemelo-ai/vocos
    """
    source, output = Path(source), Path(output)
    source = source / WEIGHTS if source.is_dir() else source
    tensors = read_checkpoint(source, allow_pickle=allow_pickle)
    codec = Vocos(**parse_config(source.parent / CONFIG if config is None else Path(config)))
    path = source.parent / ENCODEC if encodec is None else Path(encodec)
    codec.adopt(_read_encodec(path, codec))
    own = {key: tensor for key, tensor in codec.state_dict().items() if not key.startswith("encodec.")}
    renamed = rename(tensors, own)
    _check_codebooks(renamed.pop(CODEBOOKS, None), codec, path)
    codec.load_state_dict(fit(renamed, own, "Vocos"), strict=False)  # fit has checked both ways; the rest is EnCodec's
    codec.save_pretrained(output)
    return output


def parse_config(path: Path) -> dict[str, Any]:
    """The arguments of :class:`Vocos` that a published configuration calls for.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the configuration of a decoder of 24 kHz EnCodec tokens.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config must be a YAML file, got {path}")
    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = {
            part: parts[part]["class_path"].rpartition(".")[2] for part in ("feature_extractor", "backbone", "head")
        }
        features, backbone, head = (dict(parts[part].get("init_args") or {}) for part in names)
        arguments = {
            "bandwidths": features.get("bandwidths", [1.5, 3.0, 6.0, 12.0]),
            "codebook_dim": backbone["input_channels"],
            "dim": backbone["dim"],
            "intermediate_dim": backbone["intermediate_dim"],
            "layers": backbone["num_layers"],
        }
        wanted = {
            "feature_extractor": (names["feature_extractor"], "EncodecFeatures"),
            "backbone": (names["backbone"], "VocosBackbone"),
            "head": (names["head"], "ISTFTHead"),
            "feature_extractor.encodec_model": (features.get("encodec_model", "encodec_24khz"), "encodec_24khz"),
            "backbone.adanorm_num_embeddings": (backbone.get("adanorm_num_embeddings"), len(arguments["bandwidths"])),
            "head.dim": (head["dim"], backbone["dim"]),
            "head.n_fft": (head["n_fft"], 1280),
            "head.hop_length": (head["hop_length"], 320),
            "head.padding": (head.get("padding", "same"), "same"),
        }
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} must hold class_path and init_args of feature_extractor, backbone and head; "
            f"reading that failed with {type(error).__name__}: {first_line(error)}"
        ) from None
    differing = [f"{key}: expected {right}, got {got}" for key, (got, right) in wanted.items() if got != right]
    if differing:
        raise ValueError(f"{path} is not the configuration of a decoder of EnCodec tokens: {'; '.join(differing)}")
    return arguments


def rename(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under our keys; those that have none keep theirs, for :func:`fit` to refuse."""
    ours = {re.sub(r"(embed|dwconv)\.conv\.", r"\1.", key): key for key in own}
    return {ours.get(key, key): tensor for key, tensor in tensors.items() if not key.startswith(DROPPED)}


def _read_encodec(path: Path, codec: Vocos) -> Encodec:
    if not path.is_file():
        raise FileNotFoundError(
            f"a Vocos checkpoint lacks EnCodec's encoder, and no EnCodec weights are at {path}: "
            f"`hf download facebook/encodec_24khz model.safetensors --local-dir {path.parent}`"
        )
    arguments = {**codec.encodec.config, "num_codebooks": 32}  # as the published file has, whatever Vocos uses
    encodec = Encodec(**arguments)
    encodec.load_weights(path)
    return encodec


def _check_codebooks(published: Tensor | None, codec: Vocos, path: Path) -> None:
    """Refuse codebooks that Vocos trained on, or that belong to another EnCodec: encoding would use different ones."""
    if published is None:
        raise ValueError(f"the checkpoint does not fit Vocos: missing key {CODEBOOKS}")
    own = torch.cat(
        [codebook for key, codebook in codec.encodec.state_dict().items() if key.endswith("codebook.embed")]
    )
    if published.shape != own.shape or not torch.allclose(published.to(own.dtype), own, atol=1e-6):
        raise ValueError(
            f"{CODEBOOKS} are not the codebooks of the EnCodec at {path}: that is not the one it was trained with"
        )
