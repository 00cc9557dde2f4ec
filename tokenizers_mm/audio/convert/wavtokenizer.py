"""Published WavTokenizer checkpoints to ours.

The published files are Lightning checkpoints: a pickled mapping with the weights under ``state_dict``,
beside those of discriminators and of an unused decoder. Sizes are read from the weights, so any strides convert.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tokenizers_mm.audio.wavtokenizer import WavTokenizer
from tokenizers_mm.published import first_line, read_checkpoint, refuse

SAMPLE_RATE = 24000
ENCODER = "feature_extractor.encodec.encoder.model"
CODEBOOK = "feature_extractor.encodec.quantizer.vq.layers.0._codebook"

# Keys that a published file may hold and that encoding and decoding do not need.
DROPPED = (
    "feature_extractor.encodec.decoder.",  # SEANet decoder, never called
    "head.istft.window",  # a Hann window, computed
    "melspec_loss.",
    "multiperioddisc.",
    "multiresddisc.",
    "dac.",
    "dacdiscriminator.",
)

# Our key -> the published one: substitutions, applied in this order.
RENAMED = (
    (r"^encoder\.layers\.(\d+)\.inner\.conv\.", rf"{ENCODER}.\1.block.1.conv.conv."),
    (r"^encoder\.layers\.(\d+)\.outer\.conv\.", rf"{ENCODER}.\1.block.3.conv.conv."),
    (r"^encoder\.layers\.(\d+)\.shortcut\.conv\.", rf"{ENCODER}.\1.shortcut.conv.conv."),
    (r"^encoder\.layers\.(\d+)\.conv\.", rf"{ENCODER}.\1.conv.conv."),
    (r"^encoder\.layers\.", f"{ENCODER}."),
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
    (r"^quantizer\.stages\.0\._codebook\.initted$", f"{CODEBOOK}.inited"),
    (r"^quantizer\.stages\.0\._codebook\.", f"{CODEBOOK}."),
    (r"^backbone\.embed\.conv\.", "backbone.embed."),
    (r"^backbone\.front\.norm\.", "backbone.pos_net.5."),
    (r"^backbone\.front\.layers\.(\d+)\.(conv[12])\.conv\.", r"backbone.pos_net.\1.\2."),
    (r"^backbone\.front\.layers\.", "backbone.pos_net."),
    (r"\.dwconv\.conv\.", ".dwconv."),
)


def convert_wavtokenizer(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, allow_pickle: bool = False
) -> Path:
    """Turn a published WavTokenizer checkpoint into a folder that ``WavTokenizer.from_pretrained`` loads.

    Args:
        source: ``.ckpt`` of Lightning, or ``.safetensors`` with the same keys.
        output: Folder to write ``config.json`` and ``model.safetensors`` to.
        config: The checkpoint's YAML, to check the weights against; by default the one beside ``source`` that has its
            name, if any. Only sizes are read from it.
        allow_pickle: Load a ``.ckpt`` that holds more than tensors and plain values. This can run any code that the
            file carries: only for files whose author you trust.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If ``source`` or ``config`` is not a file.
        ValueError: If the file cannot be read safely, keys are missing, unknown or of the wrong shape, or the YAML
            disagrees.

    Source:
        https://github.com/jishengpeng/WavTokenizer
    """
    source, output = Path(source), Path(output)
    tensors = read_checkpoint(source, allow_pickle=allow_pickle)
    arguments = infer_arguments(tensors)
    config = _find_yaml(source) if config is None else Path(config)
    if config is not None:
        check_yaml(config, arguments)
    with torch.device("meta"):  # only its keys and shapes matter, the values all come from the file
        codec = WavTokenizer(**arguments)
    codec.load_state_dict(rename(tensors, codec.state_dict()), assign=True)
    codec.save_pretrained(output)
    return output


def infer_arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of ``WavTokenizer`` that weights in the published layout call for.

    Raises:
        ValueError: If a layer that decides them is missing or no published layer has its shape.
    """

    def size(key: str, axis: int, ndim: int) -> int:
        if key not in tensors:
            raise ValueError(f"not a WavTokenizer checkpoint: missing key {key}")
        if tensors[key].ndim != ndim:
            raise ValueError(f"{key} must have {ndim} dimensions, got {list(tensors[key].shape)}")
        return tensors[key].shape[axis]

    # Layers 3, 6, 9, ... are the strided convolutions, each with a kernel of two strides; the LSTM follows the last.
    at_lstm = [int(m[1]) for key in tensors if (m := re.match(rf"{re.escape(ENCODER)}\.(\d+)\.lstm\.", key))]
    if not at_lstm:
        raise ValueError(f"not a WavTokenizer checkpoint: missing keys {ENCODER}.<layer>.lstm.*")
    kernels = [size(f"{ENCODER}.{i}.conv.conv.weight_v", 2, ndim=3) for i in range(3, max(at_lstm), 3)]
    if not kernels or any(k % 2 for k in kernels):
        raise ValueError(f"the encoder's strided convolutions must have kernels of two strides, got {kernels}")
    strides = [kernel // 2 for kernel in kernels]
    n_fft = size("head.out.weight", 0, ndim=2) - 2
    if n_fft != 4 * math.prod(strides):
        raise ValueError(
            f"head.out.weight must have {4 * math.prod(strides) + 2} rows for strides {strides}, got {n_fft + 2}"
        )
    return {
        "sample_rate": SAMPLE_RATE,
        "strides": strides,
        "encoder": "seanet",
        "quantizer": {"kind": "vq", "codebook_size": size(f"{CODEBOOK}.embed", 0, ndim=2)},
        "encoder_dim": size("backbone.embed.weight", 1, ndim=3),
        "n_filters": size(f"{ENCODER}.0.conv.conv.weight_v", 0, ndim=3),
        "dim": size("backbone.embed.weight", 0, ndim=3),
        "intermediate_dim": size("backbone.convnext.0.pwconv1.weight", 0, ndim=2),
        "layers": len({key.split(".")[2] for key in tensors if key.startswith("backbone.convnext.")}),
        "num_embeddings": size("backbone.norm.scale.weight", 0, ndim=2),
    }


def rename(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under our keys, in the shapes and types of ``own``, a state dict of ours.

    Raises:
        ValueError: Naming every key that is missing, unknown or of the wrong shape.
    """
    published = {key: _published_name(key) for key in own}
    known = set(published.values())
    missing = sorted(known - tensors.keys())
    unknown = sorted(key for key in tensors if key not in known and not key.startswith(DROPPED))
    wrong = [
        f"{name}: expected {wanted}, got {list(tensors[name].shape)}"
        for key, name in published.items()
        if name in tensors and list(tensors[name].shape) != (wanted := _published_shape(name, own[key]))
    ]
    refuse({"missing keys": missing, "unknown keys": unknown, "wrong shapes": wrong}, "WavTokenizer")
    return {
        key: tensors[name].detach().reshape(own[key].shape).to(own[key].dtype).contiguous()
        for key, name in published.items()
    }


def _published_name(key: str) -> str:
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _published_shape(name: str, own: Tensor) -> list[int]:
    """Our codebook has a leading axis of heads, and a flag without axes."""
    if not name.startswith(CODEBOOK):
        return list(own.shape)
    return list(own.shape[1:]) if own.ndim else [1]


def _find_yaml(source: Path) -> Path | None:
    return next((path for suffix in (".yaml", ".yml") if (path := source.with_suffix(suffix)).is_file()), None)


def check_yaml(path: Path, arguments: Mapping[str, Any]) -> None:
    """Compare a published configuration with what the weights say. Class paths in it are never imported.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the YAML of a WavTokenizer, or a size differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config must be a YAML file, got {path}")
    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]
        given = {part: dict(parts[part]["init_args"]) for part in ("feature_extractor", "backbone", "head")}
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must hold model.init_args.<part>.init_args for the parts feature_extractor, backbone and head; "
            f"reading that failed with {type(error).__name__}: {first_line(error)}"
        ) from None
    hop = math.prod(arguments["strides"])
    weights = {
        "feature_extractor": {
            "dowmsamples": arguments["strides"][::-1],  # spelt so upstream, last stage first
            "vq_bins": arguments["quantizer"]["codebook_size"],
            "num_quantizers": 1,
        },
        "backbone": {
            "input_channels": arguments["encoder_dim"],
            "dim": arguments["dim"],
            "intermediate_dim": arguments["intermediate_dim"],
            "num_layers": arguments["layers"],
            "adanorm_num_embeddings": arguments["num_embeddings"],
        },
        "head": {"dim": arguments["dim"], "n_fft": 4 * hop, "hop_length": hop, "padding": "same"},
    }
    differing = [
        f"{part}.{key}: expected {value}, got {given[part][key]}"
        for part, values in weights.items()
        for key, value in values.items()
        if key in given[part] and given[part][key] != value
    ]
    if differing:
        raise ValueError(f"{path} is not the configuration of these weights: {'; '.join(differing)}")
