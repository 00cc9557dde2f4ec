"""Products of a weight with few rows, as a decoder makes them step by step.

With two to some thirty rows oneDNN, given a packed weight, takes about half of MKL's time on the processors that we measured.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.nn.onednn import usable

_MOST = 64  # rows; with many more, packing gains little
_HINT = 8  # rows that the order in memory is chosen for; it serves all numbers from 1 on


class FewRows:
    """``F.linear(x, weight)`` for one weight; in inference on x86 processors, by a copy of it in oneDNN's order.

    The copy is made when it is first needed, and anew when the weight has changed. Which way is taken depends on shapes alone,
    so that the same products always round alike.
    """

    def __init__(self) -> None:
        self._source: Tensor | None = None  # kept, so that no other tensor can take its place in memory
        self._stamp: tuple[int, int] | None = None
        self._packed: Tensor | None = None

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Rows ``x [..., inputs]`` times ``weight [outputs, inputs]``, possibly a transposed view."""
        if x.numel() > _MOST * x.shape[-1] or not usable(x) or weight.dtype != torch.float32:
            return F.linear(x, weight)
        stamp = weight.data_ptr(), weight._version
        if stamp != self._stamp:
            self._source, self._stamp = weight, stamp
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _HINT)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")

    def __deepcopy__(self, memo: dict[int, Any]) -> FewRows:
        return FewRows()

    def __reduce__(self) -> tuple[type[FewRows], tuple[()]]:
        return FewRows, ()


class FewRowsLinear(nn.Linear):
    """``nn.Linear`` without bias through :class:`FewRows`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self._times = FewRows()

    def forward(self, x: Tensor) -> Tensor:
        return self._times(x, self.weight)
