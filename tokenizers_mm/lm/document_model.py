"""A :class:`TokenLM` as a model of one item's ids: the item is a document of its own, and its grid is known beforehand.

What the grid says costs nothing: where rows and items end is not drawn. Steps are computed one by one with cached keys and
values, so that the same ids give the same bits of every probability when a file is written and when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tokenizers_mm.lm.choice import Choice
from tokenizers_mm.lm.grammar import annotate
from tokenizers_mm.lm.predicts import Predicts
from tokenizers_mm.lm.stream import Stream
from tokenizers_mm.lm.token_lm import TokenLM
from tokenizers_mm.tokens import Tokens, TokenSpec
from tokenizers_mm.weights import digest


class DocumentModel:
    """What a :class:`TokenLM` predicts of items of any of its streams.

    Args:
        network: The language model; put into evaluation mode.
        label: The class that items are taken to be of, where it has classes; None for any.
    """

    def __init__(self, network: TokenLM, label: int | str | None = None) -> None:
        self.network, self.label = network.eval(), label
        self.fingerprint = digest(type(network).__name__, {**network.config, "label": label}, network.state_dict())
        self.num_parameters = sum(p.numel() for p in network.parameters())

    def coding_order(self, spec: TokenSpec, shape: Sequence[int]) -> np.ndarray:
        """Ids as the stream's pattern writes them: int64 ``[T * Q]``."""
        stream = self.stream(spec)
        plan = self.network.vocabulary.plan(stream.name, shape)
        codes = plan.step * self.network.vocabulary.lanes + plan.lane
        return stream.grid_of(codes).flatten().argsort().numpy()

    def start(self, spec: TokenSpec, shape: Sequence[int]) -> Writing:
        """An item of which nothing is known."""
        return Writing(self, self.stream(spec), tuple(shape))

    def nll(self, tokens: Tokens) -> Tensor:
        """Nats of each id given those before it, float64 ``[B, T, Q]``, with a share for where rows and items end; 0 in the
        padding."""
        labels = None if self.label is None else [self.label] * len(tokens)
        return self.network.score(tokens, self.stream(tokens.spec).name, labels).double().cpu()

    def stream(self, spec: TokenSpec) -> Stream:
        """The stream of tokens of a spec.

        Raises:
            ValueError: If there is none, or there are several.
        """
        found = [stream for stream in self.network.vocabulary.streams if stream.spec == spec]
        if len(found) != 1:
            names = ", ".join(stream.name for stream in found or self.network.vocabulary.streams)
            raise ValueError(
                f"the language model must have one stream of tokens of spec {spec.fingerprint}, got {len(found)} of {names}"
            )
        return found[0]


def predictor(model: Predicts | nn.Module) -> Predicts:
    """A language model as one that predicts the ids of an item: itself, or what a network says of items on their own.

    Raises:
        TypeError: If it is no language model of tokens.
    """
    if isinstance(model, TokenLM):
        return DocumentModel(model)
    if not isinstance(model, Predicts):
        raise TypeError(f"model must be a language model of tokens, got {type(model).__name__}")
    return model


class Writing:
    """An item that is being written, and what may come next.

    Args:
        model: Which model predicts it.
        stream: What it is of.
        shape: Its grid.
    """

    def __init__(self, model: DocumentModel, stream: Stream, shape: tuple[int, ...]) -> None:
        self.network, vocabulary = model.network, model.network.vocabulary
        plan = vocabulary.plan(stream.name, shape)
        opening = vocabulary.opening(model.label)
        self._ids = torch.cat([opening, plan.ids])[None]
        self._about = annotate(vocabulary, self._ids)
        self._coming, self._positions = self._about.kinds[:, 1:, 0], self.network._positions(self._about)
        cells = torch.stack([plan.step + len(opening), plan.lane], dim=-1)
        order = model.coding_order(stream.spec, shape)
        places = torch.stack([stream.grid_of(cells[..., i]).flatten() for i in range(2)], dim=1)
        self._cells = places[order].tolist()  # step and lane of each code, in the order of coding
        self._columns = (order % stream.spec.num_codebooks).tolist()
        self._codes = [vocabulary.codes(stream.name, q) for q in range(stream.spec.num_codebooks)]
        self._cache = self.network.transformer.cache(1, self._ids.shape[1])
        self._features = torch.empty(0)  # n, D: of the steps read last
        self._at = 0

    @torch.no_grad()
    def probabilities(self) -> np.ndarray:
        """Of each id of the next codebook, float64 ``[K]``."""
        step, lane = self._cells[self._at]
        while self._cache.length < step:
            self._advance()
        features = self._features[step - self._cache.length - 1, None]  # of the step before
        choice = Choice(codes=self._codes[self._columns[self._at]])
        if self.network.depth is None:
            logits = choice.logits(features, self.network.head.weight)[0]
        else:
            # a cell without a code yet changes none before it
            known = self._ids[:, step : step + 1].to(self.network.device)
            logits = self.network.depth(features[None], known)[0, 0, lane, self.network.depth.of(choice)]
        return logits.double().softmax(dim=0).cpu().numpy()

    def push(self, code: int) -> None:
        """Add an id."""
        step, lane = self._cells[self._at]
        self._ids[0, step, lane] = code + self._codes[self._columns[self._at]].start
        self._at += 1

    def _advance(self) -> None:
        """Read one more step, or what a scale is told from."""
        at, group, device = self._cache.length, self._about.group, self.network.device
        count = 1 if group is None else int((group[0] == group[0, at]).sum())
        now = slice(at, at + count)
        read = self._about.read(self._ids)[:, now]
        x = self.network.embed(read.to(device), self._coming[:, now].to(device))
        groups = None if group is None or count == 1 else group[:, now].to(device)
        positions = self._positions[:, now].to(device)
        self._features = self.network.transformer(x, None, self._cache, positions, groups=groups)[0]
