"""Mimi over transformers: lengths, batches, prefixes, exact streaming, and checkpoints of the original program."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tokenizers_mm as tm
from tokenizers_mm.audio import Mimi
from tokenizers_mm.audio.convert.mimi import convert_mimi

transformers = pytest.importorskip("transformers")

HOP, WINDOW = 16, 6
NETWORK: dict[str, Any] = {
    "sampling_rate": 1600,
    "hidden_size": 16,
    "num_filters": 4,
    "upsampling_ratios": [4, 2],
    "codebook_size": 32,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 6,
    "upsample_groups": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "sliding_window": WINDOW,
    "layer_scale_initial_scale": 0.5,
}


@pytest.fixture
def codec() -> Mimi:
    codec = Mimi(4, NETWORK).eval()
    for parameter in codec.parameters():
        if parameter.ndim == 1:  # biases: a layer that adds its own twice must show
            torch.nn.init.normal_(parameter, std=0.2)
    return codec


def noise(batch: int, samples: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


def streamed(codec: tm.Codec, x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Ids and samples of a signal pushed in pieces of these sizes, then the rest."""
    encoder, decoder = codec.stream(), codec.stream(decode=True)
    pieces = list(x.split([*sizes, x.shape[-1] - sum(sizes)], dim=-1))
    tokens = [encoder.push(piece) for piece in pieces if piece.shape[-1]] + [encoder.flush()]
    samples = [decoder.push(t) for t in tokens] + [decoder.flush()]
    return torch.cat([t.ids for t in tokens], dim=1), torch.cat(samples, dim=-1)[..., : x.shape[-1]]


# -- whole signals -----------------------------------------------------------------------------------------------------


def test_published_configuration_is_the_default() -> None:
    with torch.device("meta"):
        codec = Mimi()
    assert sum(p.numel() for p in codec.parameters()) == 79_308_609
    assert codec.spec == tm.TokenSpec("audio", (2048,) * 8, hop=(1920,), sample_rate=24000, scalable="columns")
    assert codec.spec.bitrate == 1100
    assert len(codec.state_dict()) == 350


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 7 * HOP + 5])
def test_lengths_are_exact(codec: Mimi, samples: int) -> None:
    x = noise(1, samples)
    tokens = codec.encode(x)
    assert tokens.ids.shape == (1, -(-samples // HOP), 4)
    assert codec.decode(tokens).shape == x.shape


def test_whole_steps_give_the_librarys_codes_and_samples(codec: Mimi) -> None:
    x = noise(2, 9 * HOP)
    tokens = codec.encode(x)
    with torch.no_grad():
        codes = codec.model.encode(x, num_quantizers=4).audio_codes
        wave = codec.model.decode(codes).audio_values
    assert torch.equal(tokens.codes, codes)
    assert torch.equal(codec.decode(tokens), wave)
    assert len(tokens.ids.unique()) > 16


def test_unequal_batches_equal_singles(codec: Mimi) -> None:
    x, lengths = noise(3, 9 * HOP + 3), torch.tensor([9 * HOP + 3, 4 * HOP, 37])
    together = codec.encode(x, lengths)
    wave = codec.decode(together)
    for i, n in enumerate(lengths.tolist()):
        alone = codec.encode(x[i : i + 1, :, :n])
        assert together[i] == alone
        torch.testing.assert_close(wave[i : i + 1, :, :n], codec.decode(alone), atol=1e-5, rtol=1e-4)


def test_fewer_codebooks_are_the_first_of_all(codec: Mimi) -> None:
    full = Mimi(6, NETWORK).eval()
    full.load_state_dict(codec.state_dict())
    x = noise(2, 8 * HOP)
    tokens = full.encode(x)
    assert torch.equal(codec.encode(x).ids, tokens.ids[..., :4])
    for columns in range(1, 7):
        cheaper = full.with_bitrate(columns * 0.5)  # 100 steps/s of 5 bits
        assert torch.equal(cheaper.encode(x).ids, tokens.ids[..., :columns])
        torch.testing.assert_close(cheaper.reconstruct(x), full.decode(tokens.prefix(columns=columns)))


def test_several_semantic_codebooks_still_give_every_prefix() -> None:
    codec = Mimi(4, {**NETWORK, "num_semantic_quantizers": 2}).eval()
    x = noise(1, 5 * HOP)
    first = codec.with_bitrate(0.5)
    assert torch.equal(first.encode(x).ids, codec.encode(x).ids[..., :1])
    assert first.reconstruct(x).shape == x.shape


def test_weights_loaded_after_use_count(codec: Mimi) -> None:
    x = noise(1, 12 * HOP)
    other = Mimi(4, NETWORK).eval()
    other.encode(x)  # the library has computed its tables now
    other.load_state_dict(codec.state_dict())
    assert other.encode(x) == codec.encode(x)
    moved = copy.deepcopy(codec).double()
    assert moved.model.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"network": {"hidden": 3}}, "fields of MimiConfig, got hidden"),
        ({"network": {"codebook_size": 33}}, "power of 2"),
        ({"num_codebooks": 0}, "1 to the network's 32, got 0"),
        ({"num_codebooks": 7, "network": NETWORK}, "1 to the network's 6, got 7"),
    ],
)
def test_impossible_networks_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Mimi(**arguments)


# -- streaming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        [1] * (8 * HOP),
        [HOP] * 30,
        [5 * HOP + 3, 1, 2 * HOP, WINDOW * HOP, 3],
        [2 * WINDOW * HOP],
        [],
    ],
    ids=["sample by sample", "step by step", "mixed", "beyond the window at once", "whole"],
)
def test_a_stream_equals_the_whole_beyond_the_attention_window(codec: Mimi, sizes: list[int]) -> None:
    x = noise(2, 12 * WINDOW * HOP + 7)  # two features a step: 24 windows
    whole = codec.encode(x)
    ids, wave = streamed(codec, x, sizes)
    assert torch.equal(ids, whole.ids)
    torch.testing.assert_close(wave, codec.decode(whole), atol=1e-5, rtol=1e-5)


def test_attention_reaches_back_and_no_further(codec: Mimi) -> None:
    """The stream test above would pass with attention that sees nothing: here an old sample changes late ids, not the latest."""
    x = noise(1, 40 * HOP)
    changed = x.clone()
    changed[..., : 2 * HOP] += 1
    differ = (codec.encode(x).ids != codec.encode(changed).ids).any(dim=-1)[0]
    layers, features_per_step = NETWORK["num_hidden_layers"], 2
    reach = 2 + layers * WINDOW // features_per_step + 4  # and a few steps of convolutions
    assert bool(differ[3:reach].any())
    assert not differ[reach:].any()


def test_sessions_do_not_disturb_each_other(codec: Mimi) -> None:
    signals = [noise(batch, 10 * HOP, seed) for seed, batch in enumerate((1, 3, 1))]
    sessions = [(codec.stream(), codec.stream(decode=True)) for _ in signals]
    waves: list[list[Tensor]] = [[] for _ in signals]
    for start in range(0, 10 * HOP, 40):
        for (encoder, decoder), x, wave in zip(sessions, signals, waves, strict=True):
            wave.append(decoder.push(encoder.push(x[..., start : start + 40])))
    for (encoder, decoder), x, wave in zip(sessions, signals, waves, strict=True):
        wave += [decoder.push(encoder.flush()), decoder.flush()]
        torch.testing.assert_close(torch.cat(wave, dim=-1), codec.reconstruct(x), atol=1e-5, rtol=1e-5)


def test_a_session_starts_anew_after_flush(codec: Mimi) -> None:
    encoder, decoder = codec.stream(), codec.stream(decode=True)
    x = noise(1, 6 * HOP)
    for _ in range(2):
        tokens = [encoder.push(x), encoder.flush()]
        wave = torch.cat([*(decoder.push(t) for t in tokens), decoder.flush()], dim=-1)
        torch.testing.assert_close(wave, codec.reconstruct(x), atol=1e-5, rtol=1e-5)


def test_a_session_keeps_one_window_whatever_has_passed(codec: Mimi) -> None:
    def held(state: dict) -> int:
        """Bytes of memory, views counted whole, that a session's state keeps alive."""
        tensors: list[Tensor] = []
        for value in state.values():
            tensors += (
                [value]
                if isinstance(value, Tensor)
                else [t for layer in value.layers for t in (layer.keys, layer.values)]
            )
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    encoder, decoder = codec.stream(), codec.stream(decode=True)
    sizes = []
    for start in range(60):
        decoder.push(encoder.push(noise(1, HOP, start)))
        sizes.append((held(encoder.state), held(decoder.state)))
    assert len(set(sizes[2 * WINDOW :])) == 1


def test_latency_is_one_step(codec: Mimi) -> None:
    assert codec.stream().latency_seconds == HOP / 1600
    assert codec.stream(decode=True).latency_seconds == 0
    decoder = codec.stream(decode=True)
    assert decoder.push(codec.stream().push(noise(1, 3 * HOP))).shape[-1] == 3 * HOP


def test_a_network_that_looks_ahead_does_not_stream() -> None:
    with pytest.raises(ValueError, match="not causal"):
        Mimi(4, {**NETWORK, "use_causal_conv": False}).stream()


# -- checkpoints -------------------------------------------------------------------------------------------------------


def original(codec: Mimi) -> dict[str, Tensor]:
    """The codec's weights as the original program lays them out, written out key by key."""
    ours = {key.removeprefix("model."): tensor for key, tensor in codec.state_dict().items()}
    state: dict[str, Tensor] = {}
    for half in ("encoder", "decoder"):
        for key in [k for k in ours if k.startswith(f"{half}.{half}_seanet.layers.")]:
            layer, _, kind = key.removeprefix(f"{half}.{half}_seanet.layers.").rpartition(".conv.")
            module = codec.get_submodule(f"model.{half}.{half}_seanet.layers.{layer}.conv")
            name = "convtr" if isinstance(module, torch.nn.ConvTranspose1d) else "conv"
            state[f"{half}.model.{layer}.{name}.{name}.{kind}"] = ours.pop(key)
        for i in range(NETWORK["num_hidden_layers"]):
            source, target = f"{half}.{half}_transformer.layers.{i}", f"{half}_transformer.transformer.layers.{i}"
            packed = []
            for part in "qkv":
                weight = ours.pop(f"{source}.self_attn.{part}_proj.weight")
                if part != "v":  # neighbours turn together there
                    split = weight.reshape(NETWORK["num_attention_heads"], 2, -1, weight.shape[1])
                    weight = split.transpose(1, 2).reshape(weight.shape)
                packed.append(weight)
            state[f"{target}.self_attn.in_projs.0.weight"] = torch.cat(packed)
            state[f"{target}.self_attn.out_projs.0.weight"] = ours.pop(f"{source}.self_attn.o_proj.weight")
            for i_mlp in "12":
                state[f"{target}.linear{i_mlp}.weight"] = ours.pop(f"{source}.mlp.fc{i_mlp}.weight")
            for name, norm in (("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm")):
                for kind in ("weight", "bias"):
                    state[f"{target}.{name}.{kind}"] = ours.pop(f"{source}.{norm}.{kind}")
            for name, scale in (("layer_scale_1", "self_attn_layer_scale"), ("layer_scale_2", "mlp_layer_scale")):
                state[f"{target}.{name}.scale"] = ours.pop(f"{source}.{scale}.scale")
    state["downsample.conv.conv.conv.weight"] = ours.pop("encoder.downsample.conv.weight")
    state["upsample.convtr.convtr.convtr.weight"] = ours.pop("decoder.upsample.conv.weight")
    for theirs, kind in (("rvq_first", "semantic"), ("rvq_rest", "acoustic")):
        prefix = f"quantizer.{kind}_residual_vector_quantizer."
        for key in [k for k in ours if k.startswith(prefix)]:
            name = key.removeprefix(prefix).replace("layers.", "vq.layers.").replace(".codebook.", "._codebook.")
            name = name.replace(".initialized", "._initialized").replace("embed_sum", "embedding_sum")
            state[f"quantizer.{theirs}.{name}"] = ours.pop(key)
    assert not ours
    return {key: tensor.clone().contiguous() for key, tensor in state.items()}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"num_codebooks": 4, "network": NETWORK}))
    return path


def test_an_original_checkpoint_converts_to_the_same_codec(codec: Mimi, config: Path, tmp_path: Path) -> None:
    save_file(original(codec), tmp_path / "tokenizer.safetensors")
    loaded = tm.load(convert_mimi(tmp_path / "tokenizer.safetensors", tmp_path / "out", config=config))
    assert all(torch.equal(t, loaded.state_dict()[key]) for key, t in codec.state_dict().items())
    x = noise(1, 9 * HOP)
    assert loaded.encode(x) == codec.encode(x)


def test_older_names_convert_too(codec: Mimi, config: Path, tmp_path: Path) -> None:
    old = {
        key.replace("in_projs.0.weight", "in_proj_weight")
        .replace("out_projs.0", "out_proj")
        .replace("_initialized", "inited")
        .replace("cluster_usage", "cluster_size")
        .replace("embedding_sum", "embed_avg"): tensor
        for key, tensor in original(codec).items()
    }
    torch.save({"model": old}, tmp_path / "old.th")
    loaded = tm.load(convert_mimi(tmp_path / "old.th", tmp_path / "out", config=config))
    assert all(torch.equal(t, loaded.state_dict()[key]) for key, t in codec.state_dict().items())


def test_what_does_not_fit_is_refused_by_name(codec: Mimi, config: Path, tmp_path: Path) -> None:
    state = original(codec)
    del state["encoder.model.0.conv.conv.bias"]
    state["extra.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=r"1 missing keys: \S*layers.0.conv.bias; 1 unknown keys: \S*extra.weight"):
        convert_mimi(tmp_path / "broken.safetensors", tmp_path / "out", config=config)
    with pytest.raises(ValueError, match="wrong shapes"):
        convert_mimi(tmp_path / "broken.safetensors", tmp_path / "out")  # the published network
    (tmp_path / "odd.json").write_text('{"strides": [2]}')
    with pytest.raises(ValueError, match=r"arguments of Mimi .* got strides"):
        convert_mimi(tmp_path / "broken.safetensors", tmp_path / "out", config=tmp_path / "odd.json")


def test_the_hubs_layout_loads_and_nothing_is_ignored(codec: Mimi, tmp_path: Path) -> None:
    codec.model.save_pretrained(tmp_path)
    assert any(key.startswith("encoder_transformer.") for key in load_file(tmp_path / "model.safetensors"))
    other = Mimi(4, NETWORK).eval()
    other.load_weights(tmp_path / "model.safetensors")
    x = noise(1, 9 * HOP)
    assert other.encode(x) == codec.encode(x)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "encoder.odd": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"unknown keys: \S*encoder.odd"):
        other.load_weights(tmp_path / "odd.safetensors")


def test_the_original_program_agrees(codec: Mimi, config: Path, tmp_path: Path) -> None:
    loaders = pytest.importorskip("moshi.models.loaders")
    arguments = copy.deepcopy(loaders._mimi_config)
    arguments["sample_rate"], arguments["frame_rate"] = 1600, 100
    arguments["seanet"] |= {"dimension": 16, "n_filters": 4, "ratios": [4, 2]}
    arguments["quantizer"] |= {"dimension": 8, "n_q": 6, "bins": 32, "input_dimension": 16, "output_dimension": 16}
    arguments["transformer"] |= {"d_model": 16, "num_heads": 2, "num_layers": 2, "context": WINDOW}
    arguments["transformer"] |= {"dim_feedforward": 32, "input_dimension": 16, "output_dimensions": [16]}
    save_file(original(codec), tmp_path / "tokenizer.safetensors")
    theirs = loaders.get_mimi(tmp_path / "tokenizer.safetensors", arguments, num_codebooks=4)
    x = noise(2, 5 * WINDOW * HOP + 9)
    tokens = codec.encode(x)
    with torch.no_grad():
        codes = theirs.encode(x)
        wave = theirs.decode(codes)[..., : x.shape[-1]]
    assert torch.equal(tokens.codes, codes)
    torch.testing.assert_close(codec.decode(tokens), wave, atol=1e-5, rtol=1e-4)
