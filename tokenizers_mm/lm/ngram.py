"""Counts of tokens as a language model: what follows the ids before, or the neighbours in the grid; the baseline of every other.

Interpolated Kneser-Ney smoothing, three discounts per order: Chen and Goodman, "An Empirical Study of Smoothing Techniques for
Language Modeling", 1999. Ours predicts the columns of a step one after the other, knows which one it predicts, and can take its
context from a grid. All arithmetic is sums and products of tabled numbers, so that any machine predicts the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor

from tokenizers_mm.checks import at_least
from tokenizers_mm.lm.counting import Level, Table, count_tables
from tokenizers_mm.lm.neighbours import Context, global_ids, most_neighbours, neighbours
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.weights import CONFIG, WEIGHTS, digest, read_config, read_weights, write_folder

_PARTS = ("contexts", "first", "next", "counts")


class TokenNGram:
    """What id comes next after the ``order - 1`` nearest known ones; contexts never seen fall back on shorter ones.

    Args:
        spec: Of the tokens.
        tables: Counts after contexts of 0 to ``order - 1`` ids.
        context: Which ids are near: see :func:`tokenizers_mm.lm.neighbours.neighbours`.

    Raises:
        ValueError: If the order does not fit the context, or the tables the spec.
    """

    def __init__(self, spec: TokenSpec, tables: Sequence[Table], *, context: Context = "sequence") -> None:
        _check(spec, len(tables), context)
        self.spec, self.tables, self.context = spec, list(tables), context
        self.ids, self.size = sum(spec.codebook_sizes) + 1, max(spec.codebook_sizes)
        columns = np.arange(spec.num_codebooks)
        if not np.array_equal(self.tables[0].contexts, columns):
            raise ValueError(f"tables must begin with a context for each of {spec.num_codebooks} columns")
        for n, table in enumerate(self.tables):
            parents = table.contexts // self.ids if n else columns
            if (parents >= len(columns)).any() or (parents < 0).any():
                raise ValueError(f"contexts of {n} ids must continue shorter ones")
            columns = columns[parents]
            table.check(np.array(spec.codebook_sizes)[columns])
        self._levels = [Level(table, self.size) for table in tables]

    @property
    def order(self) -> int:
        """Ids that count together, the predicted one included."""
        return len(self.tables)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of class, spec and counts."""
        return digest(type(self).__name__, self._config(), self._tensors())

    @property
    def num_parameters(self) -> int:
        """Counts."""
        return sum(len(table.counts) for table in self.tables)

    # -- what it says of tokens ---------------------------------------------------------------------------------------------

    def coding_order(self, spec: TokenSpec, shape: Sequence[int]) -> np.ndarray:
        """Step after step, column after column: int64 ``[T * Q]``."""
        self._check_spec(spec)
        return np.arange(math.prod(shape) * spec.num_codebooks)

    def start(self, spec: TokenSpec, shape: Sequence[int]) -> Continuation:
        """An item of which nothing is known."""
        self._check_spec(spec)
        return Continuation(self, tuple(shape))

    def nll(self, tokens: Tokens) -> Tensor:
        """Nats of each id given those before it, float64 ``[B, T, Q]``; 0 in the padding."""
        self._check_spec(tokens.spec)
        columns = np.arange(self.spec.num_codebooks)
        flat = np.zeros((len(tokens), tokens.ids.shape[1] * len(columns)))
        for rows, near, codes in _gathered(tokens, self.context, self.order - 1):
            p = self._likelihood(np.tile(columns, codes.size // len(columns)), near, codes.reshape(-1))
            flat[rows, : codes.shape[1]] = -np.log(p).reshape(codes.shape)
        return torch.from_numpy(flat).view(tokens.ids.shape)

    def _likelihood(self, columns: np.ndarray, near: np.ndarray, codes: np.ndarray) -> np.ndarray:
        p = 1.0 / np.array(self.spec.codebook_sizes)[columns]
        at, owners = np.arange(len(codes)), columns
        p = self._levels[0].mix(owners, codes, p)
        for level, row in zip(self._levels[1:], near, strict=True):
            owners = level.places.find(owners * self.ids + row[at])
            at, owners = at[owners >= 0], owners[owners >= 0].astype(np.int64)
            p[at] = level.mix(owners, codes[at], p[at])
        return p

    def predict(self, column: int, near: Iterable[int]) -> np.ndarray:
        """Probability of each id of a column after its neighbours as ids of all columns, nearest first, float64 ``[K]``."""
        size, owner = self.spec.codebook_sizes[column], column
        p = self._levels[0].mix_all(owner, np.full(size, 1.0 / size))
        for level, code in zip(self._levels[1:], near, strict=False):
            owner = int(level.places.find(np.array([owner * self.ids + code]))[0])
            if owner < 0:
                break
            p = level.mix_all(owner, p)
        return p

    def _check_spec(self, spec: TokenSpec) -> None:
        if spec != self.spec:
            raise ValueError(f"expected tokens of {self.spec}, got those of {spec}")

    # -- learning -----------------------------------------------------------------------------------------------------------

    @classmethod
    def learn(
        cls, batches: Iterable[Tokens], *, order: int = 5, context: Context = "sequence", min_count: int = 1
    ) -> Self:
        """Count tokens.

        Args:
            batches: Tokens of one spec; every item counts alone.
            order: Ids that count together, the predicted one included.
            context: Which ids are near: see :func:`tokenizers_mm.lm.neighbours.neighbours`.
            min_count: How often contexts occur at least; rarer ones are left out, for a smaller model.

        Raises:
            ValueError: If there is no id, specs differ, or the order does not fit the context.
        """
        at_least(1, order=order, min_count=min_count)
        spec, near, codes = None, [], []
        for tokens in batches:
            spec = spec or tokens.spec
            if tokens.spec != spec:
                raise ValueError(f"batches must be of one spec, got {spec} and {tokens.spec}")
            _check(spec, order, context)
            for _, close, own in _gathered(tokens, context, order - 1):
                near.append(close)
                codes.append(own.reshape(-1))
        if spec is None or not sum(map(len, codes)):
            raise ValueError("batches must hold at least one id, got none")
        every = np.concatenate(codes)
        columns = np.tile(np.arange(spec.num_codebooks), len(every) // spec.num_codebooks)
        ids, size = sum(spec.codebook_sizes) + 1, max(spec.codebook_sizes)
        tables = count_tables(columns, np.concatenate(near, axis=1), every, ids=ids, size=size, min_count=min_count)
        return cls(spec, tables, context=context)

    # -- folders ------------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        write_folder(folder, {"class": type(self).__name__, **self._config()}, self._tensors())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model in a folder that :meth:`save_pretrained` wrote.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it holds something else.
        """
        config = read_config(Path(folder) / CONFIG)
        if config.get("class") != cls.__name__ or set(config) != {"class", "spec", "order", "context"}:
            raise ValueError(
                f"{folder}: config.json must be a {cls.__name__}'s with spec, order and context, got {config}"
            )
        found = read_weights(Path(folder) / WEIGHTS)
        try:
            tables = [
                Table(*(found[f"{part}.{n}"].numpy().astype(np.int64) for part in _PARTS))
                for n in range(config["order"])
            ]
            return cls(TokenSpec.from_dict(config["spec"]), tables, context=config["context"])
        except KeyError as error:
            raise ValueError(f"{folder}: {WEIGHTS} lacks {error}") from None
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{folder}: {error}") from None

    def _config(self) -> dict[str, Any]:
        return {"spec": self.spec.to_dict(), "order": self.order, "context": self.context}

    def _tensors(self) -> dict[str, Tensor]:
        """The counts, in the smallest types that hold them."""
        parts = ((f"{part}.{n}", getattr(table, part)) for n, table in enumerate(self.tables) for part in _PARTS)
        return {name: torch.from_numpy(values.astype(_smallest(values))) for name, values in parts}


class Continuation:
    """An item as far as it is known, and what may come next."""

    def __init__(self, model: TokenNGram, shape: tuple[int, ...]) -> None:
        sizes = model.spec.codebook_sizes
        self.model, self._columns = model, len(sizes)
        self._near = neighbours(model.context, shape, self._columns, model.order - 1)
        self._known = np.full(self._near.shape[1] + 1, sum(sizes))
        self._first = np.cumsum(sizes) - sizes
        self._at = 0

    def probabilities(self) -> np.ndarray:
        """Of each id of the next column, float64 ``[K]``; a new array."""
        return self.model.predict(self._at % self._columns, self._known[self._near[:, self._at]].tolist())

    def push(self, code: int) -> None:
        """Add an id."""
        self._known[self._at] = code + self._first[self._at % self._columns]
        self._at += 1


def _gathered(tokens: Tokens, context: Context, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Items of each grid: which they are, the neighbours ``[count, N]`` of all their ids, and these, ``[items, T * Q]``."""
    every, columns = global_ids(tokens), tokens.spec.num_codebooks
    flat = tokens.ids.cpu().numpy().reshape(len(tokens), -1)
    shapes, which = tokens.shapes.cpu().unique(dim=0, return_inverse=True)
    for i, shape in enumerate(shapes.tolist()):
        rows = (which == i).nonzero()[:, 0].numpy()
        near = neighbours(context, tuple(shape), columns, count)
        size = near.shape[1]
        known = np.append(every[rows, :size], every[rows, -1:], axis=1).astype(np.int32)
        yield rows, np.moveaxis(known[:, near], 0, 1).reshape(count, known[:, 1:].size), flat[rows, :size]


def _check(spec: TokenSpec, order: int, context: Context) -> None:
    at_least(1, order=order)
    if context not in get_args(Context):
        raise ValueError(f"context must be one of {get_args(Context)}, got {context!r}")
    most = most_neighbours(context, spec) + 1
    if order > most:
        raise ValueError(f"order must be at most {most} for context {context!r} and axes {spec.axes}, got {order}")
    if sum(spec.codebook_sizes) >= 2**31:
        raise ValueError(f"codebooks must hold fewer than 2**31 ids together, got {spec.codebook_sizes}")


def _smallest(values: np.ndarray) -> type[np.integer]:
    most = int(values.max(initial=0))
    return next(kind for kind in (np.uint8, np.uint16, np.uint32, np.int64) if most <= np.iinfo(kind).max)
