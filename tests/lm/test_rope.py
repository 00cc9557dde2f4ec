"""Rotary positions: relative, by pairs or halves, on lines and grids, with prefixes outside."""

from __future__ import annotations

import math

import pytest
import torch

from tokenizers_mm.lm.backbone import Transformer
from tokenizers_mm.lm.rope import Rope, turn


def plain(x: list[float], angles: list[float], layout: str) -> list[float]:
    """A vector turned by hand."""
    n, out = len(angles), list(x)
    for i, angle in enumerate(angles):
        a, b = (i, i + n) if layout == "halves" else (2 * i, 2 * i + 1)
        out[a] = x[a] * math.cos(angle) - x[b] * math.sin(angle)
        out[b] = x[b] * math.cos(angle) + x[a] * math.sin(angle)
    return out


@pytest.mark.parametrize("layout", ["halves", "pairs"])
@pytest.mark.parametrize("axes", [1, 2])
def test_a_vector_turns_as_by_hand(layout: str, axes: int) -> None:
    x = torch.randn(1, 1, 1, 8)
    place = [5] if axes == 1 else [3, 7]
    count = 4 // axes
    angles = [p * 100.0 ** (-j / count) for p in place for j in range(count)]
    found = turn(x, Rope(8, 100.0, layout=layout, axes=axes).table(torch.tensor([[place]])))  # type: ignore[arg-type]
    torch.testing.assert_close(found.flatten(), torch.tensor(plain(x.flatten().tolist(), angles, layout)))


@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_products_depend_on_distances_only(layout: str) -> None:
    rope = Rope(16, layout=layout, axes=2)  # type: ignore[arg-type]
    q, k = torch.randn(2, 1, 1, 1, 16).expand(2, 1, 1, 1, 16)
    products = [
        (turn(q, rope.table(torch.tensor([[[r + 2, c + 5]]]))) * turn(k, rope.table(torch.tensor([[[r, c]]])))).sum()
        for r, c in ((0, 0), (4, 9), (30, 1))
    ]
    torch.testing.assert_close(products[0], products[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(products[0], products[2], atol=1e-4, rtol=1e-4)


def test_prefixes_are_not_turned_or_vanish() -> None:
    x, places = torch.randn(1, 2, 2, 8), torch.tensor([[-1, 3]])
    kept = turn(x, Rope(8, cond_rope="identity").table(places))
    gone = turn(x, Rope(8, cond_rope="zero").table(places))
    torch.testing.assert_close(kept[:, :, 0], x[:, :, 0])
    assert (gone[:, :, 0] == 0).all()
    torch.testing.assert_close(kept[:, :, 1], gone[:, :, 1])


def test_text_and_grids_share_a_document() -> None:
    """Of a network of two axes: text at p stands at row and column p; who sees whom is the order's, not the places'."""
    net = Transformer(dim=32, layers=2, heads=2, rope_axes=2).eval()
    x = torch.randn(1, 7, 32)
    text = torch.arange(3)[:, None].expand(-1, 2)
    grid = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij"), dim=-1).flatten(0, 1)
    places = torch.cat([text, grid])[None]
    whole = net(x, positions=places)
    cache = net.cache(1, 7)
    parts = [net(x[:, i : i + 1], None, cache, places[:, i : i + 1]) for i in range(7)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net(x[:, :3]), whole[:, :3])  # the default places of text
    assert not torch.allclose(net(x)[:, 3:], whole[:, 3:])


def test_wrong_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="twice the axes"):
        Rope(6, axes=2)
    with pytest.raises(ValueError, match="layout must be one of"):
        Rope(8, layout="spiral")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"positions must be \[B, L\] or \[B, L, 1\]"):
        Rope(8).table(torch.zeros(1, 3, 2))
