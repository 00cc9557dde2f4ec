"""Image tokenizers of transformers: their own results, any size, and weights out of the big models that hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tokenizers_mm as tm
from tokenizers_mm.image import VQGAN, ChameleonVQVAE, Emu3VQVAE, JanusVQVAE
from tokenizers_mm.weights import read_part

pytest.importorskip("transformers")

SMALL = {"channels": 32, "multipliers": (1, 2, 2), "blocks": 1, "latent_channels": 32}


def made(kind: type, **arguments) -> tm.Codec:
    torch.manual_seed(0)
    codec = kind(**arguments).eval()
    with torch.no_grad():  # the library's small initial weights would give every place the same token
        for name, p in codec.named_parameters():
            if p.ndim >= 4:
                p.normal_(std=p[0].numel() ** -0.5)
            elif "embedding" in name and kind is not JanusVQVAE:
                p.normal_(std=0.3)
    return codec


@pytest.fixture(scope="module")
def janus() -> tm.Codec:
    return made(JanusVQVAE, **SMALL, codebook_size=64)


@pytest.fixture(scope="module")
def chameleon() -> tm.Codec:
    return made(ChameleonVQVAE, **SMALL, codebook_size=64, codebook_dim=16)


@pytest.fixture(scope="module")
def emu3() -> tm.Codec:
    codec = made(Emu3VQVAE, codebook_size=64, channels=32, multipliers=(1, 2, 2), network={"num_res_blocks": 1})
    with torch.no_grad():  # codes where features are
        states = codec.model.encode(2 * torch.rand(1, 3, 32, 32) - 1, torch.tensor([[32, 32]])).last_hidden_state
        features = codec.model.quant_conv(states.transpose(1, 2))
        codec.model.quantize.embedding.weight.copy_(features.flatten(2)[0].mT)
    return codec


@torch.no_grad()
def test_janus_gives_the_librarys_ids_and_pixels(janus: tm.Codec) -> None:
    x = torch.rand(2, 3, 32, 32)
    janus.model.quantize.quant_state_dims = [8, 8]
    ids = janus.model.encode(2 * x - 1).image_tokens.view(2, -1)
    assert ids.unique().numel() > 8
    tokens = janus.encode(x)
    assert torch.equal(tokens.ids[..., 0], ids)
    torch.testing.assert_close(janus.decode(tokens), (janus.model.decode(ids) / 2 + 0.5).clamp(0, 1))


@torch.no_grad()
def test_chameleon_gives_the_librarys_ids_and_a_vqgan_its_pixels(chameleon: tm.Codec) -> None:
    x = torch.rand(1, 3, 32, 48)
    tokens = chameleon.encode(x)
    assert torch.equal(tokens.ids.flatten(), chameleon.model.encode(2 * x - 1).image_tokens)
    assert tokens.ids.unique().numel() > 8
    quantizer = {"kind": "gradient_vq", "codebook_size": 64, "codebook_dim": 16}
    ours = VQGAN(hop=4, level_attention=False, quantizer=quantizer, **SMALL).eval()
    ours.decoder.load_state_dict(chameleon.model.decoder.state_dict())
    for name in ("weight", "bias"):
        theirs = getattr(chameleon.model.post_quant_conv, name)
        getattr(ours.quantizer.project_out, name).copy_(theirs.flatten(1) if theirs.ndim == 4 else theirs)
    ours.quantizer.codebook.weight.copy_(chameleon.model.quantize.embedding.weight)
    torch.testing.assert_close(chameleon.decode(tokens), ours.decode(tokens), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_emu3_gives_the_librarys_ids_and_pixels(emu3: tm.Codec) -> None:
    x = torch.rand(2, 3, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    ids = torch.stack(emu3.model.encode(2 * x - 1, torch.tensor([[16, 24]] * 2)).image_tokens)
    assert ids.shape == (2, 4, 6)
    assert ids.unique().numel() > 4
    tokens = emu3.encode(x)
    assert torch.equal(tokens.ids[..., 0], ids.flatten(1))
    torch.testing.assert_close(emu3.decode(tokens), (emu3.model.decode(ids) / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("name", ["janus", "chameleon", "emu3"])
def test_any_size_comes_back_exactly(name: str, request: pytest.FixtureRequest) -> None:
    codec = request.getfixturevalue(name)
    for height, width in ((1, 1), (5, 18), (33, 4)):
        x = torch.rand(1, 3, height, width)
        tokens = codec.encode(x)
        assert tokens.shape == (-(-height // 4), -(-width // 4))
        assert codec.decode(tokens).shape == x.shape


def hub_tensors(codec: tm.Codec) -> dict[str, torch.Tensor]:
    """What a checkpoint of the whole model holds of the tokenizer, beside other tensors."""
    own = {key.removeprefix("model."): value.clone() for key, value in codec.model.state_dict().items()}
    return {f"model.vqmodel.{key}": value for key, value in own.items()}


@pytest.mark.parametrize("name", ["janus", "emu3"])
def test_the_part_of_a_big_model_loads_and_nothing_else_is_read(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    codec = request.getfixturevalue(name)
    tensors = hub_tensors(codec)
    keys = sorted(tensors)
    shards = {"model-00001-of-00003.safetensors": keys[::2], "model-00002-of-00003.safetensors": keys[1::2]}
    for file, names in shards.items():
        save_file({key: tensors[key] for key in names}, tmp_path / file)
    index = {key: file for file, names in shards.items() for key in names}
    index["model.language_model.layers.0.weight"] = "model-00003-of-00003.safetensors"  # which isn't there
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    other = type(codec)(**codec.config)
    other.load_weights(tmp_path / "model.safetensors.index.json")
    x = torch.rand(1, 3, 16, 16)
    assert other.eval().encode(x) == codec.encode(x)


def test_a_card_takes_such_a_folder(janus: tm.Codec, tmp_path: Path) -> None:
    save_file({**hub_tensors(janus), "lm_head.weight": torch.zeros(3)}, tmp_path / "part.safetensors")
    index = dict.fromkeys(hub_tensors(janus), "part.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {**janus.config, "multipliers": list(SMALL["multipliers"])}
    loaded = tm.load("janus-pro-1b", weights=tmp_path, **config)
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.encode(x).ids, janus.encode(x).ids)


def test_an_encoder_without_decoder_says_so(chameleon: tm.Codec, tmp_path: Path) -> None:
    tensors = {key: value for key, value in hub_tensors(chameleon).items() if "decoder." not in key}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"no decoder, as all Chameleon checkpoints of transformers: .*decoder=False"):
        ChameleonVQVAE(**chameleon.config).load_weights(tmp_path / "model.safetensors")
    half = ChameleonVQVAE(**{**chameleon.config, "decoder": False}).eval()
    half.load_weights(tmp_path / "model.safetensors")
    tokens = half.encode(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="made with decoder=False"):
        half.decode(tokens)


def test_an_index_cannot_point_elsewhere(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ValueError, match=r"outside of its folder: \['\.\./secret"):
        read_part(index)
    index.write_text("{}")
    with pytest.raises(ValueError, match="'weight_map'"):
        read_part(index)
    index.write_text(json.dumps({"weight_map": {"a": "missing.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors"):
        read_part(index)
