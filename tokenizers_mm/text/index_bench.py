"""What looking up candidates costs and finds beside scoring all entries, on features of a model that reads text."""

from __future__ import annotations

import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenizers_mm.text.inner_products import ExactIndex, FaissIndex, Index, recall
from tokenizers_mm.text.large_generation import LargeVocabularyLM, Sampling
from tokenizers_mm.text.large_vocabulary import LargeVocabulary

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5)  # of the cells that are searched
_K = 20


def random_tokens(tokens: Sequence[bytes], count: int, seed: int = 0) -> list[bytes]:
    """As many different new tokens, made of two to four of a vocabulary's own."""
    chance, own = random.Random(seed), [token for token in tokens if token]
    known: set[bytes] = set(own)
    found: dict[bytes, None] = {}
    while len(found) < count:
        token = b"".join(chance.choices(own, k=chance.randint(2, 4)))
        if token not in known:
            found[token] = None
    return list(found)


def bench(model: Any, vocabulary: LargeVocabulary, texts: Sequence[str], *, queries: int, steps: int) -> dict[str, Any]:
    """Recall and time of a search, and the time of a step of generation.

    Args:
        model: Whose features are looked up.
        vocabulary: Of the model.
        texts: Read by the model, as many prefixes as there are queries.
        queries: Number of them.
        steps: Of generation that are timed, for each index.

    Returns:
        A report: ``settings``, ``searches`` (one row for each index and setting) and ``steps``.
    """
    exact = ExactIndex(vocabulary.outputs)
    reader = LargeVocabularyLM(model, vocabulary, exact)
    asked = torch.cat([reader.features([row]) for row in _prefixes(vocabulary, texts, queries)])
    clock = time.process_time()
    tuned = LargeVocabularyLM(model, vocabulary)
    built = time.process_time() - clock
    assert isinstance(tuned.index, FaissIndex)
    default = tuned.index.nprobe
    wanted = exact.search(asked, _K)
    searches = [{"index": "exact", **_search(exact, asked, wanted, vocabulary.outputs)}]
    searches += _sweep(tuned.index, asked, wanted, vocabulary.outputs, default)
    tuned.index.nprobe = default
    timed = {
        "exact": _step(reader, texts, steps), "faiss": _step(tuned, texts, steps), "model alone": _alone(reader, steps)
    }  # fmt: skip
    del tuned  # one index at a time: a million rows are a gigabyte
    for space in ("inner_product", "cosine"):
        searches += _sweep(
            FaissIndex(vocabulary.outputs, nprobe=1, space=space),
            asked,
            wanted,
            vocabulary.outputs,
            default,  # type: ignore[arg-type]
        )
    settings = {"entries": len(vocabulary), "dim": vocabulary.outputs.shape[1], "queries": len(asked), "k": _K}
    return {
        "settings": {**settings, "default_nprobe": default, "build_seconds": built, "peak_gib": _peak()},
        "searches": searches, "milliseconds_per_step": timed,
    }  # fmt: skip


def _prefixes(vocabulary: LargeVocabulary, texts: Sequence[str], count: int) -> list[list[int]]:
    """Ids of beginnings of lines, of 1 to 16 entries."""
    chance, lines = random.Random(0), [line for text in texts for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("texts must hold at least one line, got none")
    encoded = [vocabulary.encode(line) for line in lines[:count]]
    return [[*vocabulary.start, *row[: chance.randint(1, 16)]] for row in chance.choices(encoded, k=count)]


def _sweep(index: FaissIndex, asked: Tensor, wanted: Tensor, rows: Tensor, default: int) -> list[dict[str, Any]]:
    found = []
    for nprobe in sorted({default, *(max(1, round(index.cells * part)) for part in FRACTIONS)}):
        index.nprobe = nprobe
        settings = {"index": "faiss", "space": index.space, "cells": index.cells, "nprobe": nprobe}
        found.append({**settings, "default": nprobe == default, **_search(index, asked, wanted, rows)})
    return found


def _search(index: Index, asked: Tensor, wanted: Tensor, rows: Tensor) -> dict[str, float]:
    found = torch.cat([index.search(query, _K) for query in asked.split(1)])
    return {
        "recall_at_1": recall(rows, asked, found[:, :1], wanted[:, :1]),
        "recall_at_20": recall(rows, asked, found, wanted),
        "milliseconds": _median(lambda i: index.search(asked[i : i + 1], _K), min(len(asked), 50)),
    }


def _step(lm: LargeVocabularyLM, texts: Sequence[str], steps: int) -> float:
    """Milliseconds of processor time of a step, a row at a time, the prompt's counted in."""
    prompt = texts[0][:40].rpartition(" ")[0] or texts[0][:1]
    clock = time.process_time()
    written = lm.generate([prompt], steps, Sampling(), torch.Generator().manual_seed(0))
    return 1000 * (time.process_time() - clock) / len(written[0])


def _alone(lm: LargeVocabularyLM, steps: int) -> float:
    with torch.no_grad():
        x, mask = lm.embed([[*lm.vocabulary.start, 0]])
        lm.decoder.start(x, mask, steps + 1)
        return _median(lambda i: lm.decoder.step(x[:, -1]), steps)


def _median(run: Callable[[int], Any], times: int) -> float:
    """Milliseconds of processor time of a call."""
    found = []
    for i in range(times):
        clock = time.process_time()
        run(i)
        found.append(1000 * (time.process_time() - clock))
    return statistics.median(found)


def _peak() -> float:
    """GiB of memory that this process has had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
