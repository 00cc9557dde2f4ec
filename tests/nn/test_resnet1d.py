from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tokenizers_mm.nn.conv import StreamState
from tokenizers_mm.nn.resnet1d import AttentionBlock1d, AttentionFront, ChannelNorm

WINDOW = 5


def front(causal: bool) -> AttentionFront:
    torch.manual_seed(0)
    return AttentionFront(8, causal=causal, window=WINDOW).eval()


def test_published_size():
    with torch.device("meta"):
        stack = AttentionFront(768)
    assert sum(p.numel() for p in stack.parameters()) == 16_539_648


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 13), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_causal_pieces_equal_the_whole(sizes, seed):
    stack, state = front(causal=True), StreamState()
    x = torch.randn(2, 8, sum(sizes), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        got = torch.cat([stack(piece, state) for piece in x.split(sizes, dim=-1)], dim=-1)
        torch.testing.assert_close(got, stack(x), rtol=1e-4, atol=1e-5)


def test_causal_attention_is_softmax_over_the_window():
    block = AttentionBlock1d(8, causal=True, window=WINDOW).eval()
    x = torch.randn(1, 8, 17)
    with torch.no_grad():
        y = F.layer_norm(x[0].T, (8,), eps=1e-6)  # L x D
        q, k, v = (y @ layer.weight[..., 0].T + layer.bias for layer in (block.q, block.k, block.v))
        rows = []
        for i in range(17):
            seen = slice(max(0, i - WINDOW + 1), i + 1)
            rows.append(torch.softmax(k[seen] @ q[i] / 8**0.5, dim=0) @ v[seen])
        want = x[0].T + torch.stack(rows) @ block.proj_out.weight[..., 0].T + block.proj_out.bias
        torch.testing.assert_close(block(x)[0].T, want, rtol=1e-4, atol=1e-5)


def test_full_attention_is_softmax_over_the_clip():
    block = AttentionBlock1d(8).eval()
    x = torch.randn(2, 8, 11)
    with torch.no_grad():
        y = block.norm(x)
        q, k, v = block.q(y), block.k(y), block.v(y)
        weights = torch.softmax(q.mT @ k / 8**0.5, dim=-1)  # B x L x L
        torch.testing.assert_close(block(x), x + block.proj_out(v @ weights.mT), rtol=1e-4, atol=1e-5)


def test_only_the_causal_stack_ignores_the_future():
    x = torch.randn(1, 8, 20)
    changed = x.clone()
    changed[..., 12:] += 1
    with torch.no_grad():
        assert torch.equal(front(True)(x)[..., :10], front(True)(changed)[..., :10])
        assert not torch.allclose(front(False)(x)[..., :10], front(False)(changed)[..., :10])


def test_attention_memory_is_bounded():
    stack, state = front(causal=True), StreamState()
    with torch.no_grad():
        for n in (3, 40, 7):
            stack(torch.randn(1, 8, n), state)
    keys, values = state[stack.layers[2]]
    assert keys.shape == values.shape == (1, 1, WINDOW - 1, 8)
    assert keys.untyped_storage().nbytes() == keys.numel() * 4


def test_dropout_acts_in_training_only():
    stack, x = front(causal=False), torch.randn(1, 8, 20)
    assert torch.equal(stack(x), stack(x))
    stack.train()
    assert not torch.equal(stack(x), stack(x))


@pytest.mark.parametrize(("dim", "groups"), [(768, 32), (256, 32), (32, 4), (48, 2), (20, 2), (7, 1)])
def test_groups_are_published_ones_and_never_of_fewer_than_eight_channels(dim, groups):
    assert AttentionBlock1d(dim).norm.num_groups == groups


def test_channel_norm_uses_each_step_alone():
    x = torch.randn(2, 6, 9)
    y = ChannelNorm(6)(x)
    torch.testing.assert_close(y.mean(dim=1), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(y[..., 3:4], ChannelNorm(6)(x[..., 3:4]))


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="causal=True"):
        front(causal=False)(torch.zeros(1, 8, 4), {})
    with pytest.raises(ValueError, match="window must be at least 1"):
        AttentionBlock1d(8, causal=True, window=0)
