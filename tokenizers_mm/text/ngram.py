"""A small language model of bytes: counts of what follows up to five bytes, longer contexts falling back on shorter ones.

Interpolation after Witten and Bell, "The Zero-Frequency Problem", IEEE Transactions on Information Theory, 1991. It is arithmetic
on tables: the same for one byte and for a million, which the borders of :mod:`tokenizers_mm.text.segmenters.entropy` and entropy
coding need and a network does not give. The entropy after every context is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from safetensors.numpy import load_file, save_file

from tokenizers_mm.lm.places import Places
from tokenizers_mm.weights import CONFIG, WEIGHTS, read_config

ORDERS = 5
_REMEMBERED = 2**14
_TABLES = ("contexts", "first", "bytes", "counts", "escape", "entropy")
_STEPS = 10  # of the logarithm base 2 in which counts are stored, one byte each


class ByteNGram:
    """What byte comes next after the longest known context of at most :data:`ORDERS` bytes.

    Args:
        tables: For each order, 0 to :data:`ORDERS`: ``contexts.N`` int64 (bytes as one number, ascending), ``first.N`` int32
            (where the successors of each begin, and the end), ``bytes.N`` and ``counts.N`` uint8 of all successors,
            ``escape.N`` uint8 (weight of the shorter context), ``entropy.N`` float32 in nats.
        threshold: Entropy in nats above which a patch begins; what the patches of the training texts were to be long.

    Raises:
        ValueError: If the tables do not fit together.
    """

    def __init__(self, tables: dict[str, np.ndarray], threshold: float) -> None:
        self.tables, self.threshold = tables, float(threshold)
        self._pairs: list[np.ndarray] = []  # of each order: context and successor as one number, ascending
        self._totals: list[np.ndarray] = []
        self._places: list[Places] = []
        self._known: dict[bytes, np.ndarray] = {}  # probabilities after contexts
        for n in range(ORDERS + 1):
            names = [f"{name}.{n}" for name in _TABLES]
            if missing := [name for name in names if name not in tables]:
                raise ValueError(f"tables lack {missing}")
            contexts, first, of, counts, escape, entropy = (tables[name] for name in names)
            fits = len(first) == len(contexts) + 1 == len(escape) + 1 == len(entropy) + 1 and len(of) == len(counts)
            ascending = (np.diff(first) > 0).all() and (np.diff(contexts) > 0).all()
            if not fits or first[0] != 0 or first[-1] != len(of) or not ascending:
                raise ValueError(f"tables of order {n} do not fit together")
            self._pairs.append((np.repeat(np.arange(len(contexts)), np.diff(first)) << 8) | of)
            self._totals.append(np.add.reduceat(_unpack(counts), first[:-1]))
            self._places.append(Places(contexts))

    # -- what it says of text -----------------------------------------------------------------------------------------------

    def entropies(self, data: bytes, before: bytes = b"") -> np.ndarray:
        """Entropy in nats of what comes after each byte, float32 ``[N]``, given what was ``before`` the first."""
        out = np.full(len(data), self.tables["entropy.0"][0], dtype=np.float32)
        for n, at, index in self._matches(data, before):
            out[at] = self.tables[f"entropy.{n}"][index]
        return out

    def nats(self, data: bytes, before: bytes = b"") -> np.ndarray:
        """Cost of each byte in nats, float64 ``[N]``."""
        values = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
        p = np.full(len(data), 1 / 256)
        p = self._mixed(0, np.zeros(len(data), dtype=np.int64), values, p)
        for n, at, index in self._matches(before + data, b""):
            use = (at >= len(before) - 1) & (at < len(before) + len(data) - 1)
            to = at[use] + 1 - len(before)
            p[to] = self._mixed(n, index[use], values[to], p[to])
        return -np.log(p)

    def probabilities(self, before: bytes) -> np.ndarray:
        """Probability of each next byte after some text, float64 ``[256]``; they sum to 1."""
        tail = before[-ORDERS:]
        index = [0]
        for n in range(1, len(tail) + 1):
            found = int(self._places[n].find(np.array([int.from_bytes(tail[-n:], "big")]))[0])
            if found < 0:
                break
            index.append(found)
        known = tail[len(tail) - len(index) + 1 :]
        if known not in self._known:
            p, every = np.full(256, 1 / 256), np.arange(256)
            for n, place in enumerate(index):
                p = self._mixed(n, np.full(256, place), every, p)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[known] = p
        return self._known[known]

    def start(self) -> Continuation:
        """An empty text that goes on byte by byte, as entropy coding wants it."""
        return Continuation(self)

    def _matches(self, data: bytes, before: bytes) -> Iterable[tuple[int, np.ndarray, np.ndarray]]:
        """For each order, which bytes end a known context of that order, and which."""
        text = before[-ORDERS:] + data
        values = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        skip = len(text) - len(data)
        keys, at = values.copy(), np.arange(len(values))
        for n in range(1, min(ORDERS, len(values)) + 1):
            if n > 1:  # one byte further back
                at = at[at >= n - 1]
                keys[n - 1 :] |= values[: len(values) - n + 1] << (8 * (n - 1))
            index = self._places[n].find(keys[at])
            known = index >= 0
            at, index = at[known], index[known]
            use = at >= skip
            yield n, at[use] - skip, index[use]

    def _mixed(self, n: int, index: np.ndarray, byte: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Probabilities of bytes after contexts of order ``n``, from those after the shorter contexts."""
        pairs, wanted = self._pairs[n], (index << 8) | byte
        place = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
        counts = np.where(pairs[place] == wanted, _unpack(self.tables[f"counts.{n}"][place]), 0.0)
        escape = _unpack(self.tables[f"escape.{n}"][index])
        return (counts + escape * shorter) / (self._totals[n][index] + escape)

    # -- learning -----------------------------------------------------------------------------------------------------------

    @classmethod
    def learn(cls, texts: Iterable[str], *, contexts: int = 100_000, mean_bytes: float = 4.5) -> Self:
        """Count texts.

        Args:
            texts: Each counts alone.
            contexts: About how many contexts are kept, the most frequent ones.
            mean_bytes: How long the patches of these texts shall be on average.

        Raises:
            ValueError: If there is no text.
        """
        documents = [text.encode("utf-8") for text in texts]
        data = np.frombuffer(b"".join(documents), dtype=np.uint8).astype(np.int64)
        if not len(data):
            raise ValueError("texts must hold at least one byte")
        place = np.concatenate([np.arange(len(document)) for document in documents])
        counted = [_count(data, place, n) for n in range(ORDERS + 1)]
        totals = np.sort(np.concatenate([np.add.reduceat(c, first[:-1]) for _, first, _, c in counted]))[::-1]
        least = max(2, int(totals[min(contexts, len(totals)) - 1]))
        tables: dict[str, np.ndarray] = {}
        below: tuple[np.ndarray, np.ndarray] = np.zeros(1, dtype=np.int64), np.full((1, 256), 1 / 256)
        for n, table in enumerate(counted):
            below = _keep(tables, n, _frequent(table, least), below)
        model = cls(tables, 0.0)
        found = np.concatenate([model.entropies(document) for document in documents])
        model.threshold = float(np.quantile(found, 1 - 1 / mean_bytes))
        return model

    # -- folders ------------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"class": type(self).__name__, "threshold": self.threshold}
        (Path(folder) / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(self.tables, Path(folder) / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model in a folder that :meth:`save_pretrained` wrote.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it holds something else.
        """
        config = read_config(Path(folder) / CONFIG)
        if config.get("class") != cls.__name__ or not isinstance(config.get("threshold"), float):
            raise ValueError(f"{folder}: config.json must be of class {cls.__name__} with a threshold, got {config}")
        if not (Path(folder) / WEIGHTS).is_file():
            raise FileNotFoundError(f"no {WEIGHTS} in {folder}")
        return cls(load_file(Path(folder) / WEIGHTS), config["threshold"])


class Continuation:
    """A text and what may come next."""

    def __init__(self, model: ByteNGram) -> None:
        self.model, self._tail = model, b""

    def probabilities(self) -> np.ndarray:
        """Of each next byte, float64 ``[256]``."""
        return self.model.probabilities(self._tail)

    def push(self, byte: int) -> None:
        """Add a byte."""
        self._tail = (self._tail + bytes([byte]))[-ORDERS:]


_Table = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # contexts, first, bytes, counts


def _count(data: np.ndarray, place: np.ndarray, n: int) -> _Table:
    """Contexts of ``n`` bytes with what follows them."""
    keys = np.zeros(len(data), dtype=np.int64)
    for back in range(n + 1 if len(data) > n else 0):
        keys[n:] |= data[n - back : len(data) - back] << (8 * back)
    pairs, counts = np.unique(keys[place >= n], return_counts=True)
    contexts, first = np.unique(pairs >> 8, return_index=True)
    return contexts, np.append(first, len(pairs)), pairs & 0xFF, counts


def _frequent(table: _Table, least: int) -> _Table:
    """Without contexts that are rarer than ``least``; of the empty context nothing is left out."""
    contexts, first, of, counts = table
    keep = np.add.reduceat(counts, first[:-1]) >= least
    lengths = np.diff(first)
    inside = np.repeat(keep, lengths)
    return contexts[keep], np.concatenate([[0], np.cumsum(lengths[keep])]), of[inside], counts[inside]


def _keep(
    tables: dict[str, np.ndarray], n: int, table: _Table, below: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Add an order to the tables; its contexts, and what they make of all 256 bytes."""
    contexts, first, of, counts = table
    suffixes, shorter = below
    if n:  # a context whose shorter form is unknown would never be reached
        short = contexts & ((1 << (8 * (n - 1))) - 1)
        index = np.searchsorted(suffixes, short).clip(max=len(suffixes) - 1)
    else:
        index = np.zeros(len(contexts), dtype=np.int64)
    lengths = np.diff(first)
    single = counts < 2
    owner = np.repeat(np.arange(len(contexts)), lengths)
    rare = np.bincount(owner[single], minlength=len(contexts))
    alone = np.bincount(owner[~single], minlength=len(contexts)) == 0
    drop = single & ~alone[owner]
    escape = _pack(lengths + np.where(alone, 0, rare))
    of, packed, owner = of[~drop], _pack(counts[~drop]), owner[~drop]
    dense = np.zeros((len(contexts), 256))
    dense[owner, of] = _unpack(packed)
    weight = _unpack(escape)[:, None]
    p = (dense + weight * shorter[index]) / (dense.sum(axis=1, keepdims=True) + weight)
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(contexts)))])
    tables |= {
        f"contexts.{n}": contexts.astype(np.int64),
        f"first.{n}": starts.astype(np.int32),
        f"bytes.{n}": of.astype(np.uint8),
        f"counts.{n}": packed,
        f"escape.{n}": escape,
        f"entropy.{n}": -(p * np.log(p)).sum(axis=1).astype(np.float32),
    }
    return contexts, p


def _pack(counts: np.ndarray) -> np.ndarray:
    return np.round(_STEPS * np.log2(counts)).clip(0, 255).astype(np.uint8)


def _unpack(packed: np.ndarray) -> np.ndarray:
    return np.exp2(np.arange(256) / _STEPS)[packed]
