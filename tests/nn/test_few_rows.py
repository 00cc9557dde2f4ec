"""Products with few rows are F.linear's, follow changes of the weight, and leave gradients alone."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from torch.nn import functional as F

from tokenizers_mm.nn import few_rows as module
from tokenizers_mm.nn.few_rows import FewRowsLinear, _packs, few_rows
from tokenizers_mm.nn.onednn import AVAILABLE


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", 1)


@pytest.mark.parametrize("rows", [1, 3, 64, 65, 200])
def test_products_are_those_of_f_linear(rows: int) -> None:
    layer, x = FewRowsLinear(40, 24), torch.randn(2, rows, 40)
    with torch.no_grad():
        assert torch.allclose(layer(x), F.linear(x, layer.weight), atol=1e-5)


@pytest.mark.parametrize("outputs", [range(0), range(3, 3), range(5, 24), range(24)])
def test_some_outputs_are_those_of_the_whole(outputs: range) -> None:
    x, weight = torch.randn(3, 40), torch.randn(24, 40)
    wanted = F.linear(x, weight)[:, outputs.start : outputs.stop]
    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(few_rows(x, weight, outputs), wanted, atol=1e-5)
        weight.mul_(2)
        assert torch.allclose(few_rows(x, weight, outputs), 2 * wanted, atol=1e-5)


@pytest.mark.skipif(not AVAILABLE, reason="this build of PyTorch has no such operators")
def test_compiled_code_has_it_as_an_operator() -> None:
    x, weight = torch.randn(12, 40), torch.randn(24, 40)
    with torch.no_grad():
        found = torch.ops.tokenizers_mm.few_rows(x, weight, 3, 20)
        assert torch.allclose(found, F.linear(x, weight[3:20]), atol=1e-5)
        torch.library.opcheck(module._few_rows, (x, weight, 3, 20), test_utils=("test_schema", "test_faketensor"))


def test_packed_copies_live_as_long_as_their_weights() -> None:
    weight = torch.randn(24, 40)
    with torch.no_grad():
        few_rows(torch.randn(1, 40), weight)
    gc.collect()
    before = len(_packs)
    del weight
    gc.collect()
    assert len(_packs) == before - 1


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
