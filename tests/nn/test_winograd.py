from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tokenizers_mm.nn import winograd
from tokenizers_mm.nn.onednn import usable
from tokenizers_mm.nn.resnet2d import ResBlock2d
from tokenizers_mm.nn.winograd import normalised_conv2d, worthwhile


def maps(batch: int, channels: int, height: int, width: int, seed: int) -> torch.Tensor:
    noise = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return noise.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 9),
    out_channels=st.integers(1, 9),
    height=st.integers(1, 23),
    width=st.integers(1, 9),
    values=st.sampled_from([1, 2**6, 2**17]),
    bias=st.booleans(),
    add=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_plain_convolution_of_the_normalised_map(
    batch: int, channels: int, out_channels: int, height: int, width: int, values: int, bias: bool, add: bool, seed: int
) -> None:
    """For every size, in strips of any length, with or without bias and a sum to add to; compared in double precision."""
    torch.manual_seed(seed)
    x, scale, shift = (
        maps(batch, channels, *side, seed + k) for k, side in enumerate([(height, width), (1, 1), (1, 1)])
    )
    layer = nn.Conv2d(channels, out_channels, 3, padding=1, bias=bias)
    total = maps(batch, out_channels, height, width, seed + 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_GROUP_VALUES", values)
        if not usable(x):
            pytest.skip("needs oneDNN's operators")
        found = normalised_conv2d(x, scale, shift, layer, total.clone() if add else None)
    layer.double()
    wanted = layer(F.silu(x.double() * scale.double() + shift.double())) + (total.double() if add else 0)
    torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_it_loses_little_more_than_float32_does() -> None:
    torch.manual_seed(0)
    x = maps(1, 128, 40, 40, 0)
    layer = nn.Conv2d(128, 128, 3, padding=1)
    one, nought = torch.ones(1, 128, 1, 1), torch.zeros(1, 128, 1, 1)
    if not usable(x):
        pytest.skip("needs oneDNN's operators")
    wanted = F.conv2d(F.silu(x.double()), layer.weight.double(), layer.bias.double(), padding=1)
    plain, fast = ((y.double() - wanted).std() for y in (layer(F.silu(x)), normalised_conv2d(x, one, nought, layer)))
    assert fast < 4 * plain


@torch.no_grad()
def test_blocks_use_it_in_evaluation_and_give_what_training_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block, x = ResBlock2d(64, 64, 32), maps(2, 64, 48, 48, 0)
    assert worthwhile(block.conv1, x)
    wanted = block.train()(x.clone())
    calls = []
    plain = winograd._sums
    monkeypatch.setattr(winograd, "_sums", lambda rows: calls.append(1) or plain(rows))
    found = block.eval()(x.clone())
    assert len(calls) >= 4 if usable(x) else not calls
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    alone = block(x[1:].clone())
    assert torch.equal(found[1:], alone)  # a batch-mate changes nothing
