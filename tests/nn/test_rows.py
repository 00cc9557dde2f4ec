"""Convolutions as products of rows: the layers of torch.nn in evaluation, to rounding, and the same after a change of weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tokenizers_mm.nn.rows import RowConv1d, RowConvTranspose1d

NUMBERS = st.integers(1, 9)


@settings(max_examples=40, deadline=None)
@given(NUMBERS, NUMBERS, st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.integers(5, 30))
def test_rows_equal_the_convolution(
    wide: int, narrow: int, taps: int, stride: int, padding: int, bias: bool, steps: int
) -> None:
    x = torch.randn(3, wide, steps)
    layer = RowConv1d(wide, narrow, taps, stride, padding=padding if taps > 1 else 0, bias=bias).eval()
    if taps == 1 and stride > 1:
        layer.stride = (1,)
    with torch.no_grad():
        torch.testing.assert_close(layer.rows(x.mT, relu=True).mT, F.relu(layer(x)), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(NUMBERS, NUMBERS, st.integers(1, 6), st.integers(1, 4), st.integers(0, 2), st.booleans(), st.integers(1, 30))
def test_rows_equal_the_transposed_convolution(
    wide: int, narrow: int, taps: int, stride: int, padding: int, bias: bool, steps: int
) -> None:
    padding = min(padding, (taps - 1) // 2)
    x = torch.randn(3, wide, steps)
    layer = RowConvTranspose1d(wide, narrow, taps, stride, padding=padding, bias=bias).eval()
    with torch.no_grad():
        torch.testing.assert_close(layer.rows(x.mT).mT, layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [RowConv1d, RowConvTranspose1d])
def test_new_weights_are_noticed(kind: type[RowConv1d] | type[RowConvTranspose1d]) -> None:
    layer, x = kind(4, 5, 3, padding=1).eval(), torch.randn(2, 4, 12)
    with torch.no_grad():
        layer.rows(x.mT)
        layer.load_state_dict(kind(4, 5, 3, padding=1).state_dict())
        torch.testing.assert_close(layer.rows(x.mT).mT, layer(x), rtol=1e-4, atol=1e-5)
