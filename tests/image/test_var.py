from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import tokenizers_mm as tm
from tokenizers_mm import registry
from tokenizers_mm.image import VARTokenizer, files
from tokenizers_mm.nn.multiscale import MultiScaleQuantizer

TINY = {
    "scales": (1, 2, 3, 4),
    "hop": 4,
    "codebook_size": 32,
    "latent_channels": 8,
    "channels": 8,
    "multipliers": (1, 2, 2),
    "blocks": 1,
    "groups": 4,
    "refinements": 2,
}


def tiny(**changes) -> VARTokenizer:
    torch.manual_seed(0)
    codec = VARTokenizer(**{**TINY, **changes}).eval()
    torch.nn.init.normal_(codec.quantizer.codebook.weight)
    return codec


def test_published_size_and_token_counts() -> None:
    with torch.device("meta"):
        codec = VARTokenizer()
    assert sum(p.numel() for p in codec.parameters()) == 108_948_355
    assert sum(p.numel() for p in codec.quantizer.parameters()) == 168_064
    assert codec.spec.scales == (1, 4, 9, 16, 25, 36, 64, 100, 169, 256)
    assert codec.spec.steps((256, 256)) == 680
    assert [codec.quantizer._refinement_of(i) for i in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def test_quantizer_follows_the_published_algorithm() -> None:
    """Written out from the paper's algorithm with explicit distances, one scale at a time."""
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(6, 20, (1, 2, 3, 5), refinements=4).eval()
    torch.nn.init.normal_(quantizer.codebook.weight)
    f = torch.randn(3, 6, 5, 5)
    rest, total, ids = f.clone(), torch.zeros_like(f), []
    with torch.no_grad():
        for scale, side in enumerate((1, 2, 3, 5)):
            small = F.adaptive_avg_pool2d(rest, side) if side < 5 else rest
            distances = (small.permute(0, 2, 3, 1)[..., None, :] - quantizer.codebook.weight).square().sum(-1)
            ids.append(distances.argmin(-1).flatten(1))
            h = quantizer.codebook.weight[distances.argmin(-1)].permute(0, 3, 1, 2)
            h = F.interpolate(h, size=(5, 5), mode="bicubic") if side < 5 else h
            phi = quantizer.refinements[scale]  # 4 scales and 4 convolutions: one each
            h = 0.5 * h + 0.5 * F.conv2d(h, phi.weight, phi.bias, padding=1)
            total, rest = total + h, rest - h
        out = quantizer(f)
    assert torch.equal(out.ids[..., 0], torch.cat(ids, 1))
    torch.testing.assert_close(out.features, total, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(quantizer.decode(out.ids), total, atol=1e-5, rtol=1e-5)


def test_loss_averages_both_terms_over_scales() -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(4, 8, (1, 2, 4), refinements=1, commitment_weight=0.25).train()
    f = torch.randn(2, 4, 4, 4)
    out = quantizer(f)
    sums = quantizer.partial_sums(out.ids)
    wanted = sum(1.25 * (s - f).square().mean() for s in sums) / 3
    torch.testing.assert_close(out.loss, wanted)


def test_tokens_of_whole_scales_only() -> None:
    codec = tiny()
    tokens = codec.encode(torch.rand(2, 3, 16, 16))
    assert tokens.ids.shape == (2, 30, 1)
    with pytest.raises(ValueError, match="whole scales"):
        codec.quantizer.decode(tokens.ids[:, :7])
    assert codec.next_inputs(tokens).shape == (2, 29, 8)


def test_next_inputs_are_what_the_next_scale_starts_from() -> None:
    codec = tiny()
    tokens = codec.encode(torch.rand(1, 3, 16, 16))
    inputs = codec.next_inputs(tokens)
    after_two = codec.quantizer.decode(tokens.prefix(scales=2).ids)
    torch.testing.assert_close(inputs[:, 4 : 4 + 9].mT.reshape(1, 8, 3, 3), F.adaptive_avg_pool2d(after_two, 3))


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (16, 16), (50, 33)])
def test_any_size_comes_back_exactly(size: tuple[int, int]) -> None:
    codec = tiny()
    x = torch.rand(2, 3, *size)
    tokens = codec.encode(x)
    assert tokens.ids.shape[1] == 30
    assert codec.decode(tokens).shape == x.shape


def test_more_scales_tell_more_once_trained() -> None:
    torch.manual_seed(0)
    codec = VARTokenizer(**TINY, revive_below=0.1).train()
    x = torch.rand(4, 3, 4, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
    optimizer = torch.optim.Adam(codec.parameters(), 5e-3)
    for _ in range(50):
        output = codec(x)
        optimizer.zero_grad()
        (F.mse_loss(output.reconstruction, x) + output.quantizer_loss).backward()
        optimizer.step()
    codec.eval()
    tokens = codec.encode(x)
    errors = [float(F.mse_loss(codec.decode(tokens.prefix(scales=s)), x)) for s in (1, 2, 3, 4)]
    assert errors[0] > errors[3]
    assert errors[3] < 0.9 * float(x.var())


def test_every_scale_of_the_shipped_codec_lowers_the_error() -> None:
    codec = tm.load("var-128")
    folder = registry.data_path("eval") / "samples" / "images"
    errors = torch.zeros(len(codec.spec.scales))
    for path in sorted(folder.glob("*.png"))[:6]:
        x = files.read(path, codec.spec)[None]
        tokens = codec.encode(x)
        errors += torch.stack([F.mse_loss(codec.decode(tokens.prefix(scales=s)), x) for s in range(1, len(errors) + 1)])
    assert (errors.diff() < 0).all()


def test_reviving_keeps_more_codes_in_use() -> None:
    used = []
    for revive in (0.0, 0.2):
        torch.manual_seed(0)
        quantizer = MultiScaleQuantizer(4, 64, (1, 2, 4), revive_below=revive).train()
        optimizer = torch.optim.Adam(quantizer.parameters(), 1e-3)
        for _ in range(40):
            loss = quantizer(torch.randn(8, 4, 4, 4)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        used.append(quantizer.eval()(torch.randn(32, 4, 4, 4)).ids.unique().numel())
    assert used[1] > used[0]


def test_scales_must_grow() -> None:
    with pytest.raises(ValueError, match="growing"):
        MultiScaleQuantizer(4, 8, (1, 3, 2))
