"""What a language model makes of merged tokens: it reads a merged prefix, and base tokens after it are scored.

The setting of Feher, Vulić and Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", ACL 2025, where
prompts are merged and answers are not. A text scored in a vocabulary merged from that very text would be known to it in part;
what follows the prefix is not.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenizers_mm.checks import at_least
from tokenizers_mm.text.base_models import BaseLM
from tokenizers_mm.text.corpus import Pieces
from tokenizers_mm.text.embedders import TokenEmbedder
from tokenizers_mm.text.model import costs
from tokenizers_mm.text.retrofit import Read, divergence, texts_of
from tokenizers_mm.text.sampled import Sampled, merge_prefixes

UNMERGED = "unmerged"
MEASURES = ("bits_per_byte", "accuracy", "divergence")


@dataclass(frozen=True)
class Budget:
    """One number of merges.

    Args:
        merges: Pairs merged at most in each batch; None for all that the rule allows.
        prefix_tokens: Tokens of all prefixes then.
        bits_per_byte: Of what follows, for each embedder.
        accuracy: Share of the base tokens that follow told right, for each embedder.
        divergence: Within the prefixes, of what the model says after tokens from what it says after their parts, in nats.
    """

    merges: int | None
    prefix_tokens: int
    bits_per_byte: dict[str, float]
    accuracy: dict[str, float]
    divergence: dict[str, float]


class RandomEmbeddings:
    """Rows with each dimension's mean and deviation among the base's, the same each time for the same token.

    Args:
        inputs: Embeddings of the base tokens ``[V, D]``.
    """

    def __init__(self, inputs: Tensor) -> None:
        self.mean, self.std = inputs.mean(dim=0), inputs.std(dim=0)

    def __call__(self, tokens: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """See :class:`~tokenizers_mm.text.embedders.TokenEmbedder`."""
        rows = [self.std.cpu().new_empty(0, len(self.std))]
        rows += [torch.randn(1, len(self.std), generator=torch.Generator().manual_seed(zlib.crc32(t))) for t in tokens]
        found = self.mean + self.std * torch.cat(rows).to(self.std.device)
        return found, found


def merge_eval(
    base: BaseLM,
    embedders: Mapping[str, TokenEmbedder],
    documents: Sequence[bytes],
    merges: Sequence[int | None] = (10, 50, 200, None),
    *,
    share: float = 0.5,
    batch_size: int = 16,
    length: int = 512,
) -> list[Budget]:
    """Bits per byte of what follows a prefix, for each number of merges and each way to embed them.

    Args:
        base: The model.
        embedders: By name.
        documents: UTF-8; cut into rows at lines.
        merges: Most pairs in each batch, which the vocabulary is of; None for all.
        share: How much of each row is its prefix.
        batch_size: Rows that are merged together.
        length: Most bytes of a row.

    Returns:
        First the budget of no merges, with ``"unmerged"`` alone, then one for each of ``merges``.

    Raises:
        ValueError: If no row has tokens after its prefix, there is no embedder, or a number is out of range.
    """
    at_least(1, batch_size=batch_size, length=length)
    if not embedders:
        raise ValueError("embedders must name at least one, got none")
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    texts = list(texts_of([row.tolist() for row in Pieces(documents, length)]))  # type: ignore[attr-defined]
    batches = [texts[at : at + batch_size] for at in range(0, len(texts), batch_size)]
    return [
        _budget(base, embedders if budget != 0 else {UNMERGED: RandomEmbeddings(base.inputs)}, batches, budget, share)
        for budget in (0, *merges)
    ]


@torch.no_grad()
def _budget(
    base: BaseLM,
    embedders: Mapping[str, TokenEmbedder],
    batches: Sequence[Sequence[str]],
    merges: int | None,
    share: float,
) -> Budget:
    sums = {kind: dict.fromkeys(embedders, 0.0) for kind in ("bits", "right", "nats")}
    size = count = tokens = places = 0
    for texts in batches:
        plain, sampled = (merge_prefixes(base, texts, [share] * len(texts), most) for most in (0, merges))
        taught = Read.of(base, plain, base.inputs[:0])
        beginnings = replace(sampled, rows=[row[:n] for row, n in zip(sampled.rows, sampled.prefix, strict=True)])
        for name, embed in embedders.items():
            read = Read.of(base, sampled, embed(sampled.tokens)[0])
            nats, hit = costs(read.continuation_logits(base), read.told[read.after])
            off = divergence(base, plain, taught, beginnings, read)
            sums["bits"][name] += float(nats.double().sum()) / math.log(2)
            sums["right"][name] += int(hit.sum())
            sums["nats"][name] += float(off.double().sum())
        size, places = size + _bytes_after(base, sampled), places + len(off)
        tokens += sum(sampled.prefix)
        count += sum(map(len, sampled.rows)) - sum(sampled.prefix)
    if not size:
        raise ValueError("documents must have rows with text after their prefixes, got none")
    means = (
        {name: value / total for name, value in sums[kind].items()}
        for kind, total in (("bits", size), ("right", count), ("nats", max(places, 1)))
    )
    return Budget(merges, tokens, *means)


def _bytes_after(base: BaseLM, sampled: Sampled) -> int:
    pairs = zip(sampled.rows, sampled.prefix, strict=True)
    return sum(len(base.pieces.tokens[i]) for row, prefix in pairs for i in row[prefix:])


def mean_of(found: Sequence[Budget]) -> Budget:
    """The mean of a number of merges over several languages, tokens added up."""
    names = found[0].bits_per_byte

    def mean(key: str) -> dict[str, float]:
        return {name: sum(getattr(each, key)[name] for each in found) / len(found) for name in names}

    return Budget(found[0].merges, sum(b.prefix_tokens for b in found), *map(mean, MEASURES))
