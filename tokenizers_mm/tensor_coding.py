"""Named tensors as bytes: the side information of a ``.mmt`` file (:mod:`tokenizers_mm.bitstream` shows where they stand)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.coding import BitstreamError, Reader, varints, with_length

_MAX_NAME_BYTES = _MAX_TENSORS = 255
_MAX_DIMS = 16

# A tensor's dtype is stored as its place in this list: append only.
_DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
_SAME_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def write_tensors(kind: str, tensors: Mapping[str, Tensor]) -> bytes:
    """A table of named tensors.

    Raises:
        BitstreamError: If the format lacks a dtype, a number of dimensions, so many tensors or so long a name.
    """
    if len(tensors) > _MAX_TENSORS:
        raise BitstreamError(f"{kind} must hold at most {_MAX_TENSORS} tensors, got {len(tensors)}")
    out = [varints(len(tensors))]
    for name, tensor in sorted(tensors.items()):
        text = name.encode()
        if len(text) > _MAX_NAME_BYTES:
            raise BitstreamError(f"a name in {kind} must be at most {_MAX_NAME_BYTES} bytes, got {name!r}")
        if tensor.dtype not in _DTYPES or tensor.ndim > _MAX_DIMS:
            raise BitstreamError(
                f"{kind}[{name!r}] must have at most {_MAX_DIMS} dimensions and a dtype of {_DTYPES}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
        tag, values = _write_values(tensor.detach().cpu().contiguous())
        extents = varints(np.array([tensor.ndim, *tensor.shape], dtype=np.int64))
        out += [with_length(text), bytes([tag]), extents, values]
    return b"".join(out)


def _write_values(tensor: Tensor) -> tuple[int, bytes]:
    """Tag and bytes of a tensor's values: non-negative integers as varints where that is shorter."""
    tag, size = _DTYPES.index(tensor.dtype), tensor.element_size()
    values = tensor.view(_SAME_BITS[size]).numpy()
    if not tensor.is_floating_point() and size > 1 and (values >= 0).all():
        short = varints(values)
        if len(short) < values.nbytes:
            return tag | 128, short
    return tag, values.astype(f"<i{size}").tobytes()


class TensorReader:
    """Reads tables of named tensors that may take ``budget`` bytes together."""

    def __init__(self, head: Reader, budget: int) -> None:
        self.head, self.budget = head, budget

    def read(self) -> dict[str, Tensor]:
        """The next table; raises ``BitstreamError`` if it is malformed or exceeds the budget."""
        tensors: dict[str, Tensor] = {}
        for _ in range(self.head.number(_MAX_TENSORS)):
            name = self.head.take(self.head.number(_MAX_NAME_BYTES)).decode()
            if name in tensors:
                raise BitstreamError(f"tensor {name!r} comes twice")
            tensors[name] = self._tensor(name)
        return tensors

    def _tensor(self, name: str) -> Tensor:
        tag = self.head.take(1)[0]
        extents = self.head.varints(self.head.number(_MAX_DIMS)).tolist()
        if tag % 128 >= len(_DTYPES) or math.prod(max(n, 1) for n in extents) >= 2**60:
            raise BitstreamError(f"tensor {name!r} has tag {tag} and extents {extents}")
        dtype, count = _DTYPES[tag % 128], math.prod(extents)
        self.budget -= count * dtype.itemsize
        if self.budget < 0:
            raise BitstreamError(f"tensor {name!r} of {extents} takes more memory than max_ids allows")
        stored = np.dtype(f"i{dtype.itemsize}")
        if tag < 128:
            values = np.frombuffer(self.head.take(count * dtype.itemsize), dtype=stored.newbyteorder("<"))
        else:
            values = self.head.varints(count)
        if tag >= 128 and values.max(initial=0) > np.iinfo(stored).max:
            raise BitstreamError(f"tensor {name!r} holds numbers too large for {dtype}")
        if dtype == torch.bool and not np.isin(values, (0, 1)).all():
            raise BitstreamError(f"tensor {name!r} holds bools other than 0 and 1")
        return torch.from_numpy(values.astype(stored)).view(dtype).reshape(extents)
