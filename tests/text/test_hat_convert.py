"""The released layout: parameter counts to the unit, state dicts there and back, configurations that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tokenizers_mm import registry
from tokenizers_mm.text import HATTFree
from tokenizers_mm.text.convert.hat import from_config, from_published, to_published
from tokenizers_mm.text.rows import signal_of

LAYER = {
    "rms_norm_eps": 1e-5, "max_position_embeddings": 262144, "rope_theta": 1e5, "mlp_bias": False, "key_query_norm": False,
    "key_query_norm_per_head": False, "is_neox_style": True, "rope_scaling": None,
}  # fmt: skip
CROSS = {"hidden_size": 32, "num_attention_heads": 4, "attention_num_kv_heads": 4, "word_window_size": 1}
LOCAL = {
    **LAYER, "hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 40, "sliding_window": 12,
    "vocab_size": 256,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "model_type": "hierarchical_autoregressive_transformer", "special_token_dict": {"<|eot_id|>": 192}, "max_word_size": 50,
    "sliding_window": 12, "max_position_embeddings": 262144, "eos_token_id": 192,
    "encoder_config": {**LOCAL, "num_hidden_layers": 2, "cross_attention_config": CROSS},
    "decoder_config": {**LOCAL, "num_hidden_layers": 1, "cross_attention_config": CROSS, "cross_attn_every_layer": True},
    "backbone_config": {
        **LAYER, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "vocab_size": 0, "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64},
    },
}  # fmt: skip


def published(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random weights of the layout that a configuration describes, written down from the published keys."""
    torch.manual_seed(0)
    d, D = config["encoder_config"]["hidden_size"], config["backbone_config"]["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.embedding_layer.weight": (256, d), "encoder_connector.latent_query": (1, 1, D),
        "decoder_connector.first_word_embedding": (1, 1, D), "layer_norm.weight": (d,), "lm_head.weight": (256, d),
    }  # fmt: skip
    pool = "encoder_connector.cross_attention_encoder_connector."
    shapes |= {f"{pool}{part}_proj.weight": (D, D if part in "qo" else d) for part in "qkvo"}
    for part, stack, inner in (
        ("encoder", "encoder.layers", ""), ("backbone", "backbone.layers", ""),
        ("decoder", "decoder.decoder_layers", "llama_layer."),
    ):  # fmt: skip
        c = config[f"{part}_config"]
        width, hidden = c["hidden_size"], c["intermediate_size"]
        kv = width // c["num_attention_heads"] * c["num_key_value_heads"]
        for i in range(c["num_hidden_layers"]):
            name = f"{stack}.{i}.{inner}"
            shapes |= {f"{name}{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
            shapes |= {f"{name}self_attn.{p}_proj.weight": (kv if p in "kv" else width, width) for p in "qkvo"}
            shapes |= {f"{name}mlp.{p}_proj.weight": (hidden, width) for p in ("gate", "up")}
            shapes[f"{name}mlp.down_proj.weight"] = (width, hidden)
            if part == "decoder":
                name = f"{stack}.{i}."
                shapes |= {f"{name}cross_attention.{p}_proj.weight": (d, D if p in "kv" else d) for p in "qkvo"}
                shapes |= {f"{name}query_norm.weight": (d,), f"{name}kv_norm.weight": (D,)}
    return {key: torch.randn(shape).mul(0.2).bfloat16() for key, shape in shapes.items()}


@pytest.mark.parametrize(("qk_norm", "total"), [(False, 7_192_495_104), (True, 7_192_507_136)])
def test_parameters_to_the_unit(qk_norm: bool, total: int) -> None:
    with torch.device("meta"):
        model = HATTFree(qk_norm=qk_norm)
    assert sum(p.numel() for p in model.parameters()) == total
    if qk_norm:
        return
    parts = {
        262_144: (model.embedding,), 77_082_624: (model.encoder,), 41_947_136: (model.connector,),
        6_979_584_000: (model.backbone,), 93_351_936: (model.decoder, model.guides), 263_168: (model.norm, model.head),
    }  # fmt: skip
    for expected, modules in parts.items():
        assert sum(p.numel() for module in modules for p in module.parameters()) == expected
    assert model.first.numel() == 4096


def test_published_weights_load_and_go_back(tmp_path: Path) -> None:
    weights = published(CONFIG)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    folder = registry.converter("hat")(tmp_path / "model.safetensors", tmp_path / "ours")
    model = HATTFree.from_pretrained(folder)
    back = to_published(model.state_dict())
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key].bfloat16(), tensor) for key, tensor in weights.items())
    assert model.segmenter.max_bytes == 50
    assert (model.encoder.window, model.specials) == (12, {"<|eot_id|>": 192})
    assert model.score(signal_of(["Some words, and more."])).nats.isfinite().all()


def test_shards_load_too(tmp_path: Path) -> None:
    weights = published(CONFIG)
    names = sorted(weights)
    shards = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, keys in shards.items():
        save_file({key: weights[key] for key in keys}, tmp_path / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    folder = registry.converter("hat")(tmp_path / "model.safetensors.index.json", tmp_path / "ours")
    state = HATTFree.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor.float(), state[key]) for key, tensor in from_published(weights).items())


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    weights = published(CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    convert = registry.converter("hat")
    for change, message in (
        (lambda w: w.pop("lm_head.weight"), "head.weight"),
        (lambda w: w.update(more=torch.zeros(1)), "unknown keys: more"),
        (lambda w: w.update({"layer_norm.weight": torch.zeros(3)}), "norm.weight: expected"),
    ):
        broken = dict(weights)
        change(broken)
        save_file(broken, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "model.safetensors", tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type must be"),
        ({"backbone_config": {**CONFIG["backbone_config"], "attn_logit_softcap": 30.0}}, "capped"),
        ({"backbone_config": {**CONFIG["backbone_config"], "rope_scaling": {"rope_type": "yarn"}}}, "of Llama 3"),
        ({"decoder_config": {**CONFIG["decoder_config"], "hidden_size": 48}}, "same hidden_size"),
        ({"encoder_config": {}}, "lacks what a HAT has"),
    ],
)
def test_other_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_config({**CONFIG, **change})
