"""Frechet distance against scipy's matrix root and a closed form."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers_mm.evaluation.frechet import frechet_distance


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), m=st.integers(2, 40), d=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_it_is_the_textbook_formula(n: int, m: int, d: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g)
    b = torch.randn(m, d, generator=g) + torch.randn(d, generator=g)
    s1, s2 = (np.cov(x.double().numpy().T).reshape(d, d) for x in (a, b))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(s1 @ s2).real, 0)).sum()
    means = float((a.double().mean(0) - b.double().mean(0)).square().sum())
    assert frechet_distance(a, b) == pytest.approx(max(0, means + np.trace(s1 + s2) - 2 * roots), rel=1e-4, abs=1e-4)


def test_it_equals_scipys_matrix_root():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(200, 5, generator=g), 2 * torch.randn(300, 5, generator=g) + 1
    s1, s2 = (np.cov(x.double().numpy().T) for x in (a, b))
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_a_shift_costs_its_square_and_nothing_else():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + torch.tensor([3.0, 0, 4.0])) == pytest.approx(25, rel=1e-5)
    assert frechet_distance(x, 2 * x) == pytest.approx(frechet_distance(2 * x, x))


def test_what_it_does_not_take():
    x = torch.randn(5, 3)
    for a, b in ((x, x[:, :2]), (x[:1], x), (x[0], x)):
        with pytest.raises(ValueError, match="two sets"):
            frechet_distance(a, b)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(x, x * float("nan"))
