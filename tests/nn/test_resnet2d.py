from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tokenizers_mm.nn.normconv2d import NormSiLU
from tokenizers_mm.nn.resnet2d import (
    Attention2d,
    Decoder2d,
    Downsample2d,
    Encoder2d,
    ResBlock2d,
    Upsample2d,
    halvings,
)

PUBLISHED = {"channels": 128, "multipliers": (1, 1, 2, 2, 4), "blocks": 2}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module.eval()


@pytest.mark.parametrize(
    ("changes", "encoder", "decoder"),
    [
        ({}, 29_298_176, 42_449_795),
        ({"multipliers": (1, 2, 2, 4)}, 28_559_232, 41_415_171),
        ({"blocks": 4}, 46_752_256, 59_903_875),
    ],
)
def test_published_sizes(changes: dict, encoder: int, decoder: int) -> None:
    sizes = {**PUBLISHED, **changes}
    resamples = len(sizes["multipliers"]) - 1
    with torch.device("meta"):
        down = Encoder2d(256, **sizes, downsamples=resamples)
        up = Decoder2d(256, **{**sizes, "blocks": sizes["blocks"] + 1}, upsamples=resamples)
    assert sum(p.numel() for p in down.parameters()) == encoder
    assert sum(p.numel() for p in up.parameters()) == decoder


@pytest.mark.parametrize(
    ("patch", "levels", "resamples", "hop"), [(1, 3, 2, 4), (2, 2, 1, 4), (4, 3, 1, 8), (2, 1, 0, 2)]
)
def test_sides_shrink_and_grow_by_the_hop(patch: int, levels: int, resamples: int, hop: int) -> None:
    sizes = {"channels": 8, "multipliers": (1,) * levels, "blocks": 1, "groups": 4, "patch_size": patch}
    z = Encoder2d(5, **sizes, downsamples=resamples)(torch.rand(2, 3, 2 * hop, 3 * hop))
    assert z.shape == (2, 5, 2, 3)
    assert Decoder2d(5, **sizes, upsamples=resamples)(z).shape == (2, 3, 2 * hop, 3 * hop)
    assert halvings(hop, patch, levels) == resamples


@pytest.mark.parametrize(("hop", "patch", "levels"), [(12, 1, 5), (8, 1, 3), (2, 4, 2), (8, 3, 4)])
def test_impossible_hops_are_refused(hop: int, patch: int, levels: int) -> None:
    with pytest.raises(ValueError, match="hop must be"):
        halvings(hop, patch, levels)


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 3), height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 99))
def test_inference_computes_what_training_does(batch: int, height: int, width: int, seed: int) -> None:
    """Fused skips, in-place normalisation and upsampling by phases are the plain definitions, up to rounding."""
    modules = [
        randomised(m)
        for m in (ResBlock2d(8, 8, 2), ResBlock2d(8, 12, 4), Upsample2d(8), Downsample2d(8), Attention2d(8, 4))
    ]
    x = torch.randn(batch, 8, height, width, generator=torch.Generator().manual_seed(seed))
    for module in modules:
        plain = module(x)
        with torch.no_grad():
            fast = module(x.clone().contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(fast, plain.detach(), atol=2e-3, rtol=2e-3)


def test_upsampling_by_phases_is_exact_to_rounding_and_follows_new_weights() -> None:
    layer = randomised(Upsample2d(16))
    x = torch.randn(2, 16, 5, 7)
    for _ in range(2):
        with torch.no_grad():
            fast = layer(x)
            wanted = F.conv2d(F.interpolate(x, scale_factor=2.0), layer.weight, layer.bias, padding=1)
        torch.testing.assert_close(fast, wanted, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            layer.weight.mul_(-2)


def test_normalisation_is_as_exact_as_double_precision_asks() -> None:
    norm = randomised(NormSiLU(64, 32))
    x = (5 + torch.randn(2, 64, 80, 80)).contiguous(memory_format=torch.channels_last)
    wanted = F.silu(F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps))
    with torch.no_grad():
        torch.testing.assert_close(norm(x).double(), wanted, atol=1e-4, rtol=1e-4)


def test_attention_is_softmax_over_all_positions() -> None:
    block = randomised(Attention2d(8, 4))
    x = torch.randn(2, 8, 3, 5)
    tokens = block.norm(x).flatten(2).mT
    q, k, v = F.linear(tokens, block.qkv.weight, block.qkv.bias).chunk(3, dim=-1)
    mixed = (q @ k.mT / 8**0.5).softmax(dim=-1) @ v
    wanted = x + F.linear(mixed, block.out.weight, block.out.bias).mT.reshape(x.shape)
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)


def test_a_block_never_writes_over_its_input_while_gradients_flow() -> None:
    block = randomised(ResBlock2d(8, 8, 2))
    x = torch.randn(1, 8, 4, 4, requires_grad=True)
    before = x.detach().clone()
    block(x).sum().backward()
    assert torch.equal(x.detach(), before)
    assert x.grad is not None
