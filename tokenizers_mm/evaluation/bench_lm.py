"""How fast the decoder generates and trains, beside ``transformers``' Llama with the same weights, round by round in turns.

Touvron et al., "LLaMA", 2023, is what both compute. Seconds are counted twice: those on the clock, and those of this process's
processors, which do not depend on what else the machine does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizers_mm.lm.backbone import DecoderLM
from tokenizers_mm.lm.output import token_nll

_NAMES = {
    "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj", "attention.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
}  # fmt: skip
_BUFFER = 2**28
"""Bytes that are read to measure memory: more than any processor caches."""


def twins(dim: int, layers: int, heads: int, hidden: int, vocabulary_size: int) -> tuple[DecoderLM, nn.Module]:
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
    return ours, theirs


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


def generation(
    ours: DecoderLM, theirs: nn.Module, *, batch: int, prompt: int, steps: int, rounds: int
) -> dict[str, Any]:
    """Greedy continuations by both, cached; what share of the ids is the same, and of the bound by memory that ours reaches."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(ours.head.out_features, (batch, prompt), generator=generator)
    options = {
        "do_sample": False,
        "max_new_tokens": steps,
        "min_new_tokens": steps,
        "attention_mask": torch.ones_like(ids),
    }
    runs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours.generate(ids, steps, temperature=0)[:, 0],
        "transformers": lambda: theirs.generate(ids, **options)[:, prompt:],  # type: ignore[operator]
    }
    bandwidth = read_bandwidth()
    first, found = race(runs, rounds)
    same = (first["ours"] == first["transformers"]).double().mean()
    weights = sum(p.numel() for p in ours.transformer.parameters()) + ours.head.weight.numel()
    cache = 2 * len(ours.transformer.blocks) * batch * (prompt + steps / 2) * ours.transformer.dim
    bound = 4 * (weights + cache) / bandwidth
    step = found["processor_seconds"]["ours"] / steps
    return {
        **found, "batch": batch, "prompt": prompt, "steps": steps, "same_ids": float(same),
        "tokens_per_second": {name: batch * steps / each for name, each in found["seconds"].items()},
        "read_bytes_per_processor_second": bandwidth, "share_of_memory_bound": bound / step,
    }  # fmt: skip


def training(ours: DecoderLM, theirs: nn.Module, *, batch: int, length: int, rounds: int) -> dict[str, Any]:
    """Loss and gradients of both, the optimiser left out."""
    ids = torch.randint(ours.head.out_features, (batch, length), generator=torch.Generator().manual_seed(0))

    def our_step() -> Tensor:
        return _backward(ours, token_nll(ours(ids).logits, ids).mean())

    def their_step() -> Tensor:
        logits = theirs(input_ids=ids, use_cache=False).logits
        return _backward(theirs, F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))

    runs = {"ours": our_step, "transformers": their_step}
    for model in (ours, theirs):
        model.train()
    first, found = race(runs, rounds)
    difference = float((first["ours"] - first["transformers"]).abs())
    for model in (ours, theirs):
        model.eval()
    rates = {name: batch * length / each for name, each in found["seconds"].items()}
    flops = batch * length * ours.flops_per_token(length, training=True) / found["seconds"]["ours"]
    return {
        **found, "batch": batch, "length": length, "loss_difference": difference, "tokens_per_second": rates,
        "flops_per_second": flops,
    }  # fmt: skip


def race(runs: dict[str, Callable[[], Tensor]], rounds: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What contenders find in a first run that is not timed; medians of their seconds, in turns, and of the ratio to ours."""
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
        "ratio": _ratios(wall), "processor_ratio": _ratios(processor), "rounds": rounds,
    }  # fmt: skip


def _ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    found = [b / a for a, b in zip(seconds["ours"], seconds["transformers"], strict=True)]
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
