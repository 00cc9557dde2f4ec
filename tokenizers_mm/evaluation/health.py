"""Token health: how well a codec's tokens use their codebooks, from the tokens alone.

All entropies are in bits and estimated from counts, so they are too low where ids are few: the estimate of H misses
about (used - 1) / (2 N ln 2) bits (Miller, 1955), which ``entropy_corrected`` adds back. 50,000 ids per codebook of a few
thousand entries are a fair sample; the conditional entropy needs far more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenizers_mm import bitstream
from tokenizers_mm.tokens import Tokens


@dataclass(frozen=True)
class CodebookHealth:
    """Use of one codebook.

    Args:
        size: Entries K.
        count: Ids N that were seen.
        used: Entries that occur.
        utilisation: used / K; at most N / K.
        dead_fraction: 1 - utilisation.
        entropy: H of the ids' distribution, bits per id.
        entropy_corrected: H with the Miller-Madow correction, at most log2 K.
        perplexity: 2^H, the number of equally likely ids with that entropy.
        normalised_perplexity: 2^H / K.
        conditional_entropy: H of an id given the one before it along the last axis of the grid; None without neighbours.
        repetition: Share of ids equal to the one before; None without neighbours.
        counts: How often each used entry occurs, most frequent first.
        coverage: Dead codes over time: pairs of (ids seen so far, share of entries seen so far), ids in powers of two. A curve
            that still rises at its end says that ``dead_fraction`` is a matter of sample size.
        mutual_information: Bits that an id shares with the id of the codebook before it in the same step, what residual
            codebooks repeat; None for the first. Biased upwards by about used * used / (2 N ln 2) where pairs are few.
    """

    size: int
    count: int
    used: int
    utilisation: float
    dead_fraction: float
    entropy: float
    entropy_corrected: float
    perplexity: float
    normalised_perplexity: float
    conditional_entropy: float | None
    repetition: float | None
    counts: tuple[int, ...]
    coverage: tuple[tuple[int, float], ...]
    mutual_information: float | None = None


@dataclass(frozen=True)
class TokenHealth:
    """Health of a set of tokens.

    Args:
        items: Signals.
        steps: Steps of all of them.
        codebooks: One per column of a step.
        nominal_bits: Steps times the log2 of the codebooks' sizes.
        ideal_bits: What an ideal entropy coder that knows each column's distribution would need.
        real_bytes: Size of the set as one ``.mmt`` file, header and side information included.
    """

    items: int
    steps: int
    codebooks: tuple[CodebookHealth, ...]
    nominal_bits: float
    ideal_bits: float
    real_bytes: int

    def mean(self, name: str) -> float:
        """Mean over codebooks of one of their numbers."""
        return sum(getattr(book, name) for book in self.codebooks) / len(self.codebooks)


def token_health(tokens: Tokens) -> TokenHealth:
    """Measure the tokens of an evaluation set, all items in one batch (:meth:`Tokens.cat` joins them).

    Raises:
        ValueError: If there is no token.
    """
    steps = int(tokens.lengths.sum())
    if steps == 0:
        raise ValueError(f"tokens must hold at least one step, got {tokens!r}")
    ids = tokens.ids[tokens.mask].cpu()  # steps, Q
    rows = [tokens.grid(item).cpu() for item in range(len(tokens)) if tokens.lengths[item]]
    before = torch.cat([grid[..., :-1, :].flatten(0, -2) for grid in rows])
    after = torch.cat([grid[..., 1:, :].flatten(0, -2) for grid in rows])
    books = tuple(
        _codebook(size, ids[:, q], before[:, q], after[:, q], ids[:, q - 1] if q else None)
        for q, size in enumerate(tokens.spec.codebook_sizes)
    )
    return TokenHealth(
        items=len(tokens),
        steps=steps,
        codebooks=books,
        nominal_bits=float(tokens.bits.sum()),
        ideal_bits=sum(book.count * book.entropy for book in books),
        real_bytes=len(bitstream.dumps(tokens)),
    )


def _codebook(size: int, ids: Tensor, before: Tensor, after: Tensor, level_before: Tensor | None) -> CodebookHealth:
    counts = ids.unique(return_counts=True)[1]
    entropy, used = _entropy(counts), len(counts)
    neighbours = len(after) > 0
    return CodebookHealth(
        size=size,
        count=len(ids),
        used=used,
        utilisation=used / size,
        dead_fraction=1 - used / size,
        entropy=entropy,
        entropy_corrected=min(math.log2(size), entropy + (used - 1) / (2 * len(ids) * math.log(2))),
        perplexity=2**entropy,
        normalised_perplexity=2**entropy / size,
        conditional_entropy=_conditional_entropy(before, after) if neighbours else None,
        repetition=float((before == after).double().mean()) if neighbours else None,
        counts=tuple(counts.sort(descending=True).values.tolist()),
        coverage=_coverage(ids, size),
        mutual_information=None
        if level_before is None
        else max(0.0, entropy - _conditional_entropy(level_before, ids)),
    )


def _coverage(ids: Tensor, size: int) -> tuple[tuple[int, float], ...]:
    """Share of entries seen after 1, 2, 4, ... and all ids."""
    entries, inverse = ids.unique(return_inverse=True)
    first = (
        torch.full((len(entries),), len(ids)).scatter_reduce(0, inverse, torch.arange(len(ids)), "amin").sort().values
    )
    points = [2**k for k in range((len(ids) - 1).bit_length())] + [len(ids)]
    return tuple((n, int(torch.searchsorted(first, n)) / size) for n in points)


def _entropy(counts: Tensor) -> float:
    """Entropy in bits of a distribution given as positive counts."""
    p = counts.double() / counts.sum()
    return max(0.0, float(-(p * p.log2()).sum()))


def _conditional_entropy(before: Tensor, after: Tensor) -> float:
    """H(after | before) in bits, as H(before, after) - H(before)."""
    _, first, first_counts = before.unique(return_inverse=True, return_counts=True)
    seconds, second = after.unique(return_inverse=True)
    pairs = (first * len(seconds) + second).unique(return_counts=True)[1]  # ranks, not ids: no overflow
    return max(0.0, _entropy(pairs) - _entropy(first_counts))
