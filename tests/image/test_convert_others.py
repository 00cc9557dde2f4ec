"""Checkpoints of Open-MAGVIT2, MaskGIT, TiTok and Cosmos with random values give the ids and pixels of their own networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tokenizers_mm as tm
from tests.image import reference_networks as reference
from tokenizers_mm.image import VQGAN, MaskGITVQ, OpenMAGVIT2, TiTok
from tokenizers_mm.image.convert import CONVERTERS
from tokenizers_mm.image.convert.cosmos import haar

MASKGIT = {"codebook_size": 24, "dim": 8, "widths": [32, 64], "blocks": 1}
SMALL, BASE, LARGE = (
    {"dim": dim, "layers": layers, "heads": heads}
    for dim, layers, heads in ((512, 8, 8), (768, 12, 12), (1024, 24, 16))
)
PIXELS = {
    "code_dim": 64,
    "quantizer": {"kind": "gradient_vq", "codebook_size": 8192},
    "head": "pixels",
    "mix_tokens": False,
}
COSMOS = {
    "patch_size": 4,
    "multipliers": (2, 4, 4),
    "level_attention": False,
    "quantizer": {"kind": "fsq", "levels": [8, 8, 8, 5, 5, 5]},
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("multipliers", "encoder", "decoder"),
    [((1, 1, 2, 2, 4), 49_751_442, 65_376_387), ((1, 2, 2, 4), 48_422_162, 63_599_491)],
)
def test_open_magvit2_has_the_published_size(multipliers: tuple, encoder: int, decoder: int) -> None:
    with torch.device("meta"):
        codec = OpenMAGVIT2(multipliers=multipliers)
    assert (parameters(codec.encoder), parameters(codec.decoder)) == (encoder, decoder)
    assert parameters(codec) == encoder + decoder


def test_maskgit_and_cosmos_have_the_published_sizes() -> None:
    with torch.device("meta"):
        maskgit, cosmos = MaskGITVQ(), [VQGAN(hop=hop, **COSMOS) for hop in (8, 16)]
    assert (parameters(maskgit.encoder), parameters(maskgit.decoder)) == (23_775_104, 30_478_339)
    assert parameters(maskgit) == 54_515_587
    assert [parameters(codec) for codec in cosmos] == [79_004_342, 83_723_958]


@pytest.mark.parametrize(
    ("tokens", "encoder", "decoder", "others", "count"),
    [
        (128, SMALL, SMALL, {}, 83_674_639),
        (64, BASE, BASE, {}, 204_814_095),
        (32, LARGE, LARGE, {}, 641_054_735),
        (256, SMALL, LARGE, PIXELS, 330_260_884),
        (64, BASE, LARGE, PIXELS, 390_016_148),
        (128, BASE, LARGE, PIXELS, 390_179_988),
    ],
    ids=["s128", "b64", "l32", "sl256", "bl64", "bl128"],
)
def test_titok_has_the_published_sizes(tokens: int, encoder: dict, decoder: dict, others: dict, count: int) -> None:
    with torch.device("meta"):
        codec = TiTok(tokens, encoder=encoder, decoder=decoder, **others)
    assert parameters(codec) == count
    assert codec.spec.steps((40, 500)) == tokens


def picture(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(batch, 3, height // 4, width // 4, generator=generator)
    return (coarse.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.1 * torch.rand(batch, 3, 1, 1)).clamp(0, 1)


def convert(family: str, content: object, tmp_path: Path) -> tm.Codec:
    torch.save(content, tmp_path / "published.bin")
    return tm.load(str(CONVERTERS[family](tmp_path / "published.bin", tmp_path / "ours")))


def check(codec: tm.Codec, x: Tensor, ids: Tensor, image: Tensor) -> None:
    tokens = codec.encode(x)
    assert ids.unique().numel() > 4
    assert torch.equal(tokens.ids[..., 0], ids.flatten(1))
    atol = 1e-5 * max(1.0, float(image.abs().max()))  # float32 rounds by the size of what is clamped
    torch.testing.assert_close(codec.decode(tokens), image.clamp(0, 1), atol=atol, rtol=1e-5)
    assert 0.05 < float(image.std()) < 5  # not all clipped


def magvit2(x: Tensor) -> tuple[reference.Weights, Tensor, Tensor]:
    w = reference.Weights()
    z = reference.magvit2_encode(w, x, [32, 32, 64], 2, 18)
    codes = torch.where(z > 0, 1.0, -1.0)
    ids = ((codes > 0).long() * 2 ** torch.arange(18)[:, None, None]).sum(1)
    return w, ids, reference.magvit2_decode(w, codes, [32, 32, 64], 2)


def test_open_magvit2_loads_strictly_and_computes_the_same(tmp_path: Path) -> None:
    x = picture(16, 24)
    w, ids, image = magvit2(x)
    codec = convert("open-magvit2", {"state_dict": {**w, "loss.discriminator.weight": torch.zeros(1)}}, tmp_path)
    assert codec.config["multipliers"] == [1, 1, 2]
    check(codec, x, ids, image)


def test_averages_of_open_magvit2_win(tmp_path: Path) -> None:
    x = picture(16, 16)
    w, ids, image = magvit2(x)
    raw = {key: torch.randn_like(value) for key, value in w.items()}
    averages = {f"model_ema.{key.replace('.', '')}": value for key, value in w.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(1)}
    check(convert("open-magvit2", {"state_dict": {**raw, **averages, **counters}}, tmp_path), x, ids, image)


def test_one_code_decodes_although_it_has_no_spread() -> None:
    codec = OpenMAGVIT2(bits=6, channels=8, multipliers=(1, 2), blocks=1, groups=4).eval()
    assert torch.isfinite(codec.reconstruct(torch.rand(1, 3, 1, 2))).all()


def test_maskgit_loads_strictly_and_computes_the_same(tmp_path: Path) -> None:
    x, w = picture(16, 24), reference.Weights()
    z = reference.maskgit_encode(w, x, [32, 64, 64], 2, 16).permute(0, 2, 3, 1)
    codebook = w.draw("quantize.embedding.weight", 40, 16)
    ids = reference.nearest(z, codebook)
    image = reference.maskgit_decode(w, codebook[ids].permute(0, 3, 1, 2), [32, 64, 64], 2)
    check(convert("maskgit", dict(w), tmp_path), x, ids, image)


@pytest.mark.parametrize("through_codes", [True, False])
def test_titok_loads_strictly_and_computes_the_same(tmp_path: Path, through_codes: bool) -> None:
    x, w = picture(64, 64), reference.Weights()
    dim = 12 if through_codes else 16
    z = reference.titok_encode(w, x, 8, 128, 2, 2, dim, mix=through_codes)
    codebook = w.draw("quantize.embedding.weight", 64, dim)
    if through_codes:
        z, used = F.normalize(z, dim=-1), F.normalize(codebook, dim=-1)
    else:
        used = codebook
    ids = reference.nearest(z, used)
    image = reference.titok_decode(
        w, used[ids], 4, 192, 1, 3, {**MASKGIT, "widths": [32, 32, 32, 32, 64]} if through_codes else None
    )
    codec = convert("titok", dict(w), tmp_path)
    assert codec.config["head"] == ("maskgit" if through_codes else "pixels")
    check(codec, x, ids, image)


def test_reading_mixed_tokens_in_order_gives_other_ids() -> None:
    torch.manual_seed(0)
    small = {"dim": 16, "layers": 1, "heads": 2}
    codec = TiTok(8, 32, 16, small, small, head="pixels").eval()
    x = torch.rand(1, 3, 32, 32)
    mixed = codec.encode(x)
    codec.encoder.mix_tokens = False
    assert not torch.equal(codec.encode(x).ids, mixed.ids)


class Program(nn.Module):
    """Named tensors as a TorchScript program with the same state dict."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def program(tensors: dict[str, Tensor]) -> torch.jit.ScriptModule:
    root = Program()
    for key, tensor in tensors.items():
        module: nn.Module = root
        *path, name = key.split(".")
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, Program())
            module = module.get_submodule(part)
        module.register_buffer(name, tensor)
    return torch.jit.script(root)


@pytest.mark.parametrize("halvings", [1, 2])
def test_cosmos_loads_from_torchscript_with_consent_only_and_computes_the_same(tmp_path: Path, halvings: int) -> None:
    x, w = picture(32, 32), reference.Weights()
    z = reference.cosmos_encode(w, x, 32, [1, 2, 2], halvings, 16)
    codes, ids = reference.scalar_codes(z, [8, 8, 8, 5, 5, 5])
    image = reference.cosmos_decode(w, codes, 32, [1, 2, 2], halvings, 16)
    constants = {"encoder.patcher.wavelets": torch.ones(2), "decoder.unpatcher._arange": torch.arange(2)}
    constants |= {
        "quantizer._levels": torch.tensor([8, 8, 8, 5, 5, 5]),
        "quantizer.implicit_codebook": torch.ones(4, 6),
    }
    path = tmp_path / "autoencoder.jit"
    program({**w, **constants}).save(str(path))
    with pytest.raises(ValueError, match=r"autoencoder\.jit is a TorchScript program.*--allow-pickle"):
        CONVERTERS["cosmos"](path, tmp_path / "ours")
    codec = tm.load(str(CONVERTERS["cosmos"](path, tmp_path / "ours", allow_pickle=True)))
    assert codec.config["hop"] == 4 * 2**halvings
    check(codec, x, ids, image)


def test_haar_is_the_transform_of_each_patch() -> None:
    x = torch.rand(2, 3, 8, 12)
    patches = F.pixel_unshuffle(x, 4).double()
    found = torch.einsum("kp,bphw->bkhw", haar(4), patches)
    torch.testing.assert_close(found, reference.haar(x).double(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(reference.inverse_haar(reference.haar(x)), x, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["open-magvit2", "maskgit", "titok", "cosmos"])
def test_missing_and_unknown_keys_are_named(family: str, tmp_path: Path) -> None:
    w, x = reference.Weights(), picture(16, 16)
    if family == "titok":
        x = picture(32, 32)
        reference.titok_encode(w, x, 4, 64, 1, 1, 12, mix=True)
        codebook = w.draw("quantize.embedding.weight", 16, 12)
        reference.titok_decode(w, codebook[None, :4], 2, 64, 1, 1, MASKGIT)
    elif family == "cosmos":
        z = reference.cosmos_encode(w, x, 32, [1, 1], 1, 16)
        reference.cosmos_decode(w, z, 32, [1, 1], 1, 16)
    elif family == "maskgit":
        z = reference.maskgit_encode(w, x, [32, 32], 1, 16)
        w.draw("quantize.embedding.weight", 16, 16)
        reference.maskgit_decode(w, z, [32, 32], 1)
    else:
        w, _, _ = magvit2(x)
    lost = "encoder.ln_post.bias" if family == "titok" else "encoder.norm_out.bias"
    del w[lost]
    with pytest.raises(ValueError, match=r"missing keys: encoder\.norm_out\.bias.*encoder\.surprise"):
        convert(family, {**w, "encoder.surprise": torch.zeros(1)}, tmp_path)
    with pytest.raises(ValueError, match="missing keys"):
        convert(family, {"weight": torch.zeros(1)}, tmp_path)
