"""Published layouts with random values load strictly and compute what independent code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import tokenizers_mm as tm
from tokenizers_mm.image import VQGAN, VARTokenizer
from tokenizers_mm.image.convert import CONVERTERS

SMALL = {"channels": 32, "multipliers": [1, 2], "hop": 2, "latent_channels": 16, "blocks": 1}
VQ = {"kind": "gradient_vq", "codebook_size": 24, "codebook_dim": 8}


def randomised(codec: tm.Codec) -> tm.Codec:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in codec.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.1 + (p.ndim == 1) * 0.5)
    return codec.eval()


def published(codec: tm.Codec, family: str) -> dict[str, Tensor]:
    """A codec's weights in the names and shapes of another program."""
    llamagen, taming_order = family == "llamagen", family in ("taming", "ibq", "var")
    last = max(int(m[1]) for k in codec.state_dict() if (m := re.match(r"decoder\.levels\.(\d+)", k)))
    out: dict[str, Tensor] = {}
    for key, value in codec.state_dict().items():
        name = key
        if taming_order:
            name = re.sub(r"^decoder\.levels\.(\d+)", lambda m: f"decoder.levels.{last - int(m[1])}", name)
        stack = {"encoder": "down", "decoder": "up"}[name.split(".")[0]] if "levels" in name else ""
        name = name.replace(".levels.", ".conv_blocks." if llamagen else f".{stack}.")
        name = name.replace(".blocks.", ".res." if llamagen else ".block.").replace(".attentions.", ".attn.")
        name = name.replace(".resample.", ".downsample.conv." if key.startswith("encoder") else ".upsample.conv.")
        middle = (".mid.0.", ".mid.1.", ".mid.2.") if llamagen else (".mid.block_1.", ".mid.attn_1.", ".mid.block_2.")
        for i in range(3):
            name = name.replace(f".middle.{i}.", middle[i])
        name = name.replace(".skip.", ".nin_shortcut.")
        name = re.sub(r"^(quantizer\.)?project_in", "quant_conv", name)
        name = re.sub(r"^(quantizer\.)?project_out", "post_quant_conv", name)
        name = re.sub(r"^quantizer\.codebook(\.weight)?$", "quantize.embedding.weight", name)
        name = name.replace("quantizer.refinements.", "quantize.quant_resi.qresi_ls.")
        if re.search(r"\.(qkv|out)\.", name):
            value = value[..., None, None] if value.ndim == 2 else value
            name = name.replace(".out.", ".proj_out.")
        if "quant_conv" in name and value.ndim == 2:
            value = value[..., None, None]
        if ".qkv." in name and family != "var":
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                out[name.replace(".qkv.", f".{letter}.")] = part.contiguous()
        else:
            out[name] = value.contiguous()
    return out


def convert(family: str, tensors: dict, tmp_path: Path) -> tm.Codec:
    torch.save(tensors, tmp_path / "published.pt")
    return tm.load(str(CONVERTERS[family](tmp_path / "published.pt", tmp_path / "ours")))


@pytest.mark.parametrize(
    ("family", "quantizer"),
    [("taming", VQ), ("llamagen", {**VQ, "normalise": True}), ("ibq", {**VQ, "kind": "ibq"}), ("janus", VQ)],
)
def test_published_names_load_strictly_and_change_nothing(family: str, quantizer: dict, tmp_path: Path) -> None:
    codec = randomised(VQGAN(**SMALL, quantizer={**quantizer, "normalise": True} if family == "janus" else quantizer))
    tensors = published(codec, family)
    wrapped = {
        "taming": {"state_dict": {**tensors, "loss.discriminator.main.0.weight": torch.zeros(1)}},
        "llamagen": {"ema": {**tensors, "quantize.codebook_used": torch.zeros(9)}, "model": {}},
        "ibq": {"state_dict": tensors},
        "janus": {f"model.vqmodel.{key}": value for key, value in tensors.items()},
    }[family]
    loaded = convert(family, wrapped, tmp_path)
    assert isinstance(loaded, VQGAN)
    x = torch.rand(2, 3, 9, 12)
    assert loaded.encode(x) == codec.encode(x)
    torch.testing.assert_close(loaded.reconstruct(x), codec.reconstruct(x))


def test_var_loads_strictly_and_changes_nothing(tmp_path: Path) -> None:
    codec = randomised(
        VARTokenizer(channels=32, multipliers=(1, 1, 1, 1, 2), blocks=1, codebook_size=24, latent_channels=8)
    )
    tensors = {**published(codec, "var"), "quantize.ema_vocab_hit_SV": torch.zeros(10, 24)}
    loaded = convert("var", tensors, tmp_path)
    x = torch.rand(1, 3, 256, 256)
    assert loaded.encode(x) == codec.encode(x)


def test_weight_averages_win_where_the_trainer_kept_them(tmp_path: Path) -> None:
    quantizer = {**VQ, "kind": "ibq"}
    codec = randomised(VQGAN(**SMALL, quantizer=quantizer))
    tensors = published(codec, "ibq")
    raw = {key: torch.zeros_like(value) for key, value in tensors.items()}
    averages = {f"model_ema.{key.replace('.', '')}": value for key, value in tensors.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(1)}
    loaded = convert("ibq", {"state_dict": {**raw, **averages, **counters}}, tmp_path)
    assert all(torch.equal(value, codec.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(("kind", "attention"), [("janus", True), ("chameleon", False)])
def test_the_networks_to_race_against_take_our_weights_and_give_our_ids(kind: str, attention: bool) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.janus.modeling_janus import JanusVQVAE

    from tokenizers_mm.image.peers import adopt

    sizes = {"base_channels": 32, "channel_multiplier": [1, 2, 2], "latent_channels": 32, "num_embeddings": 64}
    if kind == "janus":
        peer = JanusVQVAE(transformers.JanusVQVAEConfig(**sizes, embed_dim=8, num_patches=8))
    else:
        peer = transformers.ChameleonVQVAE(transformers.ChameleonVQVAEConfig(**sizes, embed_dim=8))
    quantizer = {"kind": "gradient_vq", "codebook_size": 64, "codebook_dim": 8, "normalise": attention}
    codec = randomised(VQGAN(4, 32, (1, 2, 2), latent_channels=32, level_attention=attention, quantizer=quantizer))
    adopt(peer.eval(), codec)
    x = torch.rand(2, 3, 8, 8).repeat_interleave(4, -1).repeat_interleave(4, -2)
    tokens = codec.encode(x)
    with torch.no_grad():
        ids = peer.encode(2 * x - 1).image_tokens.view(2, -1)
    assert torch.equal(tokens.ids[..., 0], ids)
    assert ids.unique().numel() > 4
    if kind == "janus":
        with torch.no_grad():
            image = (peer.decode(ids) / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(codec.decode(tokens), image, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["taming", "llamagen", "ibq", "janus", "var"])
def test_missing_and_unknown_keys_are_named(family: str, tmp_path: Path) -> None:
    codec = randomised(VQGAN(**SMALL, quantizer=VQ))
    tensors = published(codec, "llamagen" if family == "llamagen" else "taming")
    del tensors["encoder.norm_out.bias"]
    tensors["encoder.surprise"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"(?s)encoder\.norm_out\.bias.*encoder\.surprise"):
        convert(family, tensors, tmp_path)
    with pytest.raises(ValueError, match="missing keys"):
        convert(family, {"weight": torch.zeros(1)}, tmp_path)


def test_llamagen_equals_janus_of_transformers(tmp_path: Path) -> None:
    """The same random weights give JanusVQVAE's indices and, within rounding, its pixels."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.janus.modeling_janus import JanusVQVAE

    sizes = {"base_channels": 32, "channel_multiplier": [1, 2, 2], "latent_channels": 32, "num_embeddings": 64}
    torch.manual_seed(0)
    peer = JanusVQVAE(transformers.JanusVQVAEConfig(**sizes, embed_dim=8, num_res_blocks=2, num_patches=8)).eval()
    with torch.no_grad():
        for name, p in peer.named_parameters():
            p.copy_(torch.randn_like(p) * 0.1 + ("norm" in name and name.endswith("weight")))
        # transformers normalises codes when it decodes but not when it searches, so equality needs codes of unit length
        peer.quantize.embedding.weight.copy_(torch.nn.functional.normalize(peer.quantize.embedding.weight, dim=-1))
    save_file(peer.state_dict(), tmp_path / "janus.safetensors")
    ours = tm.load(str(CONVERTERS["janus"](tmp_path / "janus.safetensors", tmp_path / "ours")))
    x = torch.rand(2, 3, 8, 8).repeat_interleave(4, -1).repeat_interleave(4, -2)
    with torch.no_grad():
        theirs = peer.encode(2 * x - 1).image_tokens.view(2, -1)
        decoded = peer.decode(theirs)
    tokens = ours.encode(x)
    assert torch.equal(tokens.ids[..., 0], theirs)
    assert theirs.unique().numel() > 4
    torch.testing.assert_close(ours.decode(tokens), (decoded / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-5)
