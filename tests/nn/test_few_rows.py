"""Products with few rows are F.linear's, follow changes of the weight, and leave gradients alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from tokenizers_mm.nn.few_rows import FewRowsLinear


@pytest.mark.parametrize("rows", [1, 3, 64, 65, 200])
def test_products_are_those_of_f_linear(rows: int) -> None:
    layer, x = FewRowsLinear(40, 24), torch.randn(2, rows, 40)
    with torch.no_grad():
        assert torch.allclose(layer(x), F.linear(x, layer.weight), atol=1e-5)


def test_a_changed_weight_is_packed_anew() -> None:
    layer, x = FewRowsLinear(16, 8), torch.randn(1, 16)
    with torch.no_grad():
        before = layer(x)
        layer.weight.mul_(2)
        assert torch.allclose(layer(x), 2 * before, atol=1e-5)
        layer.weight = torch.nn.Parameter(torch.zeros(8, 16))
        assert not layer(x).any()


def test_gradients_and_copies() -> None:
    layer, x = FewRowsLinear(16, 8), torch.randn(1, 16)
    with torch.no_grad():
        layer(x)
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, x.expand(8, -1))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            other.weight.zero_()
            assert not other(x).any()
            assert layer(x).any()
