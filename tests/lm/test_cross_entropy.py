"""The chunked cross-entropy is PyTorch's, in value and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tokenizers_mm.lm import cross_entropy
from tokenizers_mm.lm.cross_entropy import linear_cross_entropy


def _case(rows: int, width: int, size: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 100 + size)
    features = torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(size, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(size, (rows,), generator=generator)
    return features.float(), weight.float(), targets, torch.rand(rows, generator=generator)


@given(
    rows=st.integers(1, 20), size=st.integers(1, 9), values=st.integers(1, 40), scale=st.sampled_from([0.1, 1.0, 50.0])
)
def test_values_and_gradients_are_those_of_all_logits_at_once(rows: int, size: int, values: int, scale: float) -> None:
    features, weight, targets, shares = _case(rows, 5, size, scale)
    found, wanted = [], []
    for collected, chunked in ((found, True), (wanted, False)):
        x, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cross_entropy, "_VALUES", values)
                total = linear_cross_entropy(x, w, targets, shares)
        else:
            total = F.cross_entropy(x @ w.T, targets, reduction="none") @ shares
        (3 * total).backward()
        collected += [total.detach(), x.grad, w.grad]
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * scale)


def test_without_gradients_none_are_made() -> None:
    features, weight, targets, shares = _case(3, 4, 6, 1.0)
    assert not linear_cross_entropy(features, weight, targets, shares).requires_grad
    weight.requires_grad_()
    with torch.no_grad():
        assert not linear_cross_entropy(features, weight, targets, shares).requires_grad


def test_in_bfloat16_the_loss_is_float32_and_gradients_are_of_their_own_type() -> None:
    features, weight, targets, shares = _case(7, 8, 11, 1.0)
    x, w = features.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total = linear_cross_entropy(x, w, targets, shares)
    total.backward()
    assert total.dtype == x.grad.dtype == w.grad.dtype == torch.float32
    assert torch.allclose(total, F.cross_entropy(x @ w.T, targets, reduction="none") @ shares, rtol=0.02)
