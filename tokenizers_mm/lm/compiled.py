"""One more step of a decoder with a cache, as one piece of compiled code.

Ansel et al., "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph Compilation", 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tokenizers_mm.lm.cache import CacheAt


class Column(NamedTuple):
    """Keys and values of one layer ``[B, H, S, D]`` up to the step that is computed, and its column, int ``[1]``."""

    keys: Tensor
    values: Tensor
    column: Tensor

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`~tokenizers_mm.lm.cache.CacheAt.write`."""
        return self.keys.index_copy_(2, self.column, k), self.values.index_copy_(2, self.column, v)


Step = Callable[[Tensor, Tensor, Tensor | None, list[Column]], Tensor]
"""Features ``[B, 1, D]`` of embeddings, positions, a mask and what each layer holds."""


def require_compiler() -> None:
    """Raise ``FileNotFoundError`` if there is no C++ compiler, which code for CPUs needs."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes more than a second
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise FileNotFoundError(
            "compiling for CPUs needs a C++ compiler, such as g++ or what the variable CXX names, found none that works"
        ) from None


class CompiledStep:
    """A network's step, for rows that all write the same column of a cache; compiled when it is first taken.

    Args:
        step: What to compile.
    """

    def __init__(self, step: Step) -> None:
        self._step = torch.compile(step)
        self._known: set[tuple[int, bool]] = set()  # batches, and whether there was a mask

    def __call__(self, x: Tensor, positions: Tensor, mask: Tensor | None, at: CacheAt) -> Tensor:
        """Features ``[B, 1, D]`` of embeddings ``[B, 1, D]``."""
        column = at.columns[0]
        layers = [
            Column(keys[:, :, : at.end], values[:, :, : at.end], column)
            for keys, values in zip(at.cache.keys, at.cache.values, strict=True)
        ]
        if (kind := (len(x), mask is None)) not in self._known:  # about to be compiled, for all lengths
            for tensor in (each for layer in layers for each in layer[:2]):
                torch._dynamo.mark_dynamic(tensor, 2)
            if mask is not None:
                torch._dynamo.mark_dynamic(mask, 3)
            self._known.add(kind)
        return self._step(x, positions, mask, layers)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:  # copies and pickles of its owner are not compiled
        return type(None), ()
