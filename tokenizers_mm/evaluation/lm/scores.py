"""What a language model says of held-out tokens: bits of their ids, and the size of files that it codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from tokenizers_mm import bitstream
from tokenizers_mm.evaluation.lm.sources import batches, extent
from tokenizers_mm.evaluation.report import Summary
from tokenizers_mm.evaluation.summarise import rate_unit
from tokenizers_mm.lm.compression import LMCoder
from tokenizers_mm.lm.document_model import DocumentModel
from tokenizers_mm.lm.predicts import Predicts
from tokenizers_mm.scale.columns import Label
from tokenizers_mm.tokens import Tokens


@dataclass(frozen=True)
class Files:
    """The first held-out items as one file, heads and side information included.

    Args:
        items: How many.
        bits_per_id: With the model.
        plain_bits_per_id: With the ids coded by how often each occurs in them.
        ideal_bits_per_id: What the model says that the ids take, without anything else.
    """

    items: int
    bits_per_id: float
    plain_bits_per_id: float
    ideal_bits_per_id: float


@dataclass(frozen=True)
class Bits:
    """Bits of held-out ids under a model.

    Args:
        per_id: Mean over all ids.
        ci95: Half width of the 95 % interval of the mean over items (Student's t); None for one item.
        per_column: Of each codebook.
        rate: Bits per second (kbit/s), pixel, byte: ``rate_unit`` says of what; None where items do not say how long they are.
        rate_unit: See above.
    """

    per_id: float
    ci95: float | None
    per_column: tuple[float, ...]
    rate: float | None
    rate_unit: str


def measure_bits(model: Predicts, items: Sequence[Tokens], labels: Sequence[Label] | None = None) -> Bits:
    """Bits of items of one spec, teacher-forced.

    Args:
        model: Whose.
        items: The items.
        labels: Their classes, where the model is to be told; it is a :class:`DocumentModel` then.

    Raises:
        ValueError: If the model knows no such class.
    """
    spec = items[0].spec
    columns = torch.zeros(spec.num_codebooks, dtype=torch.float64)
    of_items: list[float] = []
    for batch in batches(list(items)):
        done = len(of_items)
        found = _nats(model, batch, labels and labels[done : done + len(batch)]) / math.log(2)
        columns += found.sum(dim=(0, 1))
        counts = (batch.lengths * spec.num_codebooks).tolist()
        of_items += [bits / count for bits, count in zip(found.sum(dim=(1, 2)).tolist(), counts, strict=True) if count]
    steps, total = sum(int(item.lengths) for item in items), float(columns.sum())
    return Bits(
        per_id=total / (steps * spec.num_codebooks),
        ci95=Summary.of(of_items).ci95,
        per_column=tuple((columns / steps).tolist()),
        rate=rate_of(total, items),
        rate_unit=rate_unit(spec),
    )


def _nats(model: Predicts, batch: Tokens, labels: Sequence[Label] | None) -> Tensor:
    if labels is None:
        return model.nll(batch)
    model = cast(DocumentModel, model)
    return model.network.score(batch, model.stream(batch.spec).name, labels).double().cpu()


def rate_of(bits: float, items: Sequence[Tokens]) -> float | None:
    """Bits of items in their unit."""
    try:
        extents = sum(map(extent, items))
    except ValueError:
        return None
    return bits / extents / (1000 if rate_unit(items[0].spec) == "kbit/s" else 1) if extents else None


def measure_files(model: Predicts, items: Sequence[Tokens]) -> Files:
    """Write items to a file with the model and without; what comes back is compared.

    Raises:
        BitstreamError: If it is not what was written.
    """
    tokens, coder = Tokens.cat(items), LMCoder(model)
    ids = int(tokens.lengths.sum()) * tokens.spec.num_codebooks
    coded, plain = bitstream.dumps(tokens, coder=coder), bitstream.dumps(tokens)
    if bitstream.loads(coded, coder=coder) != tokens:
        raise bitstream.BitstreamError("the model's file does not give back the tokens")
    ideal = float(sum(model.nll(batch).sum() for batch in batches(list(items)))) / math.log(2)
    return Files(len(items), 8 * len(coded) / ids, 8 * len(plain) / ids, ideal / ids)
