"""The plain algorithms that ours are measured against and must agree with: pairs counted anew, covers searched anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tokenizers_mm.text.byte_exact.model import LM, ByteExactLM
from tokenizers_mm.text.byte_exact.state import END, SYMBOLS, Ids, log_sum
from tokenizers_mm.text.merging import Rule


def merge(rows: Sequence[Sequence[int]], tokens: Sequence[bytes], rule: Rule, max_merges: int) -> list[list[bytes]]:
    """Tokens after merging, as byte strings; arguments as in :func:`tokenizers_mm.text.merging.merge`."""
    names, batch = list(tokens), [list(row) for row in rows]
    ids = {token: i for i, token in reversed(list(enumerate(names)))}
    allowed: dict[tuple[int, int], bool] = {}
    for _ in range(max_merges):
        counts: Counter[tuple[int, int]] = Counter()
        for row in batch:
            counts.update(pairwise(row))  # in the order in which pairs first occur
        best, most = None, 0
        for pair, count in counts.items():
            if count > most:
                if pair not in allowed:
                    allowed[pair] = rule.allows(names[pair[0]], names[pair[1]])
                if allowed[pair]:
                    best, most = pair, count
        if best is None:
            break
        joined = names[best[0]] + names[best[1]]
        if joined not in ids:
            ids[joined] = len(names)
            names.append(joined)
        batch = [_replaced(row, best, ids[joined]) for row in batch]
    return [[names[i] for i in row] for row in batch]


def _replaced(row: list[int], pair: tuple[int, int], new: int) -> list[int]:
    if pair[0] not in row:
        return row
    out, at = [], 0
    while at < len(row):
        if at + 1 < len(row) and row[at] == pair[0] and row[at + 1] == pair[1]:
            out.append(new)
            at += 2
        else:
            out.append(row[at])
            at += 1
    return out


def covers(lm: LM, model: ByteExactLM, data: bytes) -> list[tuple[Ids, bytes, float]]:
    """Token sequences that cover ``data``: ids, what they say beyond it, log-probability given what all of them begin with.

    Each cut leaves an encoding of what is before it and tokens that begin with what is after it; all of them are tried, each by
    encoding what it makes.

    Args:
        lm: Without caches.
        model: Whose tokenizer, start and ends are meant.
        data: Bytes, the tokenizer's prefix among them.
    """
    tokenizer = model.tokenizer
    cuts = range(max(0, len(data) - tokenizer.longest), len(data))
    lefts = [ids for cut in cuts for ids in (tokenizer.encodings(data[:cut]) if cut else [()])]
    shared = min((len(_common(lefts[0], ids)) for ids in lefts), default=0)
    known: dict[Ids, np.ndarray] = {}
    prefixes = list(dict.fromkeys(ids[:n] for ids in lefts for n in range(shared, len(ids) + 1)))
    for ids, logp in zip(prefixes, np.asarray(lm([model.prefix + ids for ids in prefixes])), strict=True):
        known[ids] = logp
    found = []
    for left in lefts:
        rest = data[len(tokenizer.bytes_of(left)) :]
        weight = sum(float(known[left[:n]][left[n]]) for n in range(shared, len(left)))
        for v, token in enumerate(tokenizer.tokens):
            if token.startswith(rest) and tokenizer.valid((*left, v)):
                found.append(((*left, v), token[len(rest) :], weight + float(known[left][v])))
    return found


def next_bytes(lm: LM, model: ByteExactLM, data: bytes) -> np.ndarray:
    """Log-probabilities of the next byte and of the end after non-empty ``data``, ``[257]``, from :func:`covers`."""
    tokenizer, scores = model.tokenizer, [[-np.inf] for _ in range(SYMBOLS)]
    for ids, rest, weight in covers(lm, model, data):
        if rest:
            scores[rest[0]].append(weight)
            continue
        logp = np.asarray(lm([model.prefix + ids]))[0] + weight
        scores[END] += [float(logp[i]) for i in model.stops]
        for v, token in enumerate(tokenizer.tokens):
            if token and tokenizer.valid((*ids, v)):
                scores[token[0]].append(float(logp[v]))
    total = np.array([log_sum(row) for row in scores])
    return total - log_sum(total)


def _common(a: Ids, b: Ids) -> Ids:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]
