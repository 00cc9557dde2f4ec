"""HAT written out word by word and head by head, from state dicts alone: slow, and without any of the code that it checks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

State = dict[str, Tensor]


def norm(x: Tensor, weight: Tensor | None) -> Tensor:
    y = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return y if weight is None else y * weight


def turn(x: Tensor, position: int, base: float) -> Tensor:
    """One head's vector at one position, as complex numbers."""
    half = len(x) // 2
    angles = torch.tensor([position * base ** (-i / half) for i in range(half)])
    turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half), angles)
    return torch.cat([turned.real, turned.imag])


def attend(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    scores = torch.stack([q @ k / math.sqrt(len(q)) for k in keys]).softmax(0)
    return sum((s * v for s, v in zip(scores, values, strict=True)), torch.zeros_like(values[0]))


def block(
    state: State, name: str, x: Tensor, heads: int, kv_heads: int, sees: list[list[int]], base: float = 1e4
) -> Tensor:
    """``x [n, d]`` through a block; step i sees the steps ``sees[i]``, whose positions are their indices."""
    w = {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
    h = norm(x, w["attention_norm.weight"])
    q, k, v = ((h @ w[f"attention.{part}.weight"].T) for part in ("query", "key", "value"))
    width = q.shape[1] // heads
    out = []
    for i in range(len(x)):
        row = []
        for head in range(heads):
            kv = head * kv_heads // heads
            part, shared = slice(head * width, (head + 1) * width), slice(kv * width, (kv + 1) * width)
            keys = [turn(norm(k[j, shared], w.get("attention.key_norm.weight")) if "attention.key_norm.weight" in w else k[j, shared], j, base) for j in sees[i]]  # fmt: skip # noqa: E501
            query = (
                norm(q[i, part], w["attention.query_norm.weight"]) if "attention.query_norm.weight" in w else q[i, part]
            )
            row.append(attend(turn(query, i, base), keys, [v[j, shared] for j in sees[i]]))
        out.append(torch.cat(row))
    x = x + torch.stack(out) @ w["attention.out.weight"].T
    h = norm(x, w["mlp_norm.weight"])
    gate = h @ w["mlp.gate.weight"].T
    return x + (gate * gate.sigmoid() * (h @ w["mlp.up.weight"].T)) @ w["mlp.down.weight"].T


def stack(
    state: State, name: str, x: Tensor, heads: int, kv_heads: int, sees: list[list[int]], base: float = 1e4
) -> Tensor:
    layers = len({key.split(".")[2] for key in state if key.startswith(f"{name}.blocks.")})
    for layer in range(layers):
        x = block(state, f"{name}.blocks.{layer}.", x, heads, kv_heads, sees, base)
    return norm(x, state[f"{name}.norm.weight"]) if f"{name}.norm.weight" in state else x


def causal(n: int, window: int | None = None) -> list[list[int]]:
    return [[j for j in range(i + 1) if window is None or i - j < window] for i in range(n)]


def paper_nats(state: State, words: list[bytes], heads: int, backbone_heads: int) -> list[float]:
    """Cost of each prediction of one document: bytes of each word, then its end (but the last word's)."""
    table, vectors = state["embedding.weight"], []
    for word in words:
        x = table[[0xC1, *word]]
        y = stack(state, "encoder", x, heads, heads, [list(range(len(x)))] * len(x))
        vectors.append(y[0] @ state["to_word.weight"].T)
    features = stack(state, "backbone", torch.stack(vectors), backbone_heads, backbone_heads, causal(len(words)))
    costs = []
    for i, word in enumerate(words):
        guide = state["first"] if i == 0 else features[i - 1] @ state["to_byte.weight"].T
        x = torch.cat([guide[None] + table[0xF5], table[list(word)]])
        logits = stack(state, "decoder", x, heads, heads, causal(len(x))) @ state["head.weight"].T
        targets = [*word, 0xC1] if i + 1 < len(words) else [*word]
        costs += [-float(row.log_softmax(-1)[target]) for row, target in zip(logits, targets, strict=False)]
    return costs


def tfree_logits(state: State, words: list[bytes], sizes: dict[str, int], base: float) -> Tensor:
    """Of the byte after each of one document, the decoder's cross-attention as published: queries, keys and one key each."""
    data = b"".join(words)
    heads, window = sizes["heads"], sizes["window"]
    h = stack(state, "encoder", state["embedding.weight"][list(data)], heads, heads, causal(len(data), window), base)
    pool = {key.removeprefix("connector."): value for key, value in state.items() if key.startswith("connector.")}
    vectors, start, of_byte = [], 0, []
    width = len(pool["latent"]) // sizes["connector_heads"]
    for i, word in enumerate(words):
        q = pool["query.weight"] @ pool["latent"]
        k, v = (h[start : start + len(word)] @ pool[f"{part}.weight"].T for part in ("key", "value"))
        row = []
        for head in range(sizes["connector_heads"]):
            part = slice(head * width, (head + 1) * width)
            qn = norm(q[part], pool["query_norm.weight"]) if "query_norm.weight" in pool else q[part]
            kn = [norm(x[part], pool["key_norm.weight"]) if "key_norm.weight" in pool else x[part] for x in k]
            keys = [turn(x, start + j, base) for j, x in enumerate(kn)]
            row.append(attend(turn(qn, i, base), keys, [x[part] for x in v]))
        vectors.append(pool["out.weight"] @ torch.cat(row))
        start += len(word)
        of_byte += [i] * len(word)
    features = stack(
        state,
        "backbone",
        torch.stack(vectors),
        sizes["backbone_heads"],
        sizes["backbone_kv_heads"],
        causal(len(words)),
        base,
    )
    guides = torch.cat([state["first"][None], features[:-1]])
    z = h
    for layer in range(sizes["decoder_layers"]):
        z = z + torch.stack(
            [cross(state, f"guides.{layer}.", row, guides[w], heads) for row, w in zip(z, of_byte, strict=True)]
        )
        z = block(state, f"decoder.blocks.{layer}.", z, heads, heads, causal(len(data), window), base)
    return norm(z, state["norm.weight"]) @ state["head.weight"].T


def cross(state: State, name: str, z: Tensor, guide: Tensor, heads: int) -> Tensor:
    w = {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
    q = w["unused.query.weight"] @ norm(z, w["unused.byte_norm.weight"])
    kv = norm(guide, w["norm.weight"])
    k, v = w["unused.key.weight"] @ kv, w["value.weight"] @ kv
    width = len(q) // heads
    parts = [slice(i * width, (i + 1) * width) for i in range(heads)]
    return w["out.weight"] @ torch.cat([attend(q[part], [k[part]], [v[part]]) for part in parts])
