"""Generated series of several variates: a random causal graph, one anomaly in one node, passed on to its children or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.signal import lfilter

from tokenizers_mm.timeseries.synthetic.sample import LARGEST, Sample, finish
from tokenizers_mm.timeseries.synthetic.shapes import WEIGHTS, draw_height, draw_shape
from tokenizers_mm.timeseries.synthetic.univariate import Plain, add, draw_plain
from tokenizers_mm.timeseries.synthetic.waves import choose

LONGEST_PATH = 3
LARGEST_LAG = 7
ACTIVATIONS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (0.9, lambda y: y),
    "sign": (0.028, np.sign),
    "tanh": (0.012, np.tanh),
    "sine": (0.012, np.sin),
    "absolute": (0.012, np.abs),
    "relu": (0.012, lambda y: np.maximum(y, 0)),
    "square": (0.012, np.square),
    "sigmoid": (0.012, lambda y: 1 / (1 + np.exp(-np.clip(y, -50, 50)))),
}


@dataclass(frozen=True)
class Link:
    """How a child follows its parents.

    Args:
        parents: ``(node, lag in steps, weight)``.
        memory: Weight of its own last step.
        constant: Added every step.
        share: Of what it inherits in the mixture with its own series.
        activation: A key of :data:`ACTIVATIONS`.
    """

    parents: tuple[tuple[int, int, float], ...]
    memory: float
    constant: float
    share: float
    activation: str


def draw_multivariate(rng: Generator, n: int, count: int) -> Sample:
    """A random series of ``count`` variates and ``n`` steps with one anomaly.

    Raises:
        Rejected: If the anomaly does not fit or changes nothing.
    """
    plain = [draw_plain(rng, n) for _ in range(count)]
    links = draw_links(rng, count)
    node, endogenous = int(rng.integers(count)), bool(rng.random() < 0.5)
    kind = choose(rng, WEIGHTS)
    scale = _unit(plain[node].values)  # heights in the units in which the node enters the graph
    shape = draw_shape(
        rng, kind, n, draw_height(rng, kind, plain[node].base / scale, plain[node].deviation / scale, 2.0)
    )
    start = int(rng.integers(n))
    delta, labels = np.zeros(n), np.zeros(n, bool)
    add(shape, start, delta, labels)
    own = np.stack([_centred(p.values) for p in plain])
    normal = propagate(own, links)
    if endogenous:
        disturbed = own.copy()
        disturbed[node] += delta
        series = propagate(disturbed, links, normal)
        labels[start : start + len(shape) + _delay(links, node)] = True
    else:
        series = normal.copy()
        series[node] += delta
    return finish(
        series, normal, labels, _attributes(plain, links, node, endogenous, [kind, start, start + len(shape)])
    )


def draw_edges(rng: Generator, count: int) -> list[tuple[int, int]]:
    """Edges of a random directed graph without cycles whose paths are at most :data:`LONGEST_PATH` long."""
    if count == 2:
        wanted = 1
    elif count <= 6:
        wanted = int(rng.integers(count - 1, count + 2))
    else:
        wanted = round(count * rng.uniform(0.8, 1.2))
    level = rng.integers(0, LONGEST_PATH + 1, count)
    level[rng.permutation(count)[:2]] = [0, 1]  # at least one edge is possible
    possible = [(i, j) for i in range(count) for j in range(count) if level[i] < level[j]]
    chosen = rng.permutation(len(possible))[:wanted]
    return sorted(possible[k] for k in chosen)


def draw_links(rng: Generator, count: int) -> dict[int, Link]:
    """By child, its parents first: how it follows them."""
    edges = draw_edges(rng, count)
    links = {}
    for child in _order(edges, count):
        parents = tuple(
            (i, int(rng.integers(LARGEST_LAG + 1)), float(rng.uniform(-2, 2))) for i, j in edges if j == child
        )
        if parents:
            activation = choose(rng, {name: weight for name, (weight, _) in ACTIVATIONS.items()})
            memory, constant, share = rng.uniform(-0.8, 0.8), rng.uniform(-3, 3), rng.uniform(0.2, 0.6)
            links[child] = Link(parents, float(memory), float(constant), float(share), activation)
    return links


def _order(edges: list[tuple[int, int]], count: int) -> list[int]:
    """Nodes with every parent before its children."""
    depth = [0] * count
    for _ in range(LONGEST_PATH):
        for i, j in edges:
            depth[j] = max(depth[j], depth[i] + 1)
    return sorted(range(count), key=lambda node: (depth[node], node))


def propagate(own: np.ndarray, links: dict[int, Link], undisturbed: np.ndarray | None = None) -> np.ndarray:
    """Series ``[C, N]`` after every child has mixed in its parents.

    Args:
        own: Each node's own series.
        links: By child, parents first.
        undisturbed: The result without the anomaly, by which what a child inherits is centred and scaled, so that an anomaly
            shifts no other step; None for the result itself.
    """
    out = own.copy()
    plain = out if undisturbed is None else undisturbed
    for child, link in links.items():
        raw, reference = _inherited(out, link), _inherited(plain, link)
        mean = reference.mean()
        unit = max(float(np.abs(reference - mean).max()) / LARGEST, 1.0)
        out[child] = link.share * (raw - mean) / unit + (1 - link.share) * own[child]
    return out


def _inherited(series: np.ndarray, link: Link) -> np.ndarray:
    drive = np.full(series.shape[1], link.constant)
    for parent, lag, weight in link.parents:
        drive += weight * np.concatenate([np.full(lag, series[parent, 0]), series[parent, : series.shape[1] - lag]])
    return ACTIVATIONS[link.activation][1](lfilter([1.0], [1.0, -link.memory], drive))


def _delay(links: dict[int, Link], node: int) -> int:
    """Most steps that the node's anomaly takes to reach a descendant."""
    delay: dict[int, int] = {node: 0}
    for child, link in links.items():
        arriving = [delay[parent] + lag for parent, lag, _ in link.parents if parent in delay]
        if arriving:
            delay[child] = max(arriving)
    return max(delay.values())


def _unit(values: np.ndarray) -> float:
    return max(float(np.abs(values - values.mean()).max()) / LARGEST, 1.0)


def _centred(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / _unit(values)


def _attributes(plain: list[Plain], links: dict[int, Link], node: int, endogenous: bool, anomaly: list) -> dict:
    return {
        "variates": [p.attributes for p in plain],
        "edges": [[parent, child, lag] for child, link in links.items() for parent, lag, _ in link.parents],
        "node": node,
        "endogenous": endogenous,
        "anomalies": [anomaly],
    }
