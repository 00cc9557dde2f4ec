"""Published EEG networks written out from their descriptions, on checkpoints in the published layout."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def randomised(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Tensors of given shapes: norms' weights around 1, others as small as their width asks."""
    random = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        fan = max(1, torch.Size(shape[1:]).numel()) if len(shape) > 1 else 100
        is_norm = len(shape) == 1 and name.endswith("weight")
        out[name] = float(is_norm) + torch.randn(shape, generator=random) * fan**-0.5
    return out


# -- linear attention ------------------------------------------------------------------------------------------------------


def linear_transformer(w: Weights, prefix: str, x: Tensor, heads: int = 8) -> Tensor:
    """Layer by layer, head by head, ``[M, L, D]``; the attention with its matrix of scores ``[L, L]`` written out."""
    depth = len({key[len(prefix) :].split(".")[0] for key in w if key.startswith(prefix)})
    for i in range(depth):
        name = f"{prefix}{i}"
        h = F.layer_norm(x, x.shape[-1:], w[f"{name}.0.norm.weight"], w[f"{name}.0.norm.bias"])
        q, k, v = (h @ w[f"{name}.0.fn.to_{part}.weight"].T for part in "qkv")
        heads_out = []
        for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            scores = (a.softmax(-1) / a.shape[-1] ** 0.5) @ b.softmax(-2).mT
            heads_out.append(scores @ c)
        joined = torch.cat(heads_out, -1)
        x = x + joined @ w[f"{name}.0.fn.to_out.weight"].T + w[f"{name}.0.fn.to_out.bias"]
        h = F.layer_norm(x, x.shape[-1:], w[f"{name}.1.norm.weight"], w[f"{name}.1.norm.bias"])
        h = F.gelu(h @ w[f"{name}.1.fn.fn.w1.weight"].T + w[f"{name}.1.fn.fn.w1.bias"])
        x = x + h @ w[f"{name}.1.fn.fn.w2.weight"].T + w[f"{name}.1.fn.fn.w2.bias"]
    return x


def linear_transformer_shapes(prefix: str, depth: int, dim: int = 64) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        name = f"{prefix}{i}"
        shapes |= {f"{name}.{part}.norm.{kind}": (dim,) for part in (0, 1) for kind in ("weight", "bias")}
        shapes |= {f"{name}.0.fn.to_{part}.weight": (dim, dim) for part in ("q", "k", "v", "out")}
        shapes |= {f"{name}.0.fn.to_out.bias": (dim,), f"{name}.1.fn.fn.w1.weight": (4 * dim, dim)}
        shapes |= {f"{name}.1.fn.fn.w1.bias": (4 * dim,), f"{name}.1.fn.fn.w2.weight": (dim, 4 * dim)}
        shapes |= {f"{name}.1.fn.fn.w2.bias": (dim,)}
    return shapes


# -- TFM-Encoder -----------------------------------------------------------------------------------------------------------


def tfm_encoder_checkpoint(classes: int, tokens: int = 8192) -> dict[str, Tensor]:
    shapes = {
        "cls_token": (1, 1, 64),
        "eeg_token_embedding.weight": (tokens + 1, 64),
        "channel_embed.weight": (16, 64),
        "classification_head.weight": (classes, 64),
        "classification_head.bias": (classes,),
        **linear_transformer_shapes("LAT.layers.layers.", 4),
    }
    angles = torch.arange(1000)[:, None] / 10000 ** (torch.arange(0, 64, 2) / 64)
    positions = torch.zeros(1, 1000, 64)
    positions[0, :, 0::2], positions[0, :, 1::2] = angles.sin(), angles.cos()
    return {**randomised(shapes), "temporal_pos_embed.pe": positions, "index": torch.arange(16)}


def tfm_encoder(w: Weights, ids: Tensor) -> Tensor:
    """Outputs ``[B, 1 + C * T, classes]`` of every place, the recording's own first."""
    rows = [w["cls_token"].expand(len(ids), 1, 64)]
    for c in range(ids.shape[1]):
        tokens = w["eeg_token_embedding.weight"][ids[:, c]]
        rows.append(tokens + w["channel_embed.weight"][c] + w["temporal_pos_embed.pe"][:, : ids.shape[2]])
    x = linear_transformer(w, "LAT.layers.layers.", torch.cat(rows, dim=1))
    return x @ w["classification_head.weight"].T + w["classification_head.bias"]


# -- LaBraM's tokenizer ----------------------------------------------------------------------------------------------------


def labram_checkpoint(encoder: int, decoder: int, codes: int = 50) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"quantize.embedding.weight": (codes, 64)}
    for i, taps in ((1, (8, 1, 1, 15)), (2, (8, 8, 1, 3)), (3, (8, 8, 1, 3))):
        shapes |= {f"encoder.patch_embed.conv{i}.weight": taps, f"encoder.patch_embed.conv{i}.bias": (8,)}
        shapes |= {f"encoder.patch_embed.norm{i}.{kind}": (8,) for kind in ("weight", "bias")}
    shapes |= {"decoder.patch_embed.proj.weight": (200, 64, 1, 1), "decoder.patch_embed.proj.bias": (200,)}
    for part, depth in (("encoder", encoder), ("decoder", decoder)):
        shapes |= {
            f"{part}.cls_token": (1, 1, 200),
            f"{part}.pos_embed": (1, 129, 200),
            f"{part}.time_embed": (1, 16, 200),
        }
        shapes |= {f"{part}.fc_norm.{kind}": (200,) for kind in ("weight", "bias")}
        for i in range(depth):
            block = f"{part}.blocks.{i}"
            shapes |= {f"{block}.norm{n}.{kind}": (200,) for n in (1, 2) for kind in ("weight", "bias")}
            shapes |= {f"{block}.attn.qkv.weight": (600, 200), f"{block}.attn.proj.weight": (200, 200)}
            shapes |= {f"{block}.attn.{name}": (200,) for name in ("q_bias", "v_bias", "proj.bias")}
            shapes |= {f"{block}.mlp.fc1.weight": (800, 200), f"{block}.mlp.fc1.bias": (800,)}
            shapes |= {f"{block}.mlp.fc2.weight": (200, 800), f"{block}.mlp.fc2.bias": (200,)}
    for name, width in (("encode_task_layer", 64), ("decode_task_layer", 200), ("decode_task_layer_angle", 200)):
        shapes |= {f"{name}.0.weight": (200, 200), f"{name}.0.bias": (200,)}
        shapes |= {f"{name}.2.weight": (width, 200), f"{name}.2.bias": (width,)}
    w = randomised(shapes)
    w["quantize.embedding.weight"] = F.normalize(w["quantize.embedding.weight"], dim=-1)
    w |= {"quantize.embedding.embed_avg": w["quantize.embedding.weight"].clone()}
    w |= {"quantize.cluster_size": torch.ones(codes), "quantize.embedding.cluster_size": torch.ones(codes)}
    return w | {"quantize.embedding.initted": torch.tensor([True])}


def labram_features(w: Weights, x: Tensor, rows: list[int]) -> Tensor:
    """Unit vectors ``[B, C * A, 64]`` of signals ``[B, C, A, 200]`` in units of 100 microvolts."""
    h = x.flatten(1, 2)[:, None]
    for i, (stride, pad) in enumerate(((8, 7), (1, 1), (1, 1)), start=1):
        name = f"encoder.patch_embed.{{}}{i}"
        h = F.conv2d(h, w[name.format("conv") + ".weight"], w[name.format("conv") + ".bias"], (1, stride), (0, pad))
        h = F.gelu(F.group_norm(h, 4, w[name.format("norm") + ".weight"], w[name.format("norm") + ".bias"]))
    h = h.permute(0, 2, 3, 1).flatten(2)
    h = _labram_transformer(w, "encoder", h, rows, x.shape[2])
    return F.normalize(_task(w, "encode_task_layer", h), dim=-1)


def labram_spectra(w: Weights, ids: Tensor, rows: list[int], seconds: int) -> tuple[Tensor, Tensor]:
    """Standardised amplitudes and phases ``[B, C * A, 200]`` of ids ``[B, C * A]``."""
    codes = w["quantize.embedding.weight"][ids]
    h = codes @ w["decoder.patch_embed.proj.weight"].flatten(1).T + w["decoder.patch_embed.proj.bias"]
    h = _labram_transformer(w, "decoder", h, rows, seconds)
    return _task(w, "decode_task_layer", h), _task(w, "decode_task_layer_angle", h)


def _labram_transformer(w: Weights, part: str, h: Tensor, rows: list[int], seconds: int) -> Tensor:
    places = [w[f"{part}.pos_embed"][0, row] + w[f"{part}.time_embed"][0, a] for row in rows for a in range(seconds)]
    cls = (w[f"{part}.cls_token"] + w[f"{part}.pos_embed"][:, :1]).expand(len(h), 1, 200)
    x = torch.cat([cls, h + torch.stack(places)], dim=1)
    for i in range(len({key.split(".")[2] for key in w if key.startswith(f"{part}.blocks.")})):
        b = f"{part}.blocks.{i}."
        n = F.layer_norm(x, (200,), w[b + "norm1.weight"], w[b + "norm1.bias"], 1e-6)
        bias = torch.cat([w[b + "attn.q_bias"], torch.zeros(200), w[b + "attn.v_bias"]])
        q, k, v = (n @ w[b + "attn.qkv.weight"].T + bias).chunk(3, -1)
        mixed = [
            (qh @ kh.mT / 20**0.5).softmax(-1) @ vh
            for qh, kh, vh in zip(q.split(20, -1), k.split(20, -1), v.split(20, -1), strict=True)
        ]
        x = x + torch.cat(mixed, -1) @ w[b + "attn.proj.weight"].T + w[b + "attn.proj.bias"]
        n = F.layer_norm(x, (200,), w[b + "norm2.weight"], w[b + "norm2.bias"], 1e-6)
        n = F.gelu(n @ w[b + "mlp.fc1.weight"].T + w[b + "mlp.fc1.bias"])
        x = x + n @ w[b + "mlp.fc2.weight"].T + w[b + "mlp.fc2.bias"]
    return F.layer_norm(x[:, 1:], (200,), w[f"{part}.fc_norm.weight"], w[f"{part}.fc_norm.bias"], 1e-6)


def _task(w: Weights, name: str, h: Tensor) -> Tensor:
    h = torch.tanh(h @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"])
    return h @ w[f"{name}.2.weight"].T + w[f"{name}.2.bias"]
