"""Language models compared on the same bytes: bits per byte, words told right, misspelled text, a language that is new to them.

Measures and protocol of "Hierarchical Autoregressive Transformers" (Neitemeier et al., ICLR 2025): models that cost about as many
operations to train, a word right only if all predictions that make it up are, perturbed strings the same for all.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch.optim import AdamW
from torch.utils.data import DataLoader

from tokenizers_mm.text.conditions import PERTURBATIONS
from tokenizers_mm.text.corpus import Pieces, Windows, collate
from tokenizers_mm.text.flops import training_flops
from tokenizers_mm.text.model import TextLM
from tokenizers_mm.text.rows import END, Rows, cutter
from tokenizers_mm.text.segmenters import segmenter

_ROWS = 8


def compare(model: TextLM, documents: Sequence[bytes], *, length: int = 512, seed: int = 0) -> dict[str, float]:
    """What a model makes of documents.

    Args:
        model: In evaluation mode.
        documents: UTF-8.
        length: Bytes that it sees at a time; documents are cut at lines.
        seed: Of the perturbations.

    Returns:
        ``bits_per_byte``, ``word_accuracy`` of words cut at white space, ``bits_per_byte_<perturbation>`` of the perturbed
        documents, ``training_flops_per_byte`` and ``parameters``.
    """
    clean = measure(model, documents, length)
    for name, change in PERTURBATIONS.items():
        changed = [change(text.decode("utf-8"), seed + i).encode("utf-8") for i, text in enumerate(documents)]
        clean[f"bits_per_byte_{name}"] = measure(model, changed, length)["bits_per_byte"]
    signal = next(iter(_batches(documents, length)))
    clean["training_flops_per_byte"] = training_flops(model, signal) / int((signal >= 0).sum())
    clean["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return clean


@torch.no_grad()
def measure(model: TextLM, documents: Sequence[bytes], length: int = 512) -> dict[str, float]:
    """Bits per byte of text, the ends of documents paid for, and the share of words told right."""
    bits = count = right = words = 0.0
    cut = cutter(segmenter("whitespace"))
    for signal in _batches(documents, length):
        scores = model.score(signal)
        rows = Rows.of(signal, cut)
        bits += float(scores.nats.double().sum()) / math.log(2)
        count += int(((signal >= 0) & (signal != END)).sum())
        real = (rows.lengths > 0) & (rows.ids.gather(1, rows.starts) != END)
        wrong = torch.zeros_like(rows.lengths).scatter_add(1, rows.word, (~scores.right & rows.valid).long())
        right += int(((wrong == 0) & real).sum())
        words += int(real.sum())
    return {"bits_per_byte": bits / count, "word_accuracy": right / max(words, 1)}


def adapt(
    model: TextLM,
    train: Sequence[bytes],
    valid: Sequence[bytes],
    *,
    steps: int = 200,
    every: int = 50,
    batch_size: int = 4,
    length: int = 512,
    lr: float = 1e-3,
    seed: int = 0,
) -> list[dict[str, float]]:
    """A copy of a model trained on with other documents.

    Args:
        model: Left as it is.
        train: Documents to train on.
        valid: Documents that are measured before the first step and after every ``every``.
        steps: Of AdamW.
        every: Steps between measurements.
        batch_size: Rows of a step.
        length: Bytes of a row.
        lr: Constant.
        seed: Of the order, the same for every model.

    Returns:
        ``step``, ``bits_per_byte`` and ``training_flops`` so far for each measurement.
    """
    model = copy.deepcopy(model).train()
    optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    rows = Windows(train, length, seed)
    spent, found = 0, []
    for step in range(steps + 1):
        if step % every == 0:
            bpb = measure(model.eval(), valid, length)["bits_per_byte"]
            found.append({"step": step, "bits_per_byte": bpb, "training_flops": spent})
            model.train()
        if step < steps:
            signal = collate([rows[step * batch_size + i] for i in range(batch_size)])["signal"]
            spent += training_flops(model, signal)
            optimizer.zero_grad()
            model.loss(signal).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return found


def steps_to(found: Sequence[dict[str, float]], bits_per_byte: float) -> float | None:
    """Steps until ``adapt`` got so low, between measurements along a line; None if it never did."""
    for before, after in pairwise(found):
        if after["bits_per_byte"] <= bits_per_byte:
            fall = before["bits_per_byte"] - after["bits_per_byte"]
            share = (before["bits_per_byte"] - bits_per_byte) / fall if fall > 0 else 1.0
            return before["step"] + max(share, 0.0) * (after["step"] - before["step"])
    return None


def speed(model: TextLM, document: bytes, *, generate: int = 1000, rounds: int = 5) -> dict[str, float]:
    """Bytes per second, in processor time of this process: trained on, and written with caches and without.

    Args:
        model: In evaluation mode.
        document: Bytes to train on and to begin with; at least 4,096.
        generate: Bytes written after a prompt of 32.
        rounds: The best of so many counts.
    """
    pieces = Pieces([document], 512)
    rows = collate([pieces[i] for i in range(min(8, len(pieces)))])["signal"]
    count = int((rows >= 0).sum())

    def step() -> None:
        model.zero_grad()
        model.loss(rows).backward()

    step()
    trained = min(_seconds(step) for _ in range(rounds))
    model.zero_grad()
    cached = min(_seconds(lambda: _write(model, document[:32], generate)) for _ in range(2))
    uncached = _seconds(lambda: _reread(model, document[: 32 + generate], 32))
    return {
        "training_bytes_per_second": count / trained,
        "cached_bytes_per_second": generate / cached,
        "uncached_bytes_per_second": generate / uncached,
        "cached_over_uncached": uncached / cached,
    }


@torch.no_grad()
def _reread(model: TextLM, data: bytes, first: int) -> None:
    """Read all that is there before each byte from ``first`` on, as one that writes without caches has to."""
    whole = torch.tensor([list(data)])
    for end in range(first, len(data)):
        model.score(whole[:, :end])


def _write(model: TextLM, prompt: bytes, count: int) -> None:
    """Write ``count`` bytes, the likeliest ones but no document's end."""
    session = model.session([prompt], 2 * count)
    written = 0
    while written < count:
        logits = session.logits.masked_fill(~session.allowed, -torch.inf)
        logits[:, END if logits.shape[1] == 256 else -1] = -torch.inf
        written += len(session.push(logits.argmax(dim=-1))[0])


def _seconds(function: Callable[[], None]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _batches(documents: Sequence[bytes], length: int) -> DataLoader:
    data = Pieces(documents, length)
    return DataLoader(data, _ROWS, collate_fn=lambda rows: collate(rows)["signal"])
