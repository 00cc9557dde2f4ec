"""The transformer over codebooks: what each code may know, training and drawing alike, learning what parallel heads cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.lm.depth import DepthTransformer

Q, V = 4, 11


def network(**options: object) -> DepthTransformer:
    torch.manual_seed(0)
    net = DepthTransformer(24, Q, V, dim=32, layers=2, heads=4, **options).eval()  # type: ignore[arg-type]
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net


@pytest.mark.parametrize("shared", [False, True])
def test_a_code_knows_its_step_and_the_codes_before_it_there(shared: bool) -> None:
    net, features, codes = network(shared=shared), torch.randn(2, 5, 24), torch.randint(V, (2, 5, Q))
    before = net(features, codes)
    assert before.shape == (2, 5, Q, V)
    for t, q in ((0, 0), (2, 1), (4, 2)):
        other = codes.clone()
        other[:, t, q] = (other[:, t, q] + 1) % V
        moved = (net(features, other) - before).abs().amax(dim=(0, 3)) > 1e-6
        expected = torch.zeros(5, Q, dtype=torch.bool)
        expected[t, q + 1 :] = True
        assert torch.equal(moved, expected)


@pytest.mark.parametrize("shared", [False, True])
def test_drawing_sees_the_logits_of_training(shared: bool) -> None:
    net, features = network(shared=shared), torch.randn(6, 24)
    seen: list[Tensor] = []

    def choose(codebook: int, logits: Tensor) -> Tensor:
        assert codebook == len(seen)
        seen.append(logits)
        return logits.argmax(dim=-1)

    codes = net.read(features, choose)
    torch.testing.assert_close(
        torch.stack(seen, dim=1), net(features[:, None], codes[:, None])[:, 0], atol=1e-5, rtol=1e-4
    )


def test_absent_codes_say_nothing() -> None:
    net, features = network(), torch.randn(1, 1, 24)
    codes = torch.tensor([[[3, -1, 5, 2]]])
    with torch.no_grad():
        net.embedding.weight[V : 2 * V] = 9.0  # of the second codebook
    assert net(features, codes).isfinite().all()
    spoken = net(features, codes.clamp(min=0))
    assert torch.equal(net(features, codes)[..., :2, :], spoken[..., :2, :])
    assert not torch.allclose(net(features, codes)[..., 2, :], spoken[..., 2, :])


def test_steps_have_weights_of_their_own_or_share_them() -> None:
    own, shared = network(), network(shared=True)
    blocks = [sum(p.numel() for p in net.blocks.parameters() if p.ndim > 1) for net in (own, shared)]
    assert blocks[0] == Q * blocks[1]


def test_a_code_that_follows_from_the_one_before_is_learned() -> None:
    """Parallel heads cannot: with the features alone the second code costs ln 8."""
    torch.manual_seed(0)
    net, features = DepthTransformer(4, 2, 8, dim=16, layers=1, heads=2), torch.ones(64, 1, 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(120):
        first = torch.randint(8, (64, 1))
        codes = torch.stack([first, (3 * first + 1) % 8], dim=-1)
        losses = F.cross_entropy(net(features, codes).permute(0, 3, 1, 2), codes, reduction="none").mean(dim=(0, 1))
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert losses[0] > 1.9
    assert losses[1] < 0.2


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"codes must be \[2, 5, 4\], got \[2, 5, 3\]"):
        network()(torch.randn(2, 5, 24), torch.zeros(2, 5, 3).long())
    with pytest.raises(ValueError, match="multiple of heads"):
        DepthTransformer(24, Q, V, dim=30, heads=4)
