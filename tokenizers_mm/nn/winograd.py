"""3x3 convolutions of normalised images with half the products, for inference on x86 processors.

Winograd's minimal filtering F(4, 3), as Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, use it, along
the columns of an image only: four rows of the result come from six sums of rows, each convolved along its rows by three taps,
which is 18 products for 36. Along both axes it would save more, and lose more digits.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import channels_last, padded_rows

_ROWS = 4  # of the result, from each group of six of the image
_GROUP_VALUES = (
    2**18
)  # of each sum in a strip: all of them lie in the processor's caches, and threads have enough to share
_GEOMETRY = ([0, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation and groups of a convolution along rows
_FEWEST_CHANNELS = 64
_FEWEST_PRODUCTS = 2**26  # under a millisecond there is little to gain


def worthwhile(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether :func:`normalised_conv2d` saves time: on maps that are large beside the filters it has to make."""
    positions, products = x.shape[-2] * x.shape[-1], layer.in_channels * layer.out_channels * 9
    return (
        min(layer.in_channels, layer.out_channels) >= _FEWEST_CHANNELS
        and positions * products >= _FEWEST_PRODUCTS
        and positions >= 9 * layer.in_channels
    )


def normalised_conv2d(x: Tensor, scale: Tensor, shift: Tensor, layer: nn.Conv2d, total: Tensor | None = None) -> Tensor:
    """``layer(silu(x * scale + shift))``, of which no whole map but the result lies in memory.

    Each image goes through by itself, in strips of rows, so no batch-mate changes a result. Results differ from the plain
    order by rounding, about twice as much as float32 itself loses there.

    Args:
        x: Maps, ``[B, C, H, W]``.
        scale: ``[B, C, 1, 1]``.
        shift: ``[B, C, 1, 1]``.
        layer: A 3x3 convolution that pads by one.
        total: ``[B, C', H, W]`` to add to; written over, where it has its channels last.

    Returns:
        ``[B, C', H, W]``, channels last in memory.
    """
    images, filters = channels_last(x), _filters(layer.weight)
    batch, height, width, channels = images.shape
    out = x.new_empty(batch, height, width, layer.out_channels) if total is None else channels_last(total)
    groups = min(-(-height // _ROWS), max(1, _GROUP_VALUES // (width * channels)))
    for index, (image, result) in enumerate(zip(images, out, strict=True)):
        prepare = partial(_scale_shift_silu, scale[index, :, 0, 0], shift[index, :, 0, 0])
        for start in range(0, height, groups * _ROWS):
            end = start + groups * _ROWS
            sums = _sums(padded_rows(image, start - 1, end + 1, prepare))
            biases = (None, layer.bias, None, None, None, None)  # the second is in all four rows, once
            products = [_convolve(*each) for each in zip(sums, filters, biases, strict=True)]
            _combine(products, result[start:end], add=total is not None)
    return out.permute(0, 3, 1, 2)


def _filters(weight: Tensor) -> list[Tensor]:
    """Three taps along rows for each of the six sums, in oneDNN's own order, from ``[C', C, 3, 3]``.

    Made anew each time: kept, they would take twice the weights' memory, and they are made in a fraction of what they save.
    """
    first, middle, last = weight.detach().contiguous().unbind(2)
    ends, ends4 = (first + last) / 6, torch.add(first, last, alpha=4) / 24
    each = (
        first / 4,
        -torch.add(ends, middle, alpha=1 / 6),
        torch.sub(middle / 6, ends),
        torch.add(ends4, middle, alpha=1 / 12),
        torch.sub(ends4, middle, alpha=1 / 12),
        last.contiguous(),
    )
    return [torch.ops.mkldnn._reorder_convolution_weight(taps[:, :, None], *_GEOMETRY) for taps in each]


def _sums(rows: Tensor) -> tuple[Tensor, ...]:
    """The six sums of each group's rows, ``[groups, W, C]`` each, from ``[groups * 4 + 2, W, C]``."""
    a, b, c, d, e, f = (rows[tap : tap + len(rows) - 5 : _ROWS] for tap in range(6))
    even, odd = e - c, d - b
    first = torch.sub(a, c).mul_(4).add_(even)
    last = torch.sub(f, d).sub_(odd, alpha=4)
    plus2, minus2 = torch.add(even, odd, alpha=2), torch.sub(even, odd, alpha=2)
    even, odd = even.sub_(c, alpha=3), odd.sub_(b, alpha=3)
    return first, even + odd, even.sub_(odd), plus2, minus2, last


def _convolve(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Along rows: ``[groups, W, C] -> [groups, W, C']``."""
    y = torch.ops.mkldnn._convolution_pointwise(rows.mT[:, :, None], weight, bias, *_GEOMETRY, "none", [], "")
    return y[:, :, 0].mT


def _scale_shift_silu(scale: Tensor, shift: Tensor, rows: Tensor) -> Tensor:
    return F.silu(torch.addcmul(shift, rows, scale), inplace=True)


def _combine(products: list[Tensor], result: Tensor, *, add: bool) -> None:
    """Writes the four rows of each group, or adds them to what is there: ``[H', W, C']``, the last group perhaps cut."""
    first, plus, minus, plus2, minus2, last = products
    odd, odd2 = plus - minus, plus2 - minus2
    even, even2 = plus.add_(minus), plus2.add_(minus2)
    last.add_(odd).add_(odd2, alpha=8)
    rows = (first.add_(even).add_(even2), odd.add_(odd2, alpha=2), even.add_(even2, alpha=4), last)
    for index, values in enumerate(rows):
        place = result[index::_ROWS]
        (place.add_ if add else place.copy_)(values[: len(place)])
