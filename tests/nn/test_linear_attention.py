"""Linear attention equals the matrix of scores written out and the package that the published weights come from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.eeg import published_eeg as published
from tokenizers_mm.eeg.convert.tfm import fused
from tokenizers_mm.nn.linear_attention import LinearAttention, LinearAttentionTransformer

PLACES = {
    "0.norm": "norm1",
    "1.norm": "norm2",
    "0.fn.to_out": "attention.out",
    "1.fn.fn.w1": "mlp.0",
    "1.fn.fn.w2": "mlp.1",
}


def ours(weights: dict[str, torch.Tensor], depth: int) -> LinearAttentionTransformer:
    network = LinearAttentionTransformer(64, depth, 8, dropout=0.2).eval()
    renamed = {}
    for key, tensor in fused(weights).items():
        index, _, rest = key.partition(".")
        place, _, kind = rest.rpartition(".")
        renamed[f"layers.{index}.{PLACES.get(place, place)}.{kind}"] = tensor
    network.load_state_dict(renamed)
    return network


@pytest.mark.parametrize("gradients", [False, True])
def test_it_equals_the_scores_written_out(gradients: bool) -> None:
    weights = published.randomised(published.linear_transformer_shapes("", 2))
    x = torch.randn(3, 11, 64)
    with torch.set_grad_enabled(gradients):  # two sets of kernels
        found = ours(weights, 2)(x)
    torch.testing.assert_close(found, published.linear_transformer(weights, "", x), atol=1e-5, rtol=1e-5)


def test_it_equals_the_package() -> None:
    package = pytest.importorskip("linear_attention_transformer")
    peer = package.LinearAttentionTransformer(dim=64, depth=3, max_seq_len=100, heads=8, attn_layer_dropout=0.2).eval()
    weights = {key.removeprefix("layers.layers."): tensor for key, tensor in peer.state_dict().items()}
    x = torch.randn(2, 17, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(weights, 3)(x), peer(x), atol=1e-5, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 40), seed=st.integers(0, 99))
def test_permuting_the_sequence_permutes_the_output(length: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    network = LinearAttentionTransformer(16, 2, 4).eval()
    x, order = torch.randn(2, length, 16, generator=random), torch.randperm(length, generator=random)
    with torch.no_grad():
        torch.testing.assert_close(network(x[:, order]), network(x)[:, order], atol=1e-5, rtol=1e-5)


def test_dropout_is_of_the_attention_alone_and_of_training_alone() -> None:
    network = LinearAttentionTransformer(16, 1, 4, dropout=1.0)
    x = torch.randn(1, 5, 16)
    layer = network.layers[0]
    torch.testing.assert_close(network(x), x + layer.mlp(layer.norm2(x)))
    network.eval()
    assert not torch.allclose(network(x), x + layer.mlp(layer.norm2(x)))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads must divide dim=10, got 4"):
        LinearAttention(10, 4)


@settings(max_examples=25, deadline=None)
@given(
    items=st.integers(1, 4),
    steps=st.integers(1, 25),
    heads=st.sampled_from([1, 2, 8]),
    size=st.sampled_from([0.0, 1.0, 10.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_inference_computes_what_training_does(items: int, steps: int, heads: int, size: float, seed: int) -> None:
    """Also where exponentials would overflow."""
    torch.manual_seed(seed)
    layer = LinearAttention(16, heads).eval()
    x = size * torch.randn(items, steps, 16)
    wanted = layer(x).detach()
    with torch.no_grad():
        found = layer(x)
    torch.testing.assert_close(found, wanted, atol=1e-5 * max(size, 1), rtol=1e-5)
