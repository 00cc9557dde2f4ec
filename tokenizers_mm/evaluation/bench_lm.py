"""How fast the decoder generates and trains, beside ``transformers``' Llama with the same weights, round by round in turns.

Touvron et al., "LLaMA", 2023, is what both compute, as they come and compiled by ``torch.compile``. Seconds are counted twice:
those on the clock, and those of this process's processors, which do not depend on what else the machine does.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import DecoderLM
from tokenizers_mm.lm.cross_entropy import linear_cross_entropy

_NAMES = {
    "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj", "attention.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
}  # fmt: skip
_BUFFER = 2**28
"""Bytes that are read to measure memory: more than any processor caches."""


@dataclass(frozen=True)
class Twins:
    """Our decoder and ``transformers``' Llama of the same weights, and whether they are to be timed compiled as well."""

    ours: DecoderLM
    theirs: nn.Module
    compiled: bool = False

    def pairs(self) -> dict[str, tuple[str, str]]:
        """Of each ratio: whose speed it is, and whom it is compared with."""
        plain = {"plain": ("ours", "transformers")}
        if not self.compiled:
            return plain
        compiled = "ours compiled", "transformers compiled"
        return {**plain, "compiled": compiled, "compiled to plain": (compiled[0], "transformers")}


def make_twins(
    dim: int, layers: int, heads: int, hidden: int, vocabulary_size: int, *, compiled: bool = False
) -> Twins:
    """Our decoder and ``transformers``' Llama, in evaluation mode, with the same random weights.

    Raises:
        ImportError: If ``transformers`` is not installed.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = DecoderLM(vocabulary_size, tied=False, dim=dim, layers=layers, heads=heads, hidden=hidden).eval()
    config = LlamaConfig(
        vocab_size=vocabulary_size, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.load_state_dict(llama_weights(ours))
    return Twins(ours, theirs, compiled)


def llama_weights(ours: DecoderLM) -> dict[str, Tensor]:
    """Weights under the keys of ``transformers``' ``LlamaForCausalLM``."""
    state = ours.state_dict()
    names = {
        "model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "transformer.norm.weight",
        "lm_head.weight": "head.weight",
    }  # fmt: skip
    for i in range(len(ours.transformer.blocks)):
        names |= {f"model.layers.{i}.{b}.weight": f"transformer.blocks.{i}.{a}.weight" for a, b in _NAMES.items()}
    return {theirs: state[own] for theirs, own in names.items()}


def generation(twins: Twins, *, batch: int, prompt: int, steps: int, rounds: int) -> dict[str, Any]:
    """Greedy continuations by all, cached; what share of the ids is the same, and of the bound by memory that ours reach."""
    ours = twins.ours
    ids = torch.randint(ours.head.out_features, (batch, prompt), generator=torch.Generator().manual_seed(0))
    options = {
        "do_sample": False,
        "max_new_tokens": steps,
        "min_new_tokens": steps,
        "attention_mask": torch.ones_like(ids),
    }

    def write(model: DecoderLM) -> Tensor:
        return model.generate(ids, steps, temperature=0)[:, 0]

    def peer(model: Any, **cache: str) -> Tensor:
        found: Tensor = model.generate(ids, **options, **cache)[:, prompt:]
        return found

    runs: dict[str, Callable[[], Tensor]] = {"ours": lambda: write(ours), "transformers": lambda: peer(twins.theirs)}
    if twins.compiled:
        quick, theirs = copy.deepcopy(ours), copy.deepcopy(twins.theirs)
        quick.transformer.compile_steps()
        theirs.forward = torch.compile(theirs.forward)
        runs["ours compiled"] = lambda: write(quick)
        runs["transformers compiled"] = lambda: peer(theirs, cache_implementation="static")
    bandwidth = read_bandwidth()
    first, found = race(runs, twins.pairs(), rounds)
    same = {name: float((first["ours"] == ids).double().mean()) for name, ids in first.items() if name != "ours"}
    weights = sum(p.numel() for p in ours.transformer.parameters()) + ours.head.weight.numel()
    cache = 2 * len(ours.transformer.blocks) * batch * (prompt + steps / 2) * ours.transformer.dim
    bound = 4 * (weights + cache) / bandwidth
    shares = {
        name: bound * steps / each for name, each in found["processor_seconds"].items() if name.startswith("ours")
    }
    return {
        **found, "batch": batch, "prompt": prompt, "steps": steps, "same_ids": same,
        "tokens_per_second": {name: batch * steps / each for name, each in found["seconds"].items()},
        "read_bytes_per_processor_second": bandwidth, "share_of_memory_bound": shares,
    }  # fmt: skip


def training(twins: Twins, *, batch: int, length: int, rounds: int) -> dict[str, Any]:
    """Loss and gradients of all, the optimiser left out."""
    ours, theirs = twins.ours, twins.theirs
    ids = torch.randint(ours.head.out_features, (batch, length), generator=torch.Generator().manual_seed(0))
    targets = ids[:, 1:].flatten()

    def our_step(model: DecoderLM) -> Tensor:
        y = model.transformer(model.embed(ids))[:, :-1].flatten(0, 1)
        total = linear_cross_entropy(y, model.head.weight, targets, torch.ones(len(targets)))
        return _backward(model, total / len(targets))

    def their_step(forward: Callable[..., Any]) -> Tensor:
        logits = forward(input_ids=ids, use_cache=False).logits
        return _backward(theirs, F.cross_entropy(logits[:, :-1].flatten(0, 1), targets))

    runs = {"ours": lambda: our_step(ours), "transformers": lambda: their_step(theirs)}
    for model in (ours, theirs):
        model.train()
    if twins.compiled:
        quick, forward = copy.deepcopy(ours), torch.compile(theirs)
        quick.transformer.compile_blocks()
        runs["ours compiled"] = lambda: our_step(quick)
        runs["transformers compiled"] = lambda: their_step(forward)
    first, found = race(runs, twins.pairs(), rounds)
    for model in (ours, theirs):
        model.eval()
    differences = {name: float((first["ours"] - loss).abs()) for name, loss in first.items() if name != "ours"}
    operations = batch * length * ours.flops_per_token(length, training=True)
    return {
        **found, "batch": batch, "length": length, "loss_difference": differences,
        "tokens_per_second": {name: batch * length / each for name, each in found["seconds"].items()},
        "flops_per_second": {name: operations / each for name, each in found["seconds"].items()},
    }  # fmt: skip


def race(
    runs: dict[str, Callable[[], Tensor]], pairs: dict[str, tuple[str, str]], rounds: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What contenders find in a first run that is not timed; medians of their seconds, in turns, and of the ratios of pairs."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    first = {name: run() for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - begin[0])
            processor[name].append(time.process_time() - begin[1])
    return first, {
        "seconds": {name: statistics.median(each) for name, each in wall.items()},
        "processor_seconds": {name: statistics.median(each) for name, each in processor.items()},
        "ratio": {name: _ratio(wall[a], wall[b]) for name, (a, b) in pairs.items()},
        "processor_ratio": {name: _ratio(processor[a], processor[b]) for name, (a, b) in pairs.items()},
        "rounds": rounds,
    }  # fmt: skip


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    found = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def _backward(model: nn.Module, loss: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return loss.detach()


def read_bandwidth(tries: int = 5) -> float:
    """Bytes that a sum over a big buffer reads in a second of a processor, the best of a few."""
    buffer = torch.ones(_BUFFER // 4)
    best = 0.0
    for _ in range(tries):
        begin = time.process_time()
        buffer.sum()
        best = max(best, _BUFFER / (time.process_time() - begin))
    return best
