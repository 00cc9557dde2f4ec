"""The rows of a matrix with the largest inner products with a query: all of them looked at, or the cells of a Faiss index.

Douze et al., "The Faiss library", 2024. Rows get one more coordinate, ``sqrt(R^2 - |e|^2)`` for the largest norm R, and queries
a zero (Bachrach et al., "Speeding Up the Xbox Recommender System Using a Euclidean Transformation", RecSys 2014): the nearest
row is then the one with the largest inner product. Dynamic tokenization's own index normalises rows and finds the smallest angle.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.checks import at_least

Space = Literal["augmented", "inner_product", "cosine"]
_SAMPLE = 256  # queries that tune how many cells are searched
_PER_CELL = 64  # rows that the centre of a cell is learned from
_AT_ONCE, _CHUNK = 32, 100_000  # queries and rows


class Index(Protocol):
    """Finds rows."""

    def search(self, queries: Tensor, k: int) -> Tensor:
        """Numbers of the ``k`` rows with the largest inner products, largest first, int64 ``[B, k]``; -1 where fewer are found.

        Args:
            queries: ``[B, D]``.
            k: At most as many as there are rows.
        """
        ...


class ExactIndex:
    """All rows are looked at.

    Args:
        rows: ``[n, D]``; not copied.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, rows: Tensor) -> None:
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"rows must be [n, D] with at least one row, got {list(rows.shape)}")
        self.rows = rows

    def search(self, queries: Tensor, k: int) -> Tensor:
        """See :meth:`Index.search`."""
        parts = queries.to(self.rows).split(_AT_ONCE)  # scores of many queries with a million rows fill memory
        return torch.cat([(part @ self.rows.T).topk(k, dim=-1).indices for part in parts])


class FaissIndex:
    """An inverted file: rows fall into cells, of which a query looks into the nearest.

    Args:
        rows: ``[n, D]``.
        cells: By default about ``sqrt(n)``.
        nprobe: Cells that are searched. By default the fewest for which :func:`recall` at 20 reaches ``target`` on ``queries``.
        queries: Like those to come, ``[m, D]``; by default drawn at random with the rows' mean and spread in each coordinate.
        target: Of the default ``nprobe``.
        space: Where cells and neighbours are: the augmented one; ``"inner_product"``, that of Faiss; or ``"cosine"``, which
            finds something else and is here to be compared with.
        seed: Of the rows that cells are learned from, and of the default queries.

    Raises:
        ImportError: If Faiss is not installed.
        ValueError: If numbers are out of range.
    """

    def __init__(
        self,
        rows: Tensor,
        cells: int | None = None,
        nprobe: int | None = None,
        *,
        queries: Tensor | None = None,
        target: float = 0.98,
        space: Space = "augmented",
        seed: int = 0,
    ) -> None:
        faiss = _faiss()
        at_least(1, cells=cells, nprobe=nprobe)
        if space not in get_args(Space) or not 0 < target <= 1:
            raise ValueError(f"space must be one of {get_args(Space)} and target in (0, 1], got {space!r}, {target}")
        exact = ExactIndex(rows)
        self.space, self.cells = space, min(cells or max(1, round(math.sqrt(len(rows)))), len(rows))
        self._width = rows.shape[1] + (space == "augmented")
        self._radius = max(float(part.float().square().sum(dim=1).max()) for part in rows.split(_CHUNK))
        inner = space != "augmented"
        flat = faiss.IndexFlatIP if inner else faiss.IndexFlatL2
        self._centres = flat(self._width)  # the index does not keep it alive
        metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
        self._index: Any = faiss.IndexIVFFlat(self._centres, self._width, self.cells, metric)
        self._index.cp.min_points_per_centroid = 1
        generator = torch.Generator().manual_seed(seed)
        sample = torch.randperm(len(rows), generator=generator)[: self.cells * _PER_CELL]
        self._index.train(self._placed(rows[sample]))
        for part in rows.split(_CHUNK):
            self._index.add(self._placed(part))
        self.nprobe = min(nprobe, self.cells) if nprobe is not None else self._tuned(exact, queries, target, generator)

    @property
    def nprobe(self) -> int:
        """Cells that are searched."""
        return self._index.nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        at_least(1, nprobe=value)
        self._index.nprobe = value

    def search(self, queries: Tensor, k: int) -> Tensor:
        """See :meth:`Index.search`."""
        data = queries.detach().float().cpu()
        if self.space == "augmented":
            data = torch.cat([data, data.new_zeros(len(data), 1)], dim=1)
        return torch.from_numpy(self._index.search(data.numpy(), k)[1]).to(queries.device)

    def _placed(self, rows: Tensor) -> np.ndarray:
        data = rows.detach().float().cpu()
        if self.space == "cosine":
            data = torch.nn.functional.normalize(data, dim=1)
        if self.space == "augmented":
            missing = (self._radius - data.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
            data = torch.cat([data, missing], dim=1)
        return data.contiguous().numpy()

    def _tuned(self, exact: ExactIndex, queries: Tensor | None, target: float, generator: torch.Generator) -> int:
        """The fewest cells that reach a recall, within a hundredth of all."""
        if queries is None:
            mean, spread = exact.rows.float().mean(dim=0).cpu(), exact.rows.float().std(dim=0, correction=0).cpu()
            queries = mean + spread * torch.randn(_SAMPLE, len(mean), generator=generator)
        queries = queries[:_SAMPLE]
        wanted = exact.search(queries, k := min(20, len(exact.rows)))
        low, high = 0, self.cells  # too few, enough
        while high - low > max(1, self.cells // 100):
            self.nprobe = (low + high) // 2
            reached = recall(exact.rows, queries, self.search(queries, k), wanted) >= target
            low, high = (low, self.nprobe) if reached else (self.nprobe, high)
        return high


def recall(rows: Tensor, queries: Tensor, found: Tensor, wanted: Tensor) -> float:
    """How many of the largest inner products were found, as a fraction; of rows that are as good as each other, any counts.

    Args:
        rows: ``[n, D]``.
        queries: ``[B, D]``.
        found: ``[B, k]``, -1 for none.
        wanted: What is right, ``[B, k]``.
    """
    rows, queries = rows.float(), queries.float()
    least = (rows[wanted[:, -1]] * queries).sum(dim=-1, keepdim=True)
    products = torch.einsum("bkd,bd->bk", rows[found.clamp(min=0)], queries)
    good = (found >= 0) & (products >= least - 1e-5 * least.abs() - 1e-7)
    return float(good.float().mean())


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"FaissIndex needs the package faiss-cpu: pip install 'tokenizers_mm[ann]' ({error})"
        ) from None
    return faiss
