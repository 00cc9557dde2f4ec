"""Products of a large weight with few rows, as a decoder makes them step by step.

With two to some thirty rows oneDNN, given a packed weight, takes about half of MKL's time on the processors that we measured. In
code that ``torch.compile`` makes, up to eight rows are sums of products that read the weight once: twice as fast as MKL with one.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from tokenizers_mm.nn.onednn import AVAILABLE, usable

_MOST = 64  # rows; with many more, packing gains little
_LEAST = 2**19  # values of a weight; with fewer, calling oneDNN costs more than it saves
_SUMS = 8  # rows that compiled code sums
_HINT = 8  # rows that the order in memory is chosen for; it serves all numbers from 1 on

_Packs = dict[tuple[int, int], tuple[tuple[int, int], Tensor]]
_packs: MutableMapping[Tensor, _Packs] = WeakTensorKeyDictionary()
"""Of weights that are alive, by first output and one after the last: a stamp of what was packed, and the copy."""


def few_rows(x: Tensor, weight: Tensor, outputs: range | None = None) -> Tensor:
    """``F.linear(x, weight)``; in inference on x86 processors, by a copy of the weight in oneDNN's order.

    The copy is made when it is first needed, and anew when the weight has changed. In a single process that compiles nothing, the
    way that is taken depends on shapes alone, so that the same products round alike.

    Args:
        x: ``[..., inputs]``.
        weight: ``[outputs, inputs]``.
        outputs: Which of them are wanted; all by default.
    """
    first, last = (0, len(weight)) if outputs is None else (outputs.start, outputs.stop)
    if x.numel() <= _MOST * x.shape[-1] and weight.dtype == torch.float32 and last > first:
        if torch.compiler.is_compiling():
            return _compiled(x, weight, first, last)
        if (last - first) * x.shape[-1] >= _LEAST and usable(x) and not _uncounted(weight):
            return _product(x, weight, first, last)
    return F.linear(x, weight if outputs is None else weight[first:last])


def _uncounted(weight: Tensor) -> bool:
    """Whether a weight may change without a trace: those of inference mode, and those that processes gather from their shards."""
    return weight.is_inference() or (torch.distributed.is_available() and torch.distributed.is_initialized())


def _compiled(x: Tensor, weight: Tensor, first: int, last: int) -> Tensor:
    """What :func:`torch.compile` sees."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or x.dtype != torch.float32:
        return F.linear(x, weight[first:last])
    if x.numel() <= _SUMS * x.shape[-1]:
        part = weight[first:last]
        return torch.stack([(part * row).sum(dim=-1) for row in x.flatten(0, -2)]).view(*x.shape[:-1], last - first)
    return _few_rows(x, weight, first, last) if AVAILABLE else F.linear(x, weight[first:last])


def _product(x: Tensor, weight: Tensor, first: int, last: int) -> Tensor:
    packs = _packs.setdefault(weight, {})
    stamp = weight.data_ptr(), weight._version
    found = packs.get((first, last))
    if found is None or found[0] != stamp:
        part = weight.detach()[first:last].contiguous()
        found = packs[first, last] = stamp, torch.ops.mkldnn._reorder_linear_weight(part, _HINT)
    return torch.ops.mkldnn._linear_pointwise(x, found[1], None, "none", [], "")


@torch.library.custom_op("tokenizers_mm::few_rows", mutates_args=())
def _few_rows(x: Tensor, weight: Tensor, first: int, last: int) -> Tensor:
    """:func:`_product` as one operator of compiled code."""
    return _product(x, weight, first, last)


@_few_rows.register_fake
def _(x: Tensor, weight: Tensor, first: int, last: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], last - first)


class FewRowsLinear(nn.Linear):
    """``nn.Linear`` without bias through :func:`few_rows`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return few_rows(x, self.weight)
